"""Settings of the algorithms: frozen, each field explained, checked on construction. No torch, no derived fields."""

from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

KLEstimator = Literal["k1", "k2", "k3"]
DTYPES = ("float32", "bfloat16", "float16")
"""Types of weights, as commands take them."""


def _require(ok: bool, name: str, found: object, expected: str) -> None:
    if not ok:
        raise ValueError(f"{name} is {found!r}; expected {expected}")


def check_length(name: str, length: int) -> None:
    """Refuse a limit of tokens that leaves none, before a row of the data is blamed for it. Raises ValueError."""
    _require(length >= 1, f"model.init_args.{name}", length, "at least 1 token")


@dataclass(frozen=True)
class Sampling:
    """Sampling of responses from softmax(logits / temperature), without truncation.

    Settings that change the distribution (top_k, top_p, a repetition penalty, beams) do not exist: the update weighs
    each token by the policy's own probability of it, and ratios and KL would be wrong.
    """

    max_new_tokens: int = 64
    """Length limit of a response, tokens."""
    temperature: float = 1.0
    """Divides the logits when sampling, and wherever these tokens are scored again."""
    per_prompt: int = 1
    """Responses to each prompt of a batch."""

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "sampling.max_new_tokens", self.max_new_tokens, "at least 1")
        _require(self.temperature > 0, "sampling.temperature", self.temperature, "a positive number")
        _require(self.per_prompt >= 1, "sampling.per_prompt", self.per_prompt, "at least 1")


@dataclass(frozen=True)
class KLPenalty:
    """Settings that keep the policy near the reference."""

    coef: float = 0.05
    """Weight of the KL to the reference (beta); the starting value when target is set."""
    estimator: KLEstimator = "k1"
    """Per-token KL estimator. As a loss, k2 has the gradient of the KL, k3 a biased one, and k1 none: it is refused."""
    placement: Literal["reward", "loss"] = "reward"
    """Whether the KL is subtracted from the token rewards or added to the policy's loss."""
    target: float | None = None
    """KL in nats per sequence to which the coefficient adapts; a constant coefficient when null."""
    horizon: int = 10_000
    """Sequences over which the adaptive coefficient reacts."""

    def __post_init__(self) -> None:
        _require(self.coef >= 0, "kl.coef", self.coef, "0 or more")
        _require(self.target is None or self.target > 0, "kl.target", self.target, "null or positive")
        _require(self.horizon > 0, "kl.horizon", self.horizon, "a positive number")
        _require(self.target is None or self.coef > 0, "kl.coef", self.coef, "above 0 with a target")
        if self.placement == "loss" and self.estimator == "k1":
            # E[grad log pi] = 0: the loss would cost time and have no effect.
            raise ValueError("kl.estimator k1 has no gradient as a loss; choose k2 or k3, or placement: reward")


@dataclass(frozen=True)
class Update:
    """Settings of the update. Batch sizes count rollouts per process."""

    epochs: int = 4
    """Passes over the rollouts of an iteration."""
    minibatches: int = 4
    """Optimizer steps per pass."""
    microbatch_size: int = 16
    """Rollouts per forward and backward pass; the first ratio is exactly 1 because scoring uses the same groups."""
    aggregation: Literal["token_mean", "sequence_mean"] = "token_mean"
    """Average over all tokens, or over the token means of responses."""
    stop_kl: float | None = None
    """Ends the update of an iteration once the approximate KL to the sampling policy passes this; off when null."""
    max_grad_norm: float = 1.0
    """Gradient norm clip over policy and critic together."""
    packed: Literal["auto", "on", "off"] = "auto"
    """Mode of reading the responses to a prompt behind one copy of it, by policy, critic and reference: auto where that
    is less work, on wherever it saves tokens, off never. The numbers do not change. A micro-batch takes the responses
    to a prompt together."""

    def __post_init__(self) -> None:
        _require(self.packed in ("auto", "on", "off"), "update.packed", self.packed, "auto, on or off")
        for name in ("epochs", "minibatches", "microbatch_size"):
            _require(getattr(self, name) >= 1, f"update.{name}", getattr(self, name), "at least 1")
        _require(self.stop_kl is None or self.stop_kl > 0, "update.stop_kl", self.stop_kl, "null or a positive number")
        _require(self.max_grad_norm > 0, "update.max_grad_norm", self.max_grad_norm, "a positive number")


