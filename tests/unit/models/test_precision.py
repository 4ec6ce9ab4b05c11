"""Which types can learn, and which models keep their own."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification

from lightning_modules.base import TrainingModule
from lightning_modules.optimizers import check_learns, parameter_group
from lightning_modules.strategies import ZeROStrategy, sharding_of
from prl.config import LoRA, ModelSource, Optimization
from prl.data import Demonstration
from prl.judge import BradleyTerryJudge, ComparisonEncoder, GenerativeJudge, JudgeTemplate
from prl.judge.bradley_terry import save_bradley_terry
from prl.judge.files import save_judge
from prl.models.adapters import add_adapters
from prl.models.loading import load_causal_lm, load_scalar_classifier
from prl.models.offload import Offload
from prl.rewards.scalar import ScalarReward
from prl.rl.judging import Judging, shard_judge
from prl.rl.sharding import Sharding
from prl.types import PromptBatch, Scores
from tests.helpers.records import answered
from tests.helpers.tiny import LengthJudge, tiny_model, tiny_tokenizer

TEMPLATE = JudgeTemplate("{{ prompt }}\n1:{{ response_a }}\n2:{{ response_b }}\n?", chat=False)


class OneMatrix(TrainingModule):
    """Ten thousand weights of the size that a language model's have."""

    record_type = Demonstration

    def __init__(self, dtype: torch.dtype, rate: float) -> None:
        super().__init__()
        self.model, self.optimization = torch.nn.Linear(100, 100, dtype=dtype), Optimization(learning_rate=rate)
        torch.nn.init.normal_(self.model.weight, std=0.02)

    def build_encoder(self) -> Any:
        raise NotImplementedError

    def export(self, folder: Path, *, merge: bool = True) -> None:
        raise NotImplementedError

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.model(batch).square().sum()


def moved_share(dtype: torch.dtype, rate: float, precision: Any) -> float:
    """Share of the weights that one step changes."""
    module = OneMatrix(dtype, rate)
    before = module.model.weight.detach().clone()
    trainer = Trainer(accelerator="cpu", max_steps=1, barebones=True, precision=precision)
    trainer.fit(module, DataLoader(torch.randn(8, 100), batch_size=8))
    return float((module.model.weight.detach() != before).float().mean())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("rate", [1e-6, 1e-5])
def test_a_step_moves_the_weights_or_is_refused(precision: str, rate: float) -> None:
    assert moved_share(torch.float32, rate, precision) > 0.99
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(ValueError, match="the model is to learn in .*float16, where most steps are rounded away"):
            moved_share(dtype, rate, precision)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_precision_that_rounds_everything_is_refused(precision: str) -> None:
    with pytest.raises(ValueError, match=f"trainer.precision is {precision}, .* use bf16-mixed"):
        moved_share(torch.float32, 1e-3, precision)


@pytest.mark.parametrize("load", [load_causal_lm, load_scalar_classifier])
def test_what_learns_beside_a_base_in_bfloat16_is_float32(load: Any, tiny_folder: Path) -> None:
    model = load(ModelSource(path=str(tiny_folder), dtype="bfloat16", lora=LoRA(rank=2)))
    if load is load_causal_lm:
        add_adapters(model, "critic")
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert {each.dtype for name, each in model.named_parameters() if name in trained} == {torch.float32}
    assert {each.dtype for name, each in model.named_parameters() if name not in trained} == {torch.bfloat16}
    assert any("score" in name for name in trained) == (load is load_scalar_classifier)
    model(torch.ones(1, 3, dtype=torch.long)).logits.sum().backward()  # types attach_policy in the forward pass
    check_learns(parameter_group(model.parameters(), Optimization(), "model"))


# ---- judges


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make a folder of each kind; the weights of their heads give logits as large as a trained judge's."""
    root, tokenizer = tmp_path_factory.mktemp("judges"), tiny_tokenizer()
    model, scalar = tiny_model(1), tiny_model(2, AutoModelForSequenceClassification, num_labels=1)
    for head in (model.lm_head, scalar.score):
        head.weight.data.mul_(20)
    save_judge(root / "generative", model, tokenizer, ComparisonEncoder(tokenizer, TEMPLATE, 160))
    save_bradley_terry(root / "bradley_terry", scalar, tokenizer, 160)
    return {kind: root / kind for kind in ("generative", "bradley_terry")}


