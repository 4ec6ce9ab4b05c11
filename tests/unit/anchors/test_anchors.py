"""Where anchors come from, and when the bank replaces one."""

import pytest
import torch

from prl.anchors.bank import AnchorBank, lower_bound
from prl.anchors.sources import DatasetAnchors, PreviousPolicy, ReferenceSamples, RoundRobin
from prl.config import Sampling
from prl.types import PromptBatch, Scores
from prl.verdict import Verdict
from tests.helpers.records import answered


def prompts(*anchors: tuple[str, ...]) -> PromptBatch:
    ids = torch.ones(len(anchors), 2, dtype=torch.long)
    turns = [({"role": "user", "content": f"prompt {n}"},) for n in range(len(anchors))]
    return PromptBatch(ids, ids.bool(), turns, list(anchors))


class Known:
    """Policies whose responses are known: the reference says r1, r2, ...; an older policy what its weights say."""

    def __init__(self, confirms: float = 1.0) -> None:
        self.drawn, self.confirms, self.now = 0, confirms, 0.0
        self.asked: list[tuple[list[str], list[str]]] = []

    def reference_responses(self, batch: PromptBatch) -> list[str]:
        self.drawn += 1
        return [f"r{self.drawn} to {prompt[0]['content']}" for prompt in batch.prompts]

    def weights(self) -> dict[str, torch.Tensor]:
        return {"w": torch.tensor(self.now)}

    def sample_with_weights(self, weights: dict[str, torch.Tensor], batch: PromptBatch) -> list[str]:
        return [f"policy {float(weights['w'])}"] * len(batch)

    def second_opinion(self, prompts, a: list[str], b: list[str]) -> Verdict:
        self.asked.append((a, b))
        margin = torch.full((len(a),), self.confirms)
        return Verdict(margin, -margin)


def scores(*margins: float) -> Scores:
    margin = torch.tensor(margins)
    return Scores(margin, Verdict(margin, -margin), torch.arange(len(margins)))


def test_dataset_anchors_are_those_of_the_row_for_each_of_its_rollouts() -> None:
    placed = DatasetAnchors().anchors_for(prompts(("a", "b"), ("c",)), ["w", "x", "y", "z"], Known())
    assert placed == [("a", "b"), ("a", "b"), ("c",), ("c",)]


def test_reference_samples_are_shared_by_the_rollouts_of_a_prompt() -> None:
    placed = ReferenceSamples(count=2).anchors_for(prompts((), ()), ["w", "x", "y", "z"], Known())
    first, second = ("r1 to prompt 0", "r2 to prompt 0"), ("r1 to prompt 1", "r2 to prompt 1")
    assert placed == [first, first, second, second]


def test_round_robin_compares_siblings_and_only_them() -> None:
    placed = RoundRobin().anchors_for(prompts((), ()), ["u", "v", "w", "x ", "y", "z"], Known())
    assert placed == [("v", "w"), ("u", "w"), ("u", "v"), ("y", "z"), ("x", "z"), ("x", "y")]
    with pytest.raises(ValueError, match=r"sampling.per_prompt is 1.*at least 2"):
        RoundRobin().check(Sampling())


def test_the_previous_policy_is_renewed_every_so_many_iterations_and_survives_a_checkpoint() -> None:
    source, policies, batch = PreviousPolicy(every=2), Known(), prompts(())
    seen = []
    for iteration in range(5):
        policies.now = float(iteration)
        seen += source.anchors_for(batch, ["x"], policies)
        source.update(answered(batch, ["x"]), scores(1.0), policies)
        saved, source = source.state_dict(), PreviousPolicy(every=2)
        source.load_state_dict(saved)
    assert seen == [("policy 0.0",)] * 2 + [("policy 2.0",)] * 2 + [("policy 4.0",)]


@pytest.mark.parametrize(("wins", "number"), [(8, 10), (4, 4), (1.5, 7), (60, 100)])
def test_the_lower_bound_is_the_share_from_which_the_observed_one_is_z_deviations_away(wins, number) -> None:
    """What defines Wilson's bound: share - p = z * sqrt(p (1 - p) / n), solved for p."""
    bound = lower_bound(wins, number, z=1.645)
    assert 0 < bound < wins / number
    assert wins / number - bound == pytest.approx(1.645 * (bound * (1 - bound) / number) ** 0.5, abs=1e-9)


def test_without_a_win_the_lower_bound_is_zero() -> None:
    assert lower_bound(0, 0) == 0.0
    assert lower_bound(0, 5) == pytest.approx(0, abs=1e-12)


