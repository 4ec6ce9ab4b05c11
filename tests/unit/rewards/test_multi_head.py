"""Several regression heads: what they learn, what their folder says, and how a direction weighs them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from prl.data import PreferencePair
from prl.data.rows.row_errors import RowError
from prl.judge import BradleyTerryJudge
from prl.judge.bradley_terry import save_bradley_terry
from prl.objectives.reward import MultiHeadRegression, PairBatch
from prl.pairs.candidates import compare_candidates
from prl.pairs.rules import BestOfN
from prl.rewards import MultiHead
from prl.rewards.base import load_frozen
from prl.rewards.folder import read_judge_file
from prl.types import PromptBatch
from tests.helpers.records import answered
from tests.helpers.tiny import tiny_model, tiny_tokenizer
from tests.unit.lightning_modules.test_reward_objectives import PROMPT, made

NAN = float("nan")


def f64(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def batch(chosen: torch.Tensor, rejected: torch.Tensor, **columns: torch.Tensor) -> PairBatch:
    ones = torch.ones(1, len(chosen))
    return PairBatch(ones, ones.bool(), ones[0], columns, chosen_rewards=chosen, rejected_rewards=rejected)


def test_one_head_is_mean_squared_error_and_missing_scores_teach_nothing() -> None:
    said, scores = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    one = MultiHeadRegression({"a": 1.0})
    found = one.loss(batch(said[0][:, None], said[1][:, None], chosen_a=scores[0], rejected_a=scores[1]))
    assert found.mean().item() == pytest.approx(torch.nn.functional.mse_loss(said, scores).item(), abs=1e-12)

    chosen, rejected = f64(1, 2)[None].requires_grad_(), f64(3, 4)[None].requires_grad_()
    columns = {"chosen_a": f64(0.5), "chosen_b": f64(NAN), "rejected_a": f64(NAN), "rejected_b": f64(1.0)}
    loss = MultiHeadRegression({"a": 1.0, "b": 1.0}).loss(batch(chosen, rejected, **columns))
    assert loss.tolist() == [(0.5**2 + 3**2) / 2]
    loss.sum().backward()
    assert (chosen.grad.tolist(), rejected.grad.tolist()) == ([[0.5, 0.0]], [[0.0, 3.0]])


@pytest.mark.parametrize("heads", [{}, {"a.b": 1.0}])
def test_heads_have_names(heads: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="MultiHeadRegression.heads is"):
        MultiHeadRegression(heads)


def test_a_run_reads_the_scores_that_are_there_and_keeps_the_names(tiny_folder: Any, tmp_path: Path) -> None:
    from lightning_modules import BradleyTerryRewardModule, GenerativeRewardModule

    module = made(BradleyTerryRewardModule, tiny_folder, MultiHeadRegression({"good": 1.0, "long": -0.5}))
    encoder = module.build_encoder()
    rows = [
        {"chosen_good": 1, "rejected_good": "0.5", "chosen_long": None},
        {"chosen_long": 2.0, "rejected_long": 1.5},
    ]
    pairs = [PreferencePair(PROMPT, "ab", text, extra=row) for text, row in zip(("a", "b"), rows, strict=True)]
    encoded = encoder.collate([encoder.encode(pair) for pair in pairs])
    assert encoded["column.chosen_good"].tolist() == pytest.approx([1.0, NAN], nan_ok=True)
    assert encoded["column.rejected_long"].tolist() == pytest.approx([NAN, 1.5], nan_ok=True)
    with torch.no_grad():
        inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        chosen, rejected = module.model(**inputs).logits.chunk(2)
    first = (chosen[0, 0] - 1) ** 2 + (rejected[0, 0] - 0.5) ** 2
    second = (chosen[1, 1] - 2) ** 2 + (rejected[1, 1] - 1.5) ** 2
    assert module.training_step(encoded, 0).item() == pytest.approx(float(first + second) / 4, rel=1e-5)
    with pytest.raises(RowError, match="a finite number in one of 'chosen_good', 'chosen_long', 'rejected_good', 'rej"):
        encoder.encode(PreferencePair(PROMPT, "ab", "a", extra={"chosen_god": 1}))
    with pytest.raises(RowError, match="no number"):
        encoder.encode(PreferencePair(PROMPT, "ab", "a", extra={"chosen_good": "much"}))
    other = made(BradleyTerryRewardModule, tiny_folder, MultiHeadRegression({"good": 1.0})).build_encoder()
    assert other.fingerprint != encoder.fingerprint

    module.export(tmp_path / "heads")
    settings = read_judge_file(tmp_path / "heads")
    assert (settings["head_names"], settings["head_weights"]) == (["good", "long"], [1.0, -0.5])
    judge = BradleyTerryJudge(str(tmp_path / "heads"))
    judge.load()
    judge.save_pretrained(tmp_path / "again")
    assert read_judge_file(tmp_path / "again") == settings
    with pytest.raises(ValueError, match="reads rewards of single responses"):
        GenerativeRewardModule(module.source, objective=MultiHeadRegression({"good": 1.0}))


def test_names_that_do_not_fit_the_heads_are_damage(tmp_path: Path) -> None:
    for names in (["a"], ["a", "a"], ["a", "b", "c"]):
        scalar = tiny_model(2, AutoModelForSequenceClassification, num_labels=2)
        save_bradley_terry(tmp_path, scalar, tiny_tokenizer(), 160, head_weights=(1.0, 1.0), head_names=names)
        with pytest.raises(ValueError, match="head_names is .*a name of its own for each of 2 heads"):
            read_judge_file(tmp_path)


# ---- the reward


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("heads")
    scalar = tiny_model(2, AutoModelForSequenceClassification, num_labels=3)
    names = ("good", "long", "kind")
    save_bradley_terry(path, scalar, tiny_tokenizer(), 64, head_weights=(1.0, 0.5, 0.0), head_names=names)
    return path


def loaded(folder: Path, **settings: Any) -> MultiHead:
    source = MultiHead(str(folder), **settings)
    load_frozen(source, torch.nn.Linear(1, 1), None)
    return source


def prompts(number: int, *extras: dict[str, Any]) -> PromptBatch:
    ids = torch.ones(number, 2, dtype=torch.long)
    turns = [({"role": "user", "content": f"copy {n}"},) for n in range(number)]
    return PromptBatch(ids, ids.bool(), turns, [()] * number, list(extras))


def test_heads_are_weighed_by_name_by_the_folder_and_by_each_prompt(folder: Path) -> None:
    texts = ["ab", "abc", "b"]
    directions = [{"good": 0.6, "kind": -0.8}, {"long": 2.0}, {"good": 1.0, "long": -1.0, "kind": 2.0}]
    rows = answered(prompts(3, *({"v": each} for each in directions)), texts)
    plain = loaded(folder)
    heads = plain.values(list(rows.batch.prompts), texts)
    found = plain.score(rows)
    torch.testing.assert_close(found.rewards, heads[:, 0] + 0.5 * heads[:, 1])
    assert list(found.components) == ["good", "long", "kind"]
    torch.testing.assert_close(found.components["kind"], heads[:, 2])
    named = loaded(folder, weights={"kind": 3.0, "good": -1.0})
    torch.testing.assert_close(named.score(rows).rewards, 3 * heads[:, 2] - heads[:, 0])
    normal = loaded(folder, weights={"kind": 3.0, "good": -1.0}, normalize=True)
    torch.testing.assert_close(normal.score(rows).rewards, (3 * heads[:, 2] - heads[:, 0]) / 4)
    directed = loaded(folder, column="v")
    expected = [0.6 * heads[0, 0] - 0.8 * heads[0, 2], 2 * heads[1, 1], heads[2] @ torch.tensor([1.0, -1.0, 2.0])]
    torch.testing.assert_close(directed.score(rows).rewards, torch.stack(expected))
    # An anchor is weighed by the direction of the prompt that it answers.
    against = directed.score(rows.anchored([("b",), ("b", "ab"), ("ab",)]))
    of = directed.values([rows.batch.prompts[1]] * 2, ["abc", "ab"])
    assert against.verdict is not None
    assert against.verdict.margin_ab[2].item() == pytest.approx(float(2 * (of[0, 1] - of[1, 1])), abs=1e-5)


def test_a_prompt_without_a_direction_gives_no_reward(folder: Path) -> None:
    source = loaded(folder, column="v")
    for wrong in ({}, {"v": {"god": 1.0}}, {"v": [1, 0]}, {"v": {"good": 0.0}}, {"v": {"good": NAN}}):
        found = source.score(answered(prompts(2, {"v": {"good": 1.0}}, wrong), ["a", "b"]))
        assert found.failed.tolist() == [False, True]
        assert "column 'v' of a prompt is" in str(source.failure())
        assert "has the heads good, long, kind" in str(source.failure())


def test_weights_of_no_head_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="names 'god', but .* has the heads good, long, kind"):
        loaded(folder, weights={"god": 1.0})
    with pytest.raises(ValueError, match="both set"):
        MultiHead("x", weights={"good": 1.0}, column="v")
    for weights in ({"good": 0.0}, {"good": math.inf}, {}):
        with pytest.raises(ValueError, match="MultiHead.weights is"):
            MultiHead("x", weights=weights)


class Told(MultiHead):
    """Says of each response what its text says: the scores of the papers' candidates."""

    def load(self) -> None:
        self.head_names = ("helpfulness", "verbosity")

    def values(self, prompts: list[Any], responses: list[str]) -> torch.Tensor:
        return torch.tensor([[float(each) for each in text.split(",")] for text in responses])


@pytest.mark.parametrize(
    ("degrees", "scores", "best"),
    [(0, [70.0, 65.0, 55.0], 0), (-45, [-7.071068, 17.677670, 24.748737], 2)],
)
def test_a_direction_decides_which_candidate_is_kept(degrees: float, scores: list[float], best: int) -> None:
    texts = ["70,80", "65,40", "55,20"]
    source = Told("nowhere", column="direction")
    source.load()
    for scale in (1.0, 0.01, 250.0):
        v = [scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))]
        extra = {"direction": dict(zip(source.head_names, v, strict=True))}
        rows = replace(prompts(1, extra).repeat(3), group=torch.zeros(3, dtype=torch.long))
        (candidates,) = compare_candidates(source, answered(rows, texts))
        assert candidates.worth.tolist() == pytest.approx([scale * each for each in scores], rel=1e-6)
        assert BestOfN().keep(candidates, torch.Generator()) == [best]
