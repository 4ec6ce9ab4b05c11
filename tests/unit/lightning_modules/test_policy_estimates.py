"""Memory of scoring and update as estimated, beside what the tensors of a real iteration take."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from datamodules import PromptDataModule
from lightning_modules import PairwisePPOModule
from lightning_modules.estimates import plan_memory
from lightning_modules.policy_estimates import sampling_memory
from prl.cli.commands.estimate import runs_on_cpu
from prl.config import CriticSettings, LoRA, ModelSource, Optimization, Sampling, Update
from prl.data import DataSource
from prl.models import packed_linear
from prl.models.memory import PeakOfTensors, on_fake_tensors
from prl.rewards import RuleReward
from prl.rollouts.decoding import decode_rows
from prl.rollouts.drawing import draw_tokens
from prl.rollouts.generate import decode
from prl.types import PromptBatch, Rollout
from tests.helpers.tiny import tiny_model, tiny_tokenizer, write_tiny_model

PROMPT, ANSWER, PROMPTS = 48, 40, 4


def vowels(prompt: Any, response: str, row: dict[str, Any]) -> float:
    return float(sum(map(response.count, "aeiou")))


class Counted(PairwisePPOModule):
    """Draws responses of full length without the policy, and counts the tensors of each phase."""

    def generate(self, batch: PromptBatch, *, training: bool = True) -> Rollout:
        self.peaks: dict[str, int] = {}
        ids = torch.randint(5, len(self.tokenizer), (len(batch), ANSWER))
        mask, finished = torch.ones_like(ids, dtype=torch.bool), torch.zeros(len(ids), dtype=torch.bool)
        return Rollout(batch, ids, mask, finished, decode(self.tokenizer, ids, mask, finished), ANSWER)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        with PeakOfTensors([*self.parameters(), *self.buffers()]) as tracker:
            yield
        self.peaks[name] = tracker.peak


def configured(folder: Path, samples: int, kind: str | None, epochs: int, **settings: Any) -> Counted:
    write_tiny_model(folder, hidden_size=32, intermediate_size=96, **settings.pop("model", {}))
    rows = [f'{{"prompt": "{"abcdefgh"[n % 8] * (PROMPT - 1 - n % 2)}"}}' for n in range(2 * PROMPTS)]
    (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    return Counted(
        ModelSource(path=str(folder), lora=LoRA(rank=4) if kind == "adapter" else None),
        RuleReward(vowels),
        iterations=2,
        max_prompt_length=PROMPT,
        sampling=Sampling(ANSWER, per_prompt=samples),
        update=Update(epochs, 1, PROMPTS * samples, **settings),
        critic=CriticSettings(kind=kind),
        optimization=Optimization(1e-4),
    )


def run_two_iterations(module: Counted, folder: Path) -> None:
    data = DataSource(str(folder / "prompts.jsonl"))
    trainer = lightning.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=0,
        enable_model_summary=False, accelerator="cpu", default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, PromptDataModule(data, data, batch_size=PROMPTS, num_workers=0))


LARGE = {"model": {"vocab_size": 3000}}
CASES: dict[str, tuple[int, str, int, dict[str, Any]]] = {
    "one response": (1, "own", 2, {}),
    "two responses": (2, "own", 2, {}),
    "four responses": (4, "own", 2, {}),
    "four responses, scored once": (4, "own", 1, {}),
    "four responses, read plainly": (4, "own", 2, {"packed": "off"}),
    "four responses, a head as critic": (4, "shared", 2, {}),
    "four responses, adapters": (4, "adapter", 2, {}),
    "a large vocabulary": (1, "own", 2, LARGE),
    "four responses, a large vocabulary": (4, "own", 2, LARGE),
}


QUICK = ("four responses", "four responses, scored once", "a large vocabulary")


SLOW = [pytest.param(each, marks=pytest.mark.slow) for each in CASES if each not in QUICK]


@pytest.mark.parametrize("case", [*QUICK, *SLOW])
def test_scoring_and_update_take_what_their_tensors_take(case: str, tmp_path: Path) -> None:
    samples, kind, epochs, settings = CASES[case]
    module = configured(tmp_path, samples, kind, epochs, **settings)
    run_two_iterations(module, tmp_path)
    plan = plan_memory(module, PROMPTS * samples)
    planned = {**plan.working, **plan.alone}
    apart = kind != "shared" and epochs > 1 and settings != LARGE  # whose logits are most of it
    assert (plan.alone["update"] < 0.8 * plan.working["update"]) == apart
    for phase in ("score", "update") if epochs > 1 else ("score",):  # where most of what the update holds is made
        assert 0.9 < planned[phase] / module.peaks[phase] < 1.15, phase


def test_a_micro_batch_that_cuts_a_prompt_reads_its_other_part_too(tmp_path: Path) -> None:
    module = configured(tmp_path, 4, "shared", 2)
    plan = plan_memory(module, 4 * PROMPTS)
    whole = plan.working["update"]
    double = plan_memory(module, 4 * PROMPTS, precision="64-true")
    assert [each.total for each in double.cut] == [2 * each.total for each in plan.cut]
    assert double.working["update"] == pytest.approx(2 * whole, rel=0.15)  # log-probabilities are float32
    module.microbatch_size = 6  # at most one response, the four of the next prompt, and one
    six = plan_memory(module, 4 * PROMPTS).working["update"]
    tokens = {"six": 3 * PROMPT + 6 * (ANSWER - 1), "whole": PROMPTS * (PROMPT + 4 * (ANSWER - 1))}
    least = tokens["six"] / tokens["whole"]  # attention has places for four responses to each prompt
    assert least < six / whole < 1.15 * least


STEPS = 24


def sampled(rows: int, samples: int, mixed: bool) -> dict[str, int]:
    """Bytes of sampling, estimated and as tensors take them."""
    shape = {"hidden_size": 64, "intermediate_size": 192}
    half = torch.autocast("cpu", torch.bfloat16, enabled=mixed, cache_enabled=False)
    with FakeTensorMode() as mode, half:
        fake = on_fake_tensors(lambda: tiny_model(0, **shape), mode)
        estimated = sampling_memory(fake, rows, samples, PROMPT, STEPS)
    model, prompts = tiny_model(0, **shape), torch.arange(rows).repeat_interleave(samples)[:rows]
    ids = (prompts[:, None] + 5).expand(-1, PROMPT).contiguous()

    def choose(logits: torch.Tensor, rows: torch.Tensor, step: int) -> torch.Tensor:
        return draw_tokens(logits, 1.0, torch.full((len(rows),), 0.5, dtype=torch.float64))

    settings: Any = {"limits": torch.full((rows,), STEPS), "end_ids": [-1], "pad_id": 0}
    with half, PeakOfTensors([*model.parameters(), *model.buffers()]) as tracker:
        decode_rows(model, ids, torch.ones_like(ids, dtype=torch.bool), choose, **settings)
    return {"estimated": estimated, "measured": tracker.peak}


@pytest.mark.parametrize(("samples", "mixed"), [(1, False), (4, False), (1, True), (4, True)])
def test_sampling_takes_what_its_tensors_take(samples: int, mixed: bool) -> None:
    found = sampled(8, samples, mixed)
    assert 1 <= found["estimated"] / found["measured"] < 1.3, found


def test_weights_that_are_cast_or_laid_out_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(0)
    linear = [each for each in model.modules() if isinstance(each, torch.nn.Linear)]
    weights = sum(4 * each.weight.numel() for each in linear)

    def estimated(mixed: bool = False, **given: Any) -> int:
        half = torch.autocast("cpu", torch.bfloat16, enabled=mixed, cache_enabled=False)
        with FakeTensorMode() as mode, half:
            fake = on_fake_tensors(lambda: tiny_model(0), mode)
            return sampling_memory(fake, 2, 1, 1, STEPS, **given)

    assert estimated(on_cpu=True) == estimated()  # too small to pay
    monkeypatch.setattr(packed_linear, "LEAST_BYTES", 0)
    with packed_linear.packed_linears(model, 2, STEPS) as changed:
        assert changed == len(linear)
    assert estimated(on_cpu=True) == estimated() + weights
    assert estimated(on_cpu=True, whole=False) == estimated()
    assert estimated(mixed=True, whole=False) < estimated(mixed=True) - weights / 4
    assert estimated(mixed=True, on_cpu=True) == estimated(mixed=True)  # which sampling does not lay out
    draw = 4 * 3 * 2 * len(tiny_tokenizer())
    numbers = 2 * (1 + STEPS) * 2 * 16  # of keys, which stay float32, and as many of values
    assert estimated(mixed=True) == pytest.approx(weights / 2 + draw + (4 + 2) * numbers, rel=0.05)


@pytest.mark.parametrize(("accelerator", "found"), [("cpu", True), ("gpu", False), ("auto", True)])
def test_the_accelerator_says_whether_weights_are_laid_out(accelerator, found, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert runs_on_cpu(accelerator) is found
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runs_on_cpu(accelerator) is (accelerator == "cpu")