def batch_of(number: int) -> PromptBatch:
    prompts = [[{"role": "user", "content": f"question {n}"}] for n in range(number)]
    ids = torch.ones(number, 2, dtype=torch.long)
    return PromptBatch(ids, ids.bool(), prompts, [(f"anchor {7 * n % 5}",) for n in range(number)])


RESPONSES = [f"response {n * n % 23}" for n in range(12)]
SOURCES = {
    "generative": lambda folders, **options: GenerativeJudge(str(folders["generative"]), **options),
    "generative, cached": lambda folders, **options: GenerativeJudge(
        str(folders["generative"]), prefix_cache_gib=0.01, **options
    ),
    "Bradley-Terry": lambda folders, **options: BradleyTerryJudge(str(folders["bradley_terry"]), **options),
    "scalar": lambda folders, **options: ScalarReward(str(folders["bradley_terry"]), **options),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_judge_says_under_autocast_what_was_measured_without(kind: str, judges: dict[str, Path]) -> None:
    def score(autocast: bool) -> Scores:
        source = SOURCES[kind](judges)
        source.load()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return source.score(answered(batch_of(12), RESPONSES))

    measured, used = score(False), score(True)
    assert torch.equal(measured.rewards, used.rewards)
    assert torch.equal(measured.verdict.margin_ab, used.verdict.margin_ab)  # type: ignore[union-attr]
    assert used.rewards.dtype == torch.float32


def test_around_any_other_source_of_rewards_there_is_no_autocast_either() -> None:
    judge = LengthJudge()
    shared: Any = {"tokenizer": None, "offload": Offload(False), "sharding": Sharding()}
    judging = Judging(judge, None, with_thoughts=False, **shared)
    with torch.autocast("cpu", torch.bfloat16), judging.at_work(judge):
        assert not torch.is_autocast_enabled("cpu")


def test_verdicts_of_a_judge_in_bfloat16_are_read_in_float32(judges: dict[str, Path]) -> None:
    """Beside transformers' own hidden states, through a head in float64."""
    judge = GenerativeJudge.from_pretrained(str(judges["generative"]), dtype="bfloat16", fused="off")
    prompts = batch_of(12).prompts
    found = torch.stack([judge.margins([(prompts[n], RESPONSES[n], "an anchor")])[0] for n in range(12)])
    for n, margin in enumerate(found):
        ids, _ = judge.encoder.compare(prompts[n], RESPONSES[n], "an anchor")
        hidden = judge.model.model(torch.tensor([ids])).last_hidden_state[0, -1].double()
        first, second = (hidden @ judge.model.lm_head.weight[token].double() for token in judge.encoder.verdict_ids)
        torch.testing.assert_close(margin.double(), first - second, rtol=1e-5, atol=1e-4)
    assert not torch.equal(found, found.bfloat16().float())  # a bfloat16 head gives multiples of 1/8 and more


def test_rewards_of_a_scalar_judge_in_bfloat16_are_read_in_float32(judges: dict[str, Path]) -> None:
    judge = BradleyTerryJudge(str(judges["bradley_terry"]), dtype="bfloat16")
    judge.load()
    prompt = batch_of(1).prompts[0]
    for response in RESPONSES[:4]:
        ids = torch.tensor([judge.encoder.encode_response(prompt, response)["ids"]])  # type: ignore[union-attr]
        last = int((ids[0] != judge.model.config.pad_token_id).nonzero().max())
        hidden = judge.model.model(ids).last_hidden_state[0, last].double()
        expected = hidden @ judge.model.score.weight[0].double()
        found = judge.rewards([prompt], [response])[0]
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("dtype", "precision", "refused"), [
    ("float32", "bf16-mixed", True), ("bfloat16", "bf16-mixed", False), ("float32", "32-true", False)
])  # fmt: skip
def test_deepspeed_would_convert_a_judge_in_shards(
    dtype: str, precision: str, refused: bool, judges: dict[str, Path]
) -> None:
    pytest.importorskip("deepspeed")
    sharding = sharding_of(SimpleNamespace(strategy=ZeROStrategy(stage=3)))
    judge = BradleyTerryJudge(str(judges["bradley_terry"]), dtype)
    with pytest.raises(ValueError, match="is to work in float32 in shards") if refused else nullcontext():
        shard_judge(judge, sharding, precision, cut=True)  # its model is not read, so nothing is cut
    shard_judge(judge, sharding, precision, cut=False)
