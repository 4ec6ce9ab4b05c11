"""Learning curves of tiny runs beside those of the record: a change that moves any logged number shows up here.

The record says what prl did, not what is right; that is for the tests beside it. A change that is meant to move the
curves writes a new one, and its commit says why, as does a release of transformers that initialises weights otherwise:

    python -m tests.integration.test_golden_curves
"""

import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback

from prl.rollouts.generate import decode
from prl.types import PromptBatch, Rollout
from tests.integration.runs import DATA, Home, Numbers, build_home, callback, find_callback

RECORD = Path(__file__).with_name("golden_curves.json")
MEASURED = ("time/", "mem/", "perf/", "tok/s")
"""Beginnings of names that differ from run to run."""


class FixedRollouts(Callback):
    """Puts responses that depend on no random numbers of torch in the place of sampled ones."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        actors, draw = pl_module.actors, random.Random(0)
        sample, width = actors.sample, pl_module.sampling.max_new_tokens

        def fixed(batch: PromptBatch, version: int, *, training: bool) -> Rollout:
            sampled = sample(batch, version, training=training)
            rows = len(sampled)
            lengths = torch.tensor([draw.randint(1, width) for _ in range(rows)])
            ids = torch.tensor([[draw.randint(10, 40) for _ in range(width)] for _ in range(rows)])
            finished = torch.tensor([draw.random() < 0.7 for _ in range(rows)])
            ids[finished, lengths[finished] - 1] = actors.end_ids[0]
            mask = torch.arange(width) < lengths[:, None]
            texts = decode(actors.tokenizer, ids, mask, finished)
            return replace(sampled, response_ids=ids * mask, response_mask=mask, finished=finished, texts=texts)

        actors.sample = fixed


def curves(home: Home, run: Path, stage: str) -> dict[str, list[dict[str, float]]]:
    """Run a stage; return the numbers logged at each training batch and each validation."""
    fixed = [callback(FixedRollouts)] if stage == "pairwise_ppo" else []
    if stage == "preference":  # measured against its own start, the first accuracy would be one of rounding
        fixed = ["--model.init_args.reference.path", str(home.judge)]
    shorter = ["--checkpoint.every_n_batches", "100", "--trainer.logger", "false"]
    cli = home.run(stage, run, "--seed_everything", "0", *shorter, callback(Numbers), *fixed)
    seen = find_callback(cli.trainer, Numbers)
    return {
        "training": [_without_measured(each) for each in seen.training],
        "validation": [_without_measured(each) for each in seen.validation],
    }


def _without_measured(numbers: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in sorted(numbers.items()) if not name.startswith(MEASURED)}


@pytest.mark.parametrize("stage", DATA)
def test_a_run_learns_as_the_record_says(stage: str, home: Home, tmp_path: Path) -> None:
    record, seen = json.loads(RECORD.read_text())[stage], curves(home, tmp_path / "run", stage)
    for phase in ("training", "validation"):
        assert len(seen[phase]) == len(record[phase]) > 0
        for number, (now, then) in enumerate(zip(seen[phase], record[phase], strict=True)):
            assert now == pytest.approx(then, rel=1e-3, abs=1e-5, nan_ok=True), (phase, number)


def main() -> None:
    """Write a new record."""
    with tempfile.TemporaryDirectory() as temporary:
        home = build_home(Path(temporary) / "home")
        record = {stage: curves(home, Path(temporary) / stage, stage) for stage in DATA}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
