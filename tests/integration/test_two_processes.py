"""Two processes on CPU: training must not depend on how a batch is divided over them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from prl.checkpoints.ledger import LEDGER, read_ledger
from prl.distributed import rank
from prl.evaluation.policy.validation_log import ValidationLog
from prl.judge.base import Comparison
from tests.helpers.processes import run_all
from tests.helpers.tiny import LengthJudge
from tests.integration.runs import CONFIGS, Home, Interrupt, callback, differences, last_checkpoint, state_of
from tests.integration.test_resume import batches_in, same_ledger
from tests.integration.test_tensorboard import events, scalars, table, text

MODEL = "--model.init_args."
ZERO = "--trainer.strategy.init_args."
ON_CPU = ("--trainer.strategy", "tests.helpers.cpu_zero.CPUZeRO", f"{ZERO}process_group_backend", "gloo")
STRATEGIES = {
    "ddp": (),
    "fsdp2": ("--trainer.strategy", "fsdp2"),
    "zero2": (*ON_CPU, f"{ZERO}stage", "2"),
    "zero3": (*ON_CPU, f"{ZERO}stage", "3"),
}


def run(
    home: Home, stage: str, folder: Path, processes: int, *overrides: str, ends_with: int = 0
) -> dict[str, torch.Tensor]:
    """Return the final weights of a tiny run in as many processes, each a real `python -m prl`."""
    done = launch(home, stage, folder, processes, *overrides)
    assert done.returncode == ends_with, done.stderr[-3000:]
    return last_checkpoint(folder)["state_dict"]


def launch(
    home: Home, stage: str, folder: Path, processes: int, *overrides: str, verb: str = "fit"
) -> subprocess.CompletedProcess[str]:
    unvalidated = ("--trainer.limit_val_batches", "0") if verb == "fit" else ()
    args = home.arguments(stage, folder, *unvalidated, *overrides, verb=verb)
    args[3:3] = ["--config", str(CONFIGS / "strategies" / "ddp.yaml"), "--trainer.devices", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    return run_all([sys.executable, "-m", "prl", *args], cwd=CONFIGS.parent, env=environment)


@pytest.mark.slow
def test_a_look_ahead_is_that_of_one_process_and_is_refused_for_shards(home: Home, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in home.data("pairs.train").read_text().splitlines()]
    samples = [{"prompt": row["prompt"], "responses": [row["chosen"], row["rejected"], "ab"]} for row in rows]
    (tmp_path / "unlabelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    objective = {"class_path": "prl.objectives.reward.MetaRM", "init_args": {"eta": 0.3}}
    settings = (
        f"{MODEL}objective",
        json.dumps(objective),
        f"{MODEL}unlabelled.path",
        str(tmp_path / "unlabelled.jsonl"),
    )
    alone, together = (run(home, "bradley_terry", tmp_path / str(n), n, *settings) for n in (1, 2))
    for name, weight in alone.items():
        torch.testing.assert_close(together[name], weight, rtol=1e-5, atol=1e-5, msg=name)
    plain = run(home, "bradley_terry", tmp_path / "plain", 1)
    assert max(float((plain[name] - weight).abs().max()) for name, weight in alone.items()) > 1e-3
    for strategy in ("fsdp2", "zero2"):
        done = launch(home, "bradley_terry", tmp_path / strategy, 2, *settings, *STRATEGIES[strategy])
        assert done.returncode != 0
        assert "a look ahead moves the weights before each gradient" in done.stderr
        assert "use trainer.strategy auto or ddp" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["supervised", "generative_reward", "bradley_terry", "preference"])
def test_weights_do_not_depend_on_the_number_of_processes(stage: str, home: Home, tmp_path: Path) -> None:
    settings = (f"{MODEL}text_coef", "1.0") if stage == "generative_reward" else ()
    alone, together = (run(home, stage, tmp_path / str(n), n, *settings) for n in (1, 2))
    for name, weight in alone.items():
        # Four steps of Adam on sums taken in another order: its normalised step amplifies rounding of tiny gradients.
        torch.testing.assert_close(
            together[name], weight, atol=1e-5, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.slow
def test_validation_does_not_depend_on_the_number_of_processes(home: Home, tmp_path: Path) -> None:
    """Nine pairs in slices of three and three, two and one: each counts once, with its own text."""
    settings = ["--trainer.limit_val_batches", "1.0", "--data.init_args.validation_batch_size", "6"]
    for number in (1, 2):
        run(home, "generative_reward", tmp_path / str(number), number, *settings)
    alone, together = (events(tmp_path / str(number)) for number in (1, 2))
    numbers = {tag: points for tag, points in scalars(alone).items() if tag.startswith("val/")}
    assert "val/accuracy_shorter_wins" in numbers
    for tag, points in numbers.items():
        assert np.array(scalars(together)[tag]) == pytest.approx(np.array(points), abs=1e-4), tag
    assert together.Tags()["images"] == alone.Tags()["images"]
    tables = [table(text(board, "samples/order_gap")[-1][1]) for board in (alone, together)]
    assert [row[:5] for row in tables[0]] == [row[:5] for row in tables[1]]


@pytest.mark.parametrize("strategy", ["fsdp2", pytest.param("zero3", marks=pytest.mark.slow)])
def test_pairwise_ppo_trains_in_two_processes_and_each_draws_its_own_samples(
    strategy: str, home: Home, tmp_path: Path
) -> None:
    """With a critic warm-up, in which the policy's weights take no part in the loss, and weights in shards."""
    settings = (f"{MODEL}update.microbatch_size", "2", *STRATEGIES[strategy])
    weights = run(home, "pairwise_ppo", tmp_path, 2, *settings)
    assert all(weight.isfinite().all() for weight in weights.values())
    first, second = state_of(tmp_path)["random_states"]["ranks"]
    assert not torch.equal(first["torch"], second["torch"])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_what_is_computed_once_is_so_in_two_processes(strategy: str, home: Home, tmp_path: Path) -> None:
    """One step over one micro-batch, with adapters on the upper layer."""
    lora = json.dumps({"rank": 2, "target_modules": ".*layers.1.*_proj"})
    settings = [f"{MODEL}update={{epochs: 1, minibatches: 1, microbatch_size: 4}}", *STRATEGIES[strategy]]
    settings += [f"{MODEL}policy.lora={lora}", f"{MODEL}critic.kind", "adapter"]
    again = [f"{MODEL}resources.reuse_scoring", "false", f"{MODEL}resources.reuse_frozen_layers", "false"]
    once, twice = (run(home, "pairwise_ppo", tmp_path / str(len(each)), 2, *settings, *each) for each in ([], again))
    assert differences(once, twice) == []


