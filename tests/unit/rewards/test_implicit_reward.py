"""DPO's implicit reward: the numbers themselves, one loss with reward models, and a judge like any other."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from prl.cli.classes import built
from prl.config import LoRA, ModelSource
from prl.data.preference_encoding import PreferenceEncoder
from prl.judge import ImplicitJudge, Judge
from prl.judge.examination import examine
from prl.models.loading import load_causal_lm, save_model
from prl.objectives.preference import DPO, PreferenceBatch, ScoredResponses
from prl.objectives.reward import BradleyTerry, PairBatch
from prl.rewards import ImplicitReward, RewardSource
from prl.rewards.implicit import implicit_reward
from tests.helpers.pairs import labelled_pairs
from tests.helpers.preference_figures import PAIRS
from tests.helpers.records import answered
from tests.helpers.tiny import tiny_model, tiny_tokenizer, write_tiny_model
from tests.unit.rewards.test_reward_sources import batch

TURNS = [{"role": "user", "content": "copy ab"}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("policies")
    return {name: str(write_tiny_model(root / name, seed)) for name, seed in (("policy", 1), ("reference", 2))}


def loaded(folders: dict[str, str], **settings: Any) -> ImplicitJudge:
    judge = ImplicitJudge(folders["policy"], settings.pop("reference", folders["reference"]), **settings)
    judge.load()
    return judge


def scored(side: str) -> ScoredResponses:
    width = max(map(len, PAIRS[side]))
    rows = [[*row, *[0.0] * (width - len(row))] for row in (*PAIRS[side], *PAIRS[f"ref_{side}"])]
    mask = torch.tensor([[n < len(row) for n in range(width)] for row in PAIRS[side]])
    numbers = torch.tensor(rows, dtype=torch.float64)
    return ScoredResponses(numbers[:2], mask, numbers[2:])


def test_bradley_terry_on_implicit_rewards_is_dpo() -> None:
    chosen, rejected = scored("chosen"), scored("rejected")
    rewards = implicit_reward(chosen, 0.1), implicit_reward(rejected, 0.1)
    assert rewards[0].tolist() == pytest.approx([0.05, 0.01])
    assert rewards[1].tolist() == pytest.approx([-0.05, 0.08])
    target = torch.ones(2, dtype=torch.float64)
    pairs = PairBatch((rewards[0] - rewards[1])[None], torch.ones(1, 2, dtype=torch.bool), target)
    losses = BradleyTerry().loss(pairs)
    assert losses.mean().item() == pytest.approx(0.686578, abs=1e-6)
    dpo = DPO(0.1).loss(PreferenceBatch({"chosen": chosen, "rejected": rejected}, target))
    torch.testing.assert_close(losses, dpo, rtol=0, atol=1e-15)
    assert implicit_reward(rejected, 0.1, per_token=True).tolist() == pytest.approx([-0.05 / 6, 0.08 / 3])


def test_a_reward_is_the_log_ratio_of_the_tokens_that_training_reads(folders: dict[str, str]) -> None:
    """By transformers alone: the whole dialogue in the template, summed behind the prompt."""
    tokenizer = tiny_tokenizer()
    source = ImplicitReward(**{"path": folders["policy"], "reference": folders["reference"]}, beta=0.3, batch_size=2)
    source.load()
    source.load()
    texts = ["ab", "b", "ba and more", "ab"]
    found = source.rewards([TURNS] * 4, texts)
    expected = []
    start = len(tokenizer.apply_chat_template(TURNS, add_generation_prompt=True, return_dict=False))
    models = [AutoModelForCausalLM.from_pretrained(folders[name]).eval() for name in ("policy", "reference")]
    for text in texts:
        ids = tokenizer.apply_chat_template([*TURNS, {"role": "assistant", "content": text}], return_dict=False)
        row = torch.tensor([ids])
        with torch.no_grad():
            of_models = [model(input_ids=row).logits.log_softmax(-1)[0, :-1] for model in models]
        ratio = (of_models[0] - of_models[1]).gather(1, row[0, 1:, None])[start - 1 :]
        assert ids[-1] == tokenizer.eos_token_id
        expected.append(0.3 * float(ratio.sum()))
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.1  # otherwise the comparison would say little
    row = PreferenceEncoder(tokenizer, 64).encode(labelled_pairs(1)[0])
    assert row is not None
    whole = source.encoder.encode_response(labelled_pairs(1)[0].prompt, labelled_pairs(1)[0].chosen)
    assert whole["ids"] == [*row["prompt"], *row["chosen"]]


def test_the_report_serves_it_and_beta_changes_no_order(folders: dict[str, str]) -> None:
    pairs = labelled_pairs(30)
    reports = {beta: examine(loaded(folders, beta=beta), pairs) for beta in (0.1, 3.0)}
    one, other = reports[0.1], reports[3.0]
    assert one["accuracy"] == other["accuracy"]
    assert one["margin"]["mean"] * 30 == pytest.approx(other["margin"]["mean"], rel=1e-3)
    assert one["nll"] != other["nll"]
    assert one["flip_rate"]["mean"] == 0
    assert one["order_gap"]["mean"] < 1e-6
    assert one["layout_gap"] < 1e-4
    assert one["accuracy"] != examine(loaded(folders, per_token=True), pairs, probes=False)["accuracy"]


def test_a_policy_that_is_its_reference_has_ties_and_they_count_one_half(folders: dict[str, str]) -> None:
    judge = loaded(folders, reference=folders["policy"])
    report = examine(judge, labelled_pairs(30), probes=False)
    for name in ("accuracy", "accuracy_better_first", "accuracy_better_second", "accuracy_shorter_wins"):
        assert (report[name]["mean"], report[name]["low"], report[name]["high"]) == (0.5, 0.5, 0.5)
    assert (report["margin"]["mean"], report["nll"]["mean"]) == (0, pytest.approx(0.693147, abs=1e-6))
    assert report["num_ties"] == 0  # of labels


def test_it_rewards_and_judges(folders: dict[str, str]) -> None:
    judge = loaded(folders)
    both = {"path": folders["policy"], "reference": folders["reference"]}
    source = built("reward", RewardSource, {"class_path": "ImplicitReward", "init_args": both})
    source.load()
    found = source.score(answered(batch(("x",), ("y",)), [" abc ", "de"]))
    prompts = [({"role": "user", "content": f"copy {n}"},) for n in range(2)]
    rewards, anchors = source.rewards(prompts, ["abc", "de"]), source.rewards(prompts, ["x", "y"])
    assert torch.equal(found.rewards, rewards)
    assert torch.equal(found.verdict.win_logit, rewards - anchors)
    assert judge.needs_anchors
    assert not source.needs_anchors
    assert judge.score(answered(batch(("x",), ("y",)), ["abc", "de"])).rewards.tolist() == pytest.approx(
        (rewards - anchors).sigmoid().tolist(), abs=1e-6
    )
    one = Judge.from_pretrained(both["path"], reference=both["reference"], device="cpu")
    assert one.compare(["copy 0"], ["abc"], ["x"]).win_logit.item() == pytest.approx(float(rewards[0] - anchors[0]))
    assert judge.describe() | {"max_length": 0} == {
        **{"kind": "implicit", "beta": 0.1, "per_token": False, "max_length": 0, "dtype": "float32"},
        **{name: judge.describe()[name] for name in ("tokenizer_sha256", "weights_sha256", "reference_sha256")},
    }
    assert judge.describe()["weights_sha256"] != judge.describe()["reference_sha256"]
    assert source.model_sources()["reference"] == ModelSource(path=both["reference"])


def test_adapters_are_described_with_the_base_below_them(folders: dict[str, str], tmp_path: Path) -> None:
    base, adapters = write_tiny_model(tmp_path / "base", 1), tmp_path / "adapters"
    model = load_causal_lm(ModelSource(path=str(base), lora=LoRA(rank=2)))
    save_model(model, tiny_tokenizer(), adapters, merge=False)
    before = loaded({**folders, "policy": str(adapters)}).describe()
    tiny_model(3).save_pretrained(base)
    after = loaded({**folders, "policy": str(adapters)}).describe()
    assert [name for name in before if before[name] != after[name]] == ["base_sha256"]
    assert before.keys() == after.keys() == loaded(folders).describe().keys() | {"base_sha256"}


def test_what_is_too_long_is_truncated_and_counted(folders: dict[str, str]) -> None:
    judge = loaded(folders, max_length=12)
    judge.rewards([TURNS], ["abababababababab"])
    assert judge.truncated_fraction() == 1.0
    assert loaded(folders).longest() == 512  # the positions of the models


def test_mistakes_are_told(folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ImplicitReward\.beta is 0; expected"):
        ImplicitReward(folders["policy"], folders["reference"], beta=0)
    with pytest.raises(ValueError, match="max_length asks for 513"):
        loaded(folders, max_length=513)
    other = write_tiny_model(tmp_path / "other", 3)
    file = other / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="reference: the tokenizer in .* gives other token ids"):
        loaded(folders, reference=str(other))