def play(bank: AnchorBank, policies: Known, batch: PromptBatch, margins: list[float], text: str = "new") -> dict:
    responses = [text] * len(margins)
    anchored = batch.repeat(len(margins) // len(batch)).anchored(bank.anchors_for(batch, responses, policies))
    return bank.update(answered(anchored, responses), scores(*margins), policies)


def test_the_bank_starts_with_the_row_and_else_with_the_reference() -> None:
    policies = Known()
    placed = AnchorBank().anchors_for(prompts(("a", "b"), ()), ["x", "y"], policies)
    assert placed == [("a",), ("r1 to prompt 1",)]
    bank = AnchorBank()
    for _ in range(2):
        assert bank.anchors_for(prompts(("a",)), ["x"], policies) == [("a",)]
    assert policies.drawn == 1


def test_an_anchor_is_replaced_once_it_is_beaten_for_sure() -> None:
    bank, policies, batch = AnchorBank(refresh_above=0.5, min_judged=4), Known(), prompts(("old",))
    for _ in range(3):
        numbers = play(bank, policies, batch, [1.0])
        assert bank.events() == []
    assert numbers["anchors/mean_version"] == 0
    numbers = play(bank, policies, batch, [2.0], "clear winner")
    # four wins of four: lower bound 4 / (4 + 1.645^2) = 0.596
    assert numbers == {
        "anchors/mean_version": 1.0,
        "anchors/replaced": 1.0,
        "anchors/refused": 0.0,
        "anchors/beaten_win_rate": 1.0,
        "anchors/confirmed_win_prob": pytest.approx(torch.sigmoid(torch.tensor(1.0)).item()),
    }
    (event,) = bank.events()
    assert (event["anchor"], event["rival"], event["version"]) == ("old", "clear winner", 0)
    assert event["win_rate"] == 1.0
    assert policies.asked == [(["clear winner"], ["old"])]
    assert bank.anchors_for(batch, ["x"], policies) == [("clear winner",)]


def test_wins_that_may_be_luck_replace_nothing() -> None:
    bank, policies = AnchorBank(refresh_above=0.5, min_judged=4), Known()
    play(bank, policies, prompts(("old",)), [1.0, 1.0, 1.0, -1.0])  # lower bound of 3 in 4: 0.38
    assert policies.asked == []
    assert bank.anchors_for(prompts(("old",)), ["x"], policies) == [("old",)]


def test_a_challenger_that_the_other_judge_does_not_confirm_is_refused_and_forgotten() -> None:
    bank, policies, batch = AnchorBank(), Known(confirms=-1.0), prompts(("old",))
    numbers = play(bank, policies, batch, [1.0] * 4)
    assert (numbers["anchors/replaced"], numbers["anchors/refused"]) == (0.0, 1.0)
    assert bank.anchors_for(batch, ["x"], policies) == [("old",)]
    play(bank, policies, batch, [1.0])
    assert len(policies.asked) == 1


def test_failed_judgements_count_neither_as_win_nor_as_loss() -> None:
    bank = AnchorBank(min_judged=4)
    play(bank, Known(), prompts(("old",)), [1.0, float("nan"), float("nan"), -1.0])
    (anchor,) = bank.bank.values()
    assert (anchor.wins, anchor.num_judged) == (1.0, 2)


def test_the_bank_survives_a_checkpoint() -> None:
    bank, again = AnchorBank(), AnchorBank()
    play(bank, Known(), prompts(("old",), ("other",)), [1.0, -1.0])
    again.load_state_dict(bank.state_dict())
    assert again.bank == bank.bank


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AnchorBank(refresh_above=1.0), "refresh_above is 1.0"),
        (lambda: AnchorBank(min_judged=0), "min_judged is 0"),
        (lambda: ReferenceSamples(count=0), "count is 0"),
        (lambda: PreviousPolicy(every=0), "every is 0"),
    ],
)
def test_settings_out_of_range_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_challenger_is_the_response_that_won_most_clearly() -> None:
    bank, policies, batch = AnchorBank(min_judged=4), Known(), prompts(("old",))
    for margins, texts in (([1.0, 3.0], ["won", "won clearly"]), ([2.0, 0.5], ["won later", "barely"])):
        anchored = batch.repeat(2).anchored(bank.anchors_for(batch, texts, policies))
        bank.update(answered(anchored, texts), scores(*margins), policies)
    assert policies.asked == [(["won clearly"], ["old"])]


def test_a_tie_is_half_a_win() -> None:
    bank = AnchorBank(min_judged=9)
    play(bank, Known(), prompts(("old",)), [0.0, 0.0, 1.0, -1.0])
    (anchor,) = bank.bank.values()
    assert (anchor.wins, anchor.num_judged) == (2.0, 4)