@pytest.mark.slow
def test_a_signal_to_one_process_ends_both_and_the_run_resumes_exactly(home: Home, tmp_path: Path) -> None:
    """The second process is told to stop in its third rollout: one checkpoint of two batches, and the ledger agrees."""
    settings = (f"{MODEL}update.microbatch_size", "2", "--checkpoint.every_n_batches", "100")
    whole = run(home, "pairwise_ppo", tmp_path / "whole", 2, *settings)
    stop = callback(Interrupt, batch=2, moment="rollout", number=int(signal.SIGTERM), rank=1)
    run(home, "pairwise_ppo", tmp_path / "cut", 2, *settings, stop, ends_with=128 + signal.SIGTERM)
    assert batches_in(tmp_path / "cut") == 2
    lines, facts = read_ledger(tmp_path / "cut" / LEDGER)
    assert sorted(lines) == [1, 2]
    assert facts["processes"] == 2
    resumed = run(home, "pairwise_ppo", tmp_path / "cut", 2, *settings, "--ckpt_path", "last")
    assert differences(whole, resumed) == []
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "cut")) == []
    assert same_ledger(tmp_path / "whole", tmp_path / "cut")


class OneRankInfinite(LengthJudge):
    """The second process, and it alone, gets an infinite margin in its second reading."""

    reading = 0

    def margins(self, comparisons: list[Comparison]) -> torch.Tensor:
        found = super().margins(comparisons)
        self.reading += 1
        if self.reading == 2 and rank() == 1:
            found[0] = torch.inf
        return found


@pytest.mark.slow
def test_both_processes_leave_an_update_out_and_no_row_of_a_validation_is_lost(home: Home, tmp_path: Path) -> None:
    judge = f'{MODEL}reward={{"class_path": "{OneRankInfinite.__module__}.OneRankInfinite"}}'
    heldout = f'{MODEL}heldout_judge={{"class_path": "tests.helpers.tiny.LengthJudge"}}'
    settings = ["--trainer.limit_val_batches", "1.0", "--data.init_args.validation_batch_size", "4"]
    settings += [f"{MODEL}update.microbatch_size", "2"]
    weights = run(home, "pairwise_ppo", tmp_path, 2, *settings, judge, heldout)
    assert all(weight.isfinite().all() for weight in weights.values())
    assert last_checkpoint(tmp_path)["run_state"]["health"]["skipped"] == 1
    saved = sorted((tmp_path / "health").iterdir())
    assert [path.name for path in saved] == ["batch=000002.rank0.pt", "batch=000002.rank1.pt"]
    infinite = [torch.load(path, weights_only=True)["margins"].isinf().any().item() for path in saved]
    assert infinite == [False, True]
    log = ValidationLog(tmp_path)
    prompts = [json.loads(line)["prompt"] for line in home.data("prompts.validation").read_text().splitlines()]
    for line in log.read():
        rows = log.rows(line["batch"])
        assert sorted(row["prompt"][0]["content"] for row in rows) == sorted(prompts)
        assert len({row["row"] for row in rows}) == len(prompts)
        assert line["win_rate"] == pytest.approx(line["win_rate_heldout"])
