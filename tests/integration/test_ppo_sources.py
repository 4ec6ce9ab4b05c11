"""Whole PPO runs with each kind of anchor and each source of reward, through the command line."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from prl.checkpoints.event_log import EventLog
from prl.cli.entry import main
from prl.types import Experience
from tests.helpers.judge_server import TEMPLATE, serving
from tests.helpers.tiny import LengthJudge, tiny_model, tiny_tokenizer
from tests.integration.runs import (
    Home,
    Interrupt,
    InterruptedRun,
    Numbers,
    callback,
    differences,
    find_callback,
    state_of,
)

MODEL = "--model.init_args."
PER_PROMPT = (f"{MODEL}sampling.per_prompt", "2")
ANCHORS: dict[str, dict[str, Any]] = {
    "ReferenceSamples": {"count": 2},
    "PreviousPolicy": {"every": 2},
    "RoundRobin": {},
    "AnchorBank": {"min_judged": 1, "refresh_above": 0.01},
}


def configured(name: str, kind: str, arguments: dict[str, Any]) -> tuple[str, ...]:
    return (f"{MODEL}{name}", json.dumps({"class_path": kind, "init_args": arguments}))


def bare(home: Home, folder: Path) -> tuple[str, ...]:
    """Write the prompts of the world without their anchors."""
    arguments = []
    for split in ("train", "validation"):
        rows = [json.loads(line) for line in home.data(f"prompts.{split}").read_text().splitlines()]
        path = folder / f"bare.{split}.jsonl"
        path.write_text("".join(json.dumps({"prompt": row["prompt"], "answer": row["anchor"]}) + "\n" for row in rows))
        arguments += [f"--data.init_args.{split}.path", str(path)]
    return tuple(arguments)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "AnchorBank" else pytest.mark.slow) for kind in ANCHORS]
)
def test_every_kind_of_anchor_trains_without_a_column_and_resumes_exactly(
    kind: str, home: Home, tmp_path: Path
) -> None:
    settings = (*bare(home, tmp_path), *PER_PROMPT, *configured("anchors", kind, ANCHORS[kind]))
    cli = home.run("pairwise_ppo", tmp_path / "whole", callback(Numbers), *settings)
    numbers = find_callback(cli.trainer, Numbers)
    assert all(0 <= each["reward/win_prob"] <= 1 for each in numbers.training)
    assert all(0 <= each["val/win_rate"] <= 1 for each in numbers.validation)
    if kind == "AnchorBank":
        assert sum(each["anchors/replaced"] for each in numbers.training) > 0
    if kind == "RoundRobin":  # every win is a sibling's loss
        assert all(each["reward/win_prob"] == pytest.approx(0.5, abs=1e-6) for each in numbers.training)
    if kind == "PreviousPolicy":
        assert [each["anchors/age"] for each in numbers.training] == [1, 2, 1, 2]
    with pytest.raises(InterruptedRun):
        home.run("pairwise_ppo", tmp_path / "cut", callback(Interrupt, batch=3), *settings)
    home.run("pairwise_ppo", tmp_path / "cut", "--ckpt_path", "last", *settings)
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "cut")) == []
    whole, cut = (EventLog(tmp_path / run / "anchors.jsonl").read() for run in ("whole", "cut"))
    assert whole == cut
    if kind == "AnchorBank":
        logged = [sum(each[f"anchors/{name}"] for each in numbers.training) for name in ("replaced", "refused")]
        assert [sum(event["replaced"] == kept for event in whole) for kept in (True, False)] == logged
    else:
        assert whole == []


def test_a_data_set_without_anchors_is_refused_where_they_are_read(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"8 of 8 prompts have no anchor.*model.init_args.anchors"):
        home.run("pairwise_ppo", tmp_path / "run", *bare(home, tmp_path))


def sources(home: Home) -> dict[str, tuple[str, dict[str, Any]]]:
    rule = {"class_path": "RuleReward", "init_args": {"rule": "prl.rewards.rule.exact_match"}}
    judge = {"class_path": "GenerativeJudge", "init_args": {"path": str(home.judge)}}
    return {
        "Bradley-Terry judge": ("BradleyTerryJudge", {"path": str(home.bradley_terry)}),
        "scalar": ("ScalarReward", {"path": str(home.bradley_terry)}),
        "implicit": ("ImplicitReward", {"path": str(home.judge), "reference": str(home.policy), "max_length": 64}),
        "rule": ("RuleReward", rule["init_args"]),
        "mix": ("WeightedReward", {"sources": {"judge": judge, "rule": rule}, "weights": {"judge": 1.0, "rule": 0.5}}),
    }


@pytest.mark.parametrize("name", ["Bradley-Terry judge", "scalar", "implicit", "rule", "mix"])
def test_every_source_of_reward_trains(name: str, home: Home, tmp_path: Path) -> None:
    given = map(json.loads, home.data("prompts.train").read_text().splitlines())
    rows = [{**row, "answer": row["anchor"]} for row in given]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cli = home.run(
        *("pairwise_ppo", tmp_path / "run", callback(Numbers), *configured("reward", *sources(home)[name])),
        *("--data.init_args.train.path", str(path), "--data.init_args.validation.path", str(path)),
        *("--data.init_args.validation.limit", "8", f"{MODEL}judge_gate.mode", "off", f"{MODEL}iterations", "2"),
    )
    numbers = find_callback(cli.trainer, Numbers)
    assert [each["reward/failed_frac"] for each in numbers.training] == [0] * 2
    assert len(numbers.validation) == 1
    assert all(0 <= each["val/win_rate"] <= 1 for each in numbers.validation)
    if name == "implicit":  # a resume knows both models again
        read = {each.rpartition("/")[0] for each in cli.model.inputs()}
        assert {"model.reward.policy", "model.reward.reference"} <= read
    if name == "mix":
        for each in numbers.training:
            parts = each["rewards/judge/mean"] + 0.5 * each["rewards/rule/mean"]
            unfinished = each["completions/clipped_ratio"]  # each costs 1
            assert each["reward/score"] == pytest.approx(parts - unfinished, abs=1e-5)


@pytest.mark.slow
def test_a_judge_that_thinks_first_trains_and_resumes_exactly(home: Home, tmp_path: Path) -> None:
    thoughts = {"max_tokens": 4, "samples": 2, "closing": "\n"}
    settings = (
        *configured("reward", "GenerativeJudge", {"path": str(home.judge), "reasoning": thoughts}),
        *(f"{MODEL}iterations", "2", f"{MODEL}judge_gate.mode", "off", "--checkpoint.every_n_batches", "1"),
    )
    cli = home.run("pairwise_ppo", tmp_path / "whole", callback(Numbers), *settings)
    for each in find_callback(cli.trainer, Numbers).training:
        assert each["reward/failed_frac"] == 0
        assert 2 <= each["perf/judge_thought_tokens"] <= 2 * 4
        assert 0 < each["perf/judge_unfinished_thoughts"] <= 1
    with pytest.raises(InterruptedRun):
        home.run("pairwise_ppo", tmp_path / "cut", callback(Interrupt, batch=1), *settings)
    home.run("pairwise_ppo", tmp_path / "cut", "--ckpt_path", "last", *settings)
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "cut")) == []


@pytest.mark.parametrize("source", ["GenerativeJudge", "ScalarReward"])
def test_a_model_that_prl_did_not_train_is_measured_and_trains(
    source: str, home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, scalar = tmp_path / "shelf", source == "ScalarReward"
    kind = {"auto_class": AutoModelForSequenceClassification, "num_labels": 1} if scalar else {}
    tiny_model(3, max_position_embeddings=1024, **kind).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    pairs = str(home.data("pairs.validation"))
    main(["judge", "--judge", str(folder), "--pairs", pairs, "--max_pairs", "2", "--write-passport"])
    caplog.clear()
    cli = home.run(
        *("pairwise_ppo", tmp_path / "run", callback(Numbers), *configured("reward", source, {"path": str(folder)})),
        *(f"{MODEL}iterations", "2"),
    )
    numbers = find_callback(cli.trainer, Numbers)
    assert [each["reward/failed_frac"] for each in numbers.training] == [0] * 2
    told = [record.getMessage() for record in caplog.records if "judge_gate" in record.getMessage()]
    assert any("only 2 labelled pairs" in each for each in told)
    assert not any("rm_passport.json" in each or "passport was written with" in each for each in told)
    assert "training goes on" in told[-1]


def test_a_judge_behind_a_server_trains(home: Home, tmp_path: Path) -> None:
    template = {"text": TEMPLATE.text, "chat": False}
    with serving() as server:
        cli = home.run(
            *("pairwise_ppo", tmp_path / "run", callback(Numbers)),
            *configured("reward", "EndpointJudge", {"base_url": server.url, "model": "m", "template": template}),
            *(f"{MODEL}judge_gate.mode", "off", f"{MODEL}iterations", "2"),
        )
        assert len(server.seen) > 16  # two orders of two batches of eight
    numbers = find_callback(cli.trainer, Numbers).training
    assert all(0 <= each["reward/win_prob"] <= 1 for each in numbers)


class SometimesSilent(LengthJudge):
    """Fails on every second pair of texts, and in every third batch on all but the first."""

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0

    def margins(self, comparisons: list[Any]) -> torch.Tensor:
        pairs = [frozenset(texts) for _, *texts in comparisons]
        numbers = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
        self.num_calls += 1
        silent = [numbers[pair] > 0 if self.num_calls % 3 == 0 else numbers[pair] % 2 == 1 for pair in pairs]
        return super().margins(comparisons).masked_fill(torch.tensor(silent), torch.nan)


class Silent(LengthJudge):
    """Fails always."""

    def margins(self, comparisons: list[Any]) -> torch.Tensor:
        return super().margins(comparisons) * torch.nan

    def failure(self) -> str:
        return "the judge is asleep"


def test_responses_that_could_not_be_judged_are_left_out_and_counted(
    home: Home, tmp_path: Path, experiences: list[Experience]
) -> None:
    kind = f"{__name__}.SometimesSilent"
    cli = home.run(
        *("pairwise_ppo", tmp_path / "run", callback(Numbers), *configured("reward", kind, {})),
        *(f"{MODEL}judge_gate.mode", "off", f"{MODEL}sampling.max_new_tokens", "12", f"{MODEL}update.minibatches", "3"),
        *(f"{MODEL}critic.warmup", "2", f"{MODEL}iterations", "5"),
        *(f"{MODEL}kl.coef", "0.05", f"{MODEL}kl.target", "0.01", f"{MODEL}kl.horizon", "40"),
    )
    numbers = find_callback(cli.trainer, Numbers)
    for each in [*numbers.training, *numbers.validation]:
        assert [name for name, value in each.items() if value != value] == []  # no NaN got anywhere
    assert all(parameter.isfinite().all() for parameter in cli.model.parameters())
    coef, equal = 0.05, 0
    for iteration, (each, experience) in enumerate(zip(numbers.training, experiences, strict=True)):
        judged = [row for row, mask in enumerate(experience.rollout.response_mask) if mask.any()]
        assert each["reward/failed_frac"] == 1 - len(judged) / 8
        log_ratios = [(experience.old_logprobs[row] - experience.ref_logprobs[row]).tolist() for row in judged]
        k1 = sum(map(sum, log_ratios)) / len(judged)
        k3 = sum(math.exp(-d) - 1 + d for row in log_ratios for d in row) / len(judged)
        assert each["kl/k1"] == pytest.approx(k1, rel=1e-4, abs=1e-6)
        assert each["kl/k3"] == pytest.approx(k3, rel=1e-4, abs=1e-6)
        assert (each["kl/k1_stderr"] > 0) == (iteration > 2 and len(judged) > 1)
        assert each["health/negative_kl"] == 0
        equal += len(judged) > 1 and float(experience.rewards[judged].std(correction=0)) < 1e-6
        assert each["health/equal_rewards"] == equal
        assert each["kl/coef"] == pytest.approx(coef, rel=1e-6)
        if iteration >= 2:  # before, only the critic learns
            coef *= 1 + min(max(k1 / 0.01 - 1, -0.2), 0.2) * len(judged) / 40
        # Minibatches of responses without a reward are no steps, and no faults.
        assert 2 <= each["policy/num_steps"] <= 6
        assert each["health/skipped_steps"] == 0
    counts = [sum(bool(mask.any()) for mask in experience.rollout.response_mask) for experience in experiences]
    assert min(counts) == 1 < max(counts) < 8
    assert coef != 0.05


def test_a_judge_that_never_answers_ends_the_run_with_its_reason(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the 8 responses could be rewarded.*the judge is asleep"):
        home.run(
            *("pairwise_ppo", tmp_path / "run", *configured("reward", f"{__name__}.Silent", {})),
            *(f"{MODEL}judge_gate.mode", "off"),
        )


def test_models_that_wait_on_the_cpu_give_the_same_run(home: Home, tmp_path: Path) -> None:
    heldout = configured("heldout_judge", "BradleyTerryJudge", {"path": str(home.bradley_terry)})
    short = (f"{MODEL}iterations", "2", "--trainer.val_check_interval", "1", *heldout)
    home.run("pairwise_ppo", tmp_path / "stay", *short)
    home.run("pairwise_ppo", tmp_path / "move", *short, f"{MODEL}resources.offload_frozen", "true")
    assert differences(state_of(tmp_path / "stay"), state_of(tmp_path / "move")) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_models_that_wait_on_the_cpu_leave_their_memory_to_the_update(home: Home, tmp_path: Path) -> None:
    peaks = {}
    for offload in ("false", "true"):
        cli = home.run(
            *("pairwise_ppo", tmp_path / offload, callback(Numbers), f"{MODEL}iterations", "2"),
            *("--trainer.accelerator", "gpu", f"{MODEL}resources.offload_frozen", offload),
        )
        peaks[offload] = find_callback(cli.trainer, Numbers).training[-1]["mem/peak_gib/update"]
    assert peaks["true"] < peaks["false"]
