"""Conversations with an environment: whose tokens are whose, when they end, and what is paid for which turn."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from lightning_modules import PairwisePPOModule
from prl.config import ModelSource
from prl.environments import Environment, Episode, Reply
from prl.environments.base import PLAYED, Played
from prl.models.actor_critic import evaluate_frozen
from prl.rewards import EnvironmentReward, WeightedReward
from prl.rollouts import Conversation
from prl.types import PromptBatch, Rollout
from tests.helpers.policy_handle import Handle, prompt_batch
from tests.helpers.tiny import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
END = int(TOKENIZER.eos_token_id)


class Speaks(Handle):
    """A policy whose turns are given: to each prompt the next of its texts, whole unless it ends in `...`."""

    def __init__(self, turns: Sequence[Sequence[str]], **sampling: Any) -> None:
        super().__init__(**sampling)
        self.turns = {f"p{number}": list(each) for number, each in enumerate(turns)}
        self.read: list[list[str]] = []
        self.limits: list[list[int]] = []

    def generate(self, batch: PromptBatch, limits: Any = None) -> Rollout:
        rows = zip(batch.prompt_ids, batch.prompt_mask, strict=True)
        self.read.append([self.tokenizer.decode(ids[mask]) for ids, mask in rows])
        self.limits.append(limits.tolist())
        said = [self.turns[prompt[0]["content"]].pop(0) for prompt in batch.prompts]
        ids = [TOKENIZER.encode(each.removesuffix("...")) + [END] * (not each.endswith("...")) for each in said]
        width = max(map(len, ids))
        mask = torch.tensor([[place < len(each) for place in range(width)] for each in ids])
        padded = torch.tensor([each + [0] * (width - len(each)) for each in ids])
        finished = torch.tensor([not each.endswith("...") for each in said])
        return Rollout(batch, padded, mask, finished, [each.removesuffix("...") for each in said], 99)


class Echo(Environment):
    """Says a turn back with its number, pays its length, and ends with `!`."""

    def begin(self, prompt: Any, row: Mapping[str, Any]) -> Episode:
        return _Echo(row)


class _Echo(Episode):
    def __init__(self, row: Mapping[str, Any]) -> None:
        self.row, self.turn = row, 0

    def reply(self, text: str) -> Reply:
        self.turn += 1
        self.success = text.endswith("!")
        return Reply(f"{self.turn}{text}", float(len(text)), self.success)


def prompts(count: int) -> PromptBatch:
    return prompt_batch([f"p{number}" for number in range(count)], (), [{"name": number} for number in range(count)])


def played(rollout: Rollout) -> list[Played]:
    return [row[PLAYED] for row in rollout.batch.extras]


def test_turns_and_answers_follow_each_other() -> None:
    policy = Speaks([["ab", "c", "d!"], ["e!"], ["f", "gh!"]], max_new_tokens=40)
    rollout = Conversation(Echo()).sample(prompts(3), policy)
    assert policy.read == [
        ["p0\n", "p1\n", "p2\n"],
        ["p0\nab<eos>1ab\n", "p2\nf<eos>1f\n"],
        ["p0\nab<eos>1ab\nc<eos>2c\n"],
    ]
    assert rollout.texts == ["ab<eos>1ab\nc<eos>2c\nd!", "e!", "f<eos>1f\ngh!"]
    own = [
        "".join(TOKENIZER.decode(ids[mask]))
        for ids, mask in zip(rollout.response_ids, rollout.response_mask, strict=True)
    ]
    assert own == ["ab<eos>c<eos>d!<eos>", "e!<eos>", "f<eos>gh!<eos>"]
    assert rollout.read_mask.sum(1).tolist() == [len("ab.1ab.c.2c.d!."), len("e!."), len("f.1f.gh!.")]
    assert rollout.finished.all()
    assert played(rollout) == [
        Played((2, 8, 14), (2.0, 1.0, 2.0), True),
        Played((2,), (2.0,), True),
        Played((1, 8), (1.0, 3.0), True),
    ]
    assert [row["name"] for row in rollout.batch.extras] == [0, 1, 2]
    assert torch.equal(rollout.prompt_ids, prompts(3).prompt_ids)
    assert rollout.max_new_tokens == 40


def test_a_conversation_ends_with_its_last_turn() -> None:
    policy = Speaks([["a", "b", "c"], ["d!"]], max_new_tokens=40)
    rollout = Conversation(Echo(), max_turns=2).sample(prompts(2), policy)
    assert rollout.texts == ["a<eos>1a\nb", "d!"]
    assert played(rollout)[0] == Played((1, 6), (1.0, 1.0), False)
    assert rollout.finished.tolist() == [True, True]  # its turns have ended, though the goal was not reached


def test_a_turn_that_hits_its_limit_is_not_answered() -> None:
    rollout = Conversation(Echo(), max_turn_tokens=4).sample(prompts(1), Speaks([["a", "bcde..."]], max_new_tokens=40))
    assert rollout.texts == ["a<eos>1a\nbcde"]
    assert rollout.finished.tolist() == [False]
    assert played(rollout) == [Played((1,), (1.0,), False)]


@pytest.mark.parametrize(("limit", "text"), [(6, "ab<eos>1ab\nc"), (7, "ab<eos>1ab\nc"), (8, "ab<eos>1ab\nc")])
def test_an_answer_needs_room_for_itself_and_a_token(limit: int, text: str) -> None:
    """Three tokens are the policy's, four the environment's: with seven there would be nothing left to say."""
    policy = Speaks([["ab", "c..."]], max_new_tokens=limit)
    rollout = Conversation(Echo()).sample(prompts(1), policy)
    assert rollout.texts == [text if limit == 8 else "ab"]
    assert policy.limits == ([[8], [1]] if limit == 8 else [[limit]])
    assert played(rollout)[0].ends == (2,)


def test_limits_of_turns_and_of_all() -> None:
    policy = Speaks([["ab", "c", "d!"], ["e", "f!"]], max_new_tokens=16)
    Conversation(Echo(), max_turn_tokens=5).sample(prompts(2), policy)
    assert policy.limits == [[5, 5], [5, 5], [4]]


def test_the_policy_is_read_as_it_spoke() -> None:
    """Probabilities of the drawn tokens, turn by turn, over the text so far."""
    torch.manual_seed(0)
    model = tiny_model()
    model.lm_head.weight.data[END] *= 6  # ends its turns early
    handle = Handle(model, max_new_tokens=24)
    rollout = Conversation(Echo(), max_turns=3, max_turn_tokens=6).sample(prompts(8), handle)
    assert 1 < handle.calls <= 3
    assert bool((rollout.read_mask & ~rollout.response_mask).any())
    logprobs = evaluate_frozen(model, rollout, temperature=1.0)
    for row in range(8):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist()
        ids = prompt + rollout.response_ids[row][rollout.read_mask[row]].tolist()
        steps = model(torch.tensor([ids])).logits[0].log_softmax(-1).detach()
        for place in rollout.response_mask[row].nonzero()[:, 0].tolist():
            at = len(prompt) + place
            assert float(logprobs[row, place]) == pytest.approx(float(steps[at - 1, ids[at]]), abs=1e-5)
        ended = [place for place in range(len(ids) - len(prompt)) if rollout.response_ids[row, place] == END]
        assert list(played(rollout)[row].ends) == ended
    assert (rollout.read_mask.sum(1) <= 24).all()


def test_the_same_random_state_plays_the_same() -> None:
    def play(seed: int) -> list[str]:
        torch.manual_seed(seed)
        return Conversation(Echo(), max_turns=2, max_turn_tokens=4).sample(prompts(4), Handle(max_new_tokens=20)).texts

    assert play(1) == play(1) != play(2)


def test_a_process_without_a_conversation_waits_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where weights are in shards, all processes sample equally often."""
    policy, others = Speaks([["a!", "x", "x"]], max_new_tokens=20), iter([True, True, False])
    monkeypatch.setattr("prl.rollouts.conversation.gathered", lambda own: [own, next(others)])
    rollout = Conversation(Echo()).sample(prompts(1), policy)
    assert rollout.texts == ["a!"]
    assert policy.limits == [[20], [0]]
    assert played(rollout) == [Played((2,), (2.0,), True)]


