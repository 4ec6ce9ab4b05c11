import pytest
import torch

from prl.anchors import GroupReference
from prl.config import Sampling
from prl.types import PromptBatch
from tests.helpers.records import answered
from tests.helpers.tiny import LengthJudge


def prompts(number: int) -> PromptBatch:
    ids = torch.ones(number, 1, dtype=torch.long)
    return PromptBatch(ids, ids.bool(), [({"role": "user", "content": "q"},)] * number, [()] * number)


def drawn(number: int, responses: list[str]) -> list[tuple[str, ...]]:
    return GroupReference().anchors_for(prompts(number), responses, None)  # type: ignore[arg-type]  # asks no policy


def test_one_response_of_a_prompt_is_the_anchor_of_all_of_them() -> None:
    responses = [f"{prompt}{n} " for prompt in "abcdef" for n in range(3)]
    found = drawn(6, responses)
    for start in range(0, 18, 3):
        (anchor,) = set(found[start : start + 3])
        assert anchor[0] in {text.strip() for text in responses[start : start + 3]}


def test_every_response_is_drawn_about_as_often() -> None:
    found = drawn(4000, ["0", "1", "2", "3"] * 4000)[::4]
    counts = torch.tensor([int(text) for (text,) in found]).bincount(minlength=4)
    # four deviations of a count of 4000 draws with chance 1/4
    assert (counts - 1000).abs().max() < 4 * (4000 * 0.25 * 0.75) ** 0.5


def test_the_generator_of_the_run_decides_the_draw() -> None:
    responses = ["0", "1", "2", "3"] * 50
    state = torch.get_rng_state()
    first = drawn(50, responses)
    assert drawn(50, responses) != first
    torch.set_rng_state(state)
    assert drawn(50, responses) == first


def test_the_reference_ties_with_itself() -> None:
    batch, texts = prompts(2).repeat(3), ["a ", "abc", "ab", " xy", "x", "xyz"]
    found = LengthJudge().score(answered(batch, texts).anchored(drawn(2, texts)))
    assert (found.rewards.view(2, 3) == 0.5).sum(1).tolist() == [1, 1]


def test_a_single_rollout_has_nothing_to_be_compared_with() -> None:
    with pytest.raises(ValueError, match=r"sampling.per_prompt is 1, but GroupReference .* at least 2"):
        GroupReference().check(Sampling())
    GroupReference().check(Sampling(per_prompt=2))