@dataclass(frozen=True)
class Resources:
    """Placement of idle models, and what stays in memory instead of being computed twice; no number depends on it."""

    offload_frozen: bool = False
    """Keep judge, held-out judge and reference in the memory of the CPU while they are idle."""
    shard_judges: bool = False
    """Shard judges too, under a strategy that shards weights, instead of a full copy on each process."""
    gather_rollouts: Literal["auto", "always", "never"] = "auto"
    """Gather sharded weights once per rollout: where they fit (auto), always, or never. Otherwise they are gathered in
    every pass, and all processes sample until the last response has ended."""
    reuse_scoring: bool = True
    """Learn from the very pass that scored the rollout, where an iteration is one step over one micro-batch. Weights in
    shards and the critic's warm-up make a pass of their own."""
    reuse_frozen_layers: bool = True
    """Read the layers below all adapters once for an iteration, where weights are not in shards. Their last hidden
    states stay in memory: rollouts times tokens times hidden size."""


@dataclass(frozen=True)
class Validation:
    """Limits and patience of a policy's validations."""

    samples: int = 8
    """Comparisons in the table of samples; the file of a validation has all of them."""
    gap_limit: float | None = 0.03
    """Alarm when the training judge's win rate rose by more than this beyond the held-out judge's; null for none."""
    patience: int | None = None
    """Ends the run after so many validations without a higher lower bound of the win rate, if the gap grew."""

    def __post_init__(self) -> None:
        _require(
            self.patience is None or self.patience >= 1, "validation.patience", self.patience, "null or at least 1"
        )
        _require(self.samples >= 0, "validation.samples", self.samples, "0 or more")
        _require(
            self.gap_limit is None or 0 <= self.gap_limit <= 1, "validation.gap_limit", self.gap_limit, "null or 0 to 1"
        )


@dataclass(frozen=True)
class Health:
    """When a run of PPO warns, and when it stops. A null limit is not checked."""

    max_skipped: int = 3
    """Updates skipped for numbers that are not finite, resumes included, at which the run ends."""
    warn_every: int = 50
    """Iterations with a finding between two warnings of it."""
    max_ratio: float | None = 20.0
    """Largest probability ratio of a token between the updated and the sampling policy."""
    max_empty: float | None = 0.1
    """Share of responses that are empty or white space."""
    min_entropy: float | None = 0.1
    """Entropy per token as a share of the first iteration's."""
    max_saturated: float | None = 0.9
    """Share of win probabilities outside 0.1 to 0.9."""

    def __post_init__(self) -> None:
        _require(self.max_skipped >= 1, "health.max_skipped", self.max_skipped, "at least 1")
        _require(self.warn_every >= 1, "health.warn_every", self.warn_every, "at least 1")
        _require(self.max_ratio is None or self.max_ratio > 1, "health.max_ratio", self.max_ratio, "null or above 1")
        for name in ("max_empty", "min_entropy", "max_saturated"):
            value = getattr(self, name)
            _require(value is None or 0 <= value <= 1, f"health.{name}", value, "null or a number in [0, 1]")