def test_bad_input_is_named() -> None:
    for settings in ({"max_turns": 0}, {"max_turn_tokens": 0}):
        with pytest.raises(ValueError, match="Conversation.max_turn.* is 0; expected at least 1"):
            Conversation(Echo(), **settings)
    with pytest.raises(ValueError, match="the data have a column 'episode'"):
        Conversation(Echo()).sample(prompt_batch(["p0"], (), [{PLAYED: 1}]), Handle())


def test_rewards_without_an_environment_and_a_tokenizer_without_turns_are_told_before_models_are_read(
    tiny_folder: Path, tmp_path: Path
) -> None:
    rewarded = WeightedReward({"game": EnvironmentReward(dense=False)}, {"game": 1.0})
    with pytest.raises(ValueError, match="takes the rewards of an environment, and sampler: LocalSampler has none"):
        PairwisePPOModule(ModelSource(path=str(tiny_folder)), rewarded)
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "plain"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    for path, refused in ((tiny_folder, False), (folder, True)):
        given: Any = {"sampler": Conversation(Echo()), "max_prompt_length": 64}
        module = PairwisePPOModule(ModelSource(path=str(path)), EnvironmentReward(), **given)
        with pytest.raises(ValueError, match="has no chat template") if refused else nullcontext():
            module.build_encoder()
