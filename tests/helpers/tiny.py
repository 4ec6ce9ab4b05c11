"""Tiny models and planted judges: built in process, nothing is downloaded."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from prl.judge import PairwiseJudge
from prl.judge.base import Comparison
from prl.judge.bradley_terry import save_bradley_terry
from prl.quickstart.tokenizer import build_tokenizer

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,  # wide, so that margins and values of random weights differ visibly
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def tiny_model(seed: int = 0, auto_class: Any = AutoModelForCausalLM, **config_overrides: Any) -> Any:
    """Random weights that depend on the seed only; the caller's random state stays as it was."""
    tokenizer = tiny_tokenizer()
    fields = {"vocab_size": len(tokenizer), **LLAMA, **config_overrides}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        fields.setdefault(name, getattr(tokenizer, name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto_class.from_config(AutoConfig.for_model(**fields), dtype=torch.float32)
    return model.eval()


def write_tiny_model(folder: Path, seed: int = 0, **config_overrides: Any) -> Path:
    """Write a random causal language model and its tokenizer into a folder in transformers' format."""
    folder = Path(folder)
    tiny_model(seed, **config_overrides).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_tiny_reward_model(folder: Path, seed: int) -> Path:
    """Write a random Bradley-Terry model, whose rewards differ visibly, as training writes it."""
    model = tiny_model(seed, AutoModelForSequenceClassification, num_labels=1)
    torch.nn.init.normal_(model.score.weight, std=0.3)
    save_bradley_terry(folder, model, tiny_tokenizer(), 64)
    return Path(folder)


class PlantedJudge(PairwiseJudge):
    """A judge that follows a rule of the two texts, so that a test knows every verdict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("place", torch.zeros(()), persistent=False)  # shows the device that Lightning moved it to

    def rule(self, first: str, second: str) -> float:
        raise NotImplementedError

    def margins(self, comparisons: list[Comparison]) -> Tensor:
        numbers = [self.rule(first, second) for _, first, second in comparisons]
        return torch.tensor(numbers, dtype=torch.float32, device=self.place.device)


class LengthJudge(PlantedJudge):
    """The longer response is better: margin = scale * (len(first) - len(second))."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def rule(self, first: str, second: str) -> float:
        return self.scale * (len(first) - len(second))


class PositionJudge(PlantedJudge):
    """The first place is better, whatever stands there."""

    def __init__(self, bias: float = 2.0) -> None:
        super().__init__()
        self.bias = bias

    def rule(self, first: str, second: str) -> float:
        return self.bias


class ConstantJudge(PlantedJudge):
    """No opinion: every margin is zero."""

    def rule(self, first: str, second: str) -> float:
        return 0.0