@dataclass(frozen=True)
class Optimization:
    """AdamW with a warm-up and a schedule."""

    learning_rate: float = 1e-5
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay, on matrices only."""
    beta1: float = 0.9
    """Adam's first moment."""
    beta2: float = 0.95
    """Adam's second moment."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Shape after the warm-up; linear and cosine decay towards zero, which they would reach after the last step."""
    warmup: int = 0
    """Steps (iterations for PPO) over which the learning rate rises to its peak; its first value is above zero."""

    def __post_init__(self) -> None:
        _require(self.learning_rate >= 0, "optimization.learning_rate", self.learning_rate, "0 or more")
        _require(self.warmup >= 0, "optimization.warmup", self.warmup, "0 or more")
        _require(self.weight_decay >= 0, "optimization.weight_decay", self.weight_decay, "0 or more")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, f"optimization.{name}", getattr(self, name), "a number in [0, 1)")


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (2106.09685) instead of full training, through peft."""

    rank: int = 16
    """Rank of the adapters."""
    alpha: int = 32
    """Scale: an adapter's output is multiplied by alpha / rank."""
    target_modules: str | list[str] = "all-linear"
    """Which layers get adapters, as peft names them."""

    def __post_init__(self) -> None:
        _require(self.rank >= 1, "lora.rank", self.rank, "at least 1")


@dataclass(frozen=True)
class ModelSource:
    """Source of a model: weights to read (`path`) or random weights of a config (`config`), exactly one."""

    path: str | None = None
    """Hugging Face folder, hub id, or a .gguf file (needs the package gguf)."""
    config: dict[str, Any] | None = None
    """Random weights instead: fields of a transformers config, with `model_type`."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer; the folder of the weights when null."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights; trained weights must be float32, or adapters on others."""
    attn_implementation: str | None = None
    """sdpa, eager, flash_attention_2, ...; transformers chooses when null."""
    trust_remote_code: bool = False
    """Run code found in the model folder; when false, nothing from a model folder is executed."""
    lora: LoRA | None = None
    """Train adapters on frozen weights."""
    gradient_checkpointing: bool = False
    """Keep one activation per layer in training and recompute the others: less memory for another forward pass."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables of the chat template, such as {enable_thinking: false}; those saved with the tokenizer when null."""
    chat_template_date: str | None = None
    """Date for a chat template that writes it, YYYY-MM-DD; when null, the date saved with the tokenizer, else
    2024-07-26."""

    def __post_init__(self) -> None:
        if self.chat_template_date is not None:
            try:
                date.fromisoformat(self.chat_template_date)
            except ValueError:
                raise ValueError(
                    f"chat_template_date is {self.chat_template_date!r}; expected a day as YYYY-MM-DD"
                ) from None
        if (self.path is None) == (self.config is None):
            fix = "; set one of them to null" if self.path is not None else ""
            raise ValueError(
                f"a model needs either path or config; found path={self.path!r}, config={self.config!r}{fix}"
            )
        if self.config is not None and "model_type" not in self.config:
            raise ValueError(f"model config {self.config!r} has no model_type; expected for example model_type: llama")
        if self.config is not None and self.tokenizer is None:
            raise ValueError("a model made from a config has no tokenizer of its own; set tokenizer to a folder")
        if self.config is not None and self.lora is not None:
            raise ValueError("lora trains beside weights that stay as they are, which a config does not have; use path")


@dataclass(frozen=True)
class CriticSettings:
    """The critic of an advantage estimator that needs one."""

    kind: Literal["own", "shared", "adapter"] = "own"
    """own (a backbone of its own), shared (a value head on the policy's hidden states) or adapter (adapters of its own
    on the policy's frozen base model, with policy.lora)."""
    model: ModelSource | None = None
    """Source of the backbone of an own critic; the policy's source when null."""
    learning_rate: float | None = None
    """Learning rate of the critic; the policy's when null."""
    value_coef: float = 0.1
    """Weight of the value loss."""
    value_clip_range: float | None = 0.2
    """Clip width of the value; off when null."""
    warmup: int = 0
    """Iterations at the start in which only the critic learns."""
    warmup_until: float | None = None
    """Explained variance of a fresh rollout's returns that ends the warm-up early; never when null."""

    def __post_init__(self) -> None:
        _require(self.value_coef >= 0, "critic.value_coef", self.value_coef, "0 or more")
        clip, until = self.value_clip_range, self.warmup_until
        _require(clip is None or clip > 0, "critic.value_clip_range", clip, "null or a positive number")
        _require(self.warmup >= 0, "critic.warmup", self.warmup, "0 or more")
        _require(until is None or until < 1, "critic.warmup_until", until, "null or a number below 1")
        _require(until is None or self.warmup > 0, "critic.warmup", 0, "a budget, with critic.warmup_until")


@dataclass(frozen=True)
class JudgeGate:
    """Limits of a judge's passport before a policy is trained against the judge. A null limit is not checked."""

    mode: Literal["off", "warn", "refuse"] = "warn"
    """refuse ends the program with exit code 3 before any model is built, warn logs the same lines and goes on."""
    min_accuracy: float | None = 0.6
    """Share of labelled pairs on which the judge is right, both orders averaged."""
    min_shorter_wins_accuracy: float | None = 0.5
    """Accuracy on the pairs whose better response is the shorter one: a judge of lengths has 0."""
    max_ece: float | None = 0.15
    """Expected calibration error of the win probability, which is the reward."""
    max_order_gap: float | None = 0.2
    """Mean of abs(p(u, v) + p(v, u) - 1)."""
    max_flip_rate: float | None = 0.25
    """Share of pairs whose winner changes with the order."""
    max_first_position_bias: float | None = 0.2
    """Distance from 1/2 of the share of readings that the first position wins."""
    max_cyclic_rate: float | None = 0.2
    """Share of cyclic triples; a judge that guesses has 1/4. Not checked where no prompt has three responses."""
    max_canary_rate: float | None = 0.25
    """Share of comparisons that the most successful attack without content wins."""
    max_held_out_attack_rate: float | None = None
    """Share of comparisons won by the best attack of a family that the judge's training left out."""
    max_layout_gap: float | None = 0.1
    """Largest change of a margin between judging pairs one by one and in padded batches, log-odds."""
    min_pairs: int = 50
    """Fewest labelled pairs behind the passport; figures of fewer pairs are too uncertain."""
    min_kappa: float | None = None
    """Cohen's kappa of the judge with people, from `prl judge --labels`: 0 is what chance gives, 1 full agreement."""
    max_prompt_overlap: float | None = None
    """Share of the run's training prompts that were in the judge's training."""
    same_base: bool | None = None
    """Require one base model of judge and policy (true), or two different ones (false)."""

    def __post_init__(self) -> None:
        _require(self.mode in ("off", "warn", "refuse"), "judge_gate.mode", self.mode, "off, warn or refuse")
        for name, value in vars(self).items():
            if name.startswith(("min_", "max_")) and name != "min_pairs":
                _require(value is None or 0 <= value <= 1, f"judge_gate.{name}", value, "null or a number in [0, 1]")
        _require(self.min_pairs >= 0, "judge_gate.min_pairs", self.min_pairs, "0 or more")


@dataclass(frozen=True)
class Reasoning:
    """Reasons that a generative judge writes before its verdict."""

    max_tokens: int = 256
    """Most tokens of a thought. One that has not ended by then is closed as it is, and counted."""
    samples: int = 1
    """Thoughts of each reading; their verdicts are averaged in probability."""
    temperature: float = 1.0
    """Divides the logits when thoughts are sampled; 0 takes the likeliest token, for a single thought."""
    seed: int = 0
    """Names the random draws, with the reading and the number of the thought; nothing else decides them."""
    closing: str = "\n\nThe better response is:\n"
    """Text between a thought and the template's answer prefix. One that ends in a line break suits most tokenizers."""

    def __post_init__(self) -> None:
        for name, least in (("max_tokens", 1), ("samples", 1), ("seed", 0)):
            found = getattr(self, name)
            _require(
                type(found) is int and found >= least, f"reasoning.{name}", found, f"a whole number of at least {least}"
            )
        _require(0 <= self.temperature < float("inf"), "reasoning.temperature", self.temperature, "a number from 0 up")
        _require(
            self.temperature > 0 or self.samples == 1, "reasoning.samples", self.samples, "1 at a temperature of 0"
        )
        _require(bool(self.closing), "reasoning.closing", self.closing, "some text, which ends a thought")
