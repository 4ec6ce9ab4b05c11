"""Settings of the algorithms: frozen, each field explained, checked when made. No torch, no derived fields."""

from dataclasses import dataclass, fields
from datetime import date
from typing import Any, Literal

RewardMapping = Literal["probability", "mean_probability", "centered", "log_odds"]
MissingEOS = Literal["keep", "replace", "penalise"]
KLEstimator = Literal["k1", "k2", "k3"]
DTYPES = ("float32", "bfloat16", "float16")
"""Types of weights, as commands take them."""


def _require(ok: bool, name: str, found: object, expected: str) -> None:
    if not ok:
        raise ValueError(f"{name} is {found!r}; expected {expected}")


@dataclass(frozen=True)
class Sampling:
    """How the policy samples: from softmax(logits / temperature), whole.

    The fields after `per_prompt` take their defaults only. They are here to be refused with the reason.
    """

    max_new_tokens: int = 64
    """Length limit of a response, tokens."""
    temperature: float = 1.0
    """Divides the logits when sampling, and wherever these tokens are scored again."""
    per_prompt: int = 1
    """Rollouts of each prompt of a batch."""
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0
    num_beams: int = 1

    def __post_init__(self) -> None:
        for entry in fields(self):
            free = entry.name in ("max_new_tokens", "temperature", "per_prompt")
            if not free and getattr(self, entry.name) != entry.default:
                # The update weighs each token by the policy's own probability of it, and the ratio of the first update
                # would not be one.
                raise ValueError(
                    f"sampling.{entry.name} is {getattr(self, entry.name)!r}, and only {entry.default!r} can be "
                    "trained: it changes the distribution that tokens are drawn from, so that their log-probabilities "
                    "under the policy, and with them ratios and KL, would be wrong. Use sampling.temperature, or set "
                    "it where the finished model is used"
                )
        _require(self.max_new_tokens >= 1, "sampling.max_new_tokens", self.max_new_tokens, "at least 1")
        _require(self.temperature > 0, "sampling.temperature", self.temperature, "a positive number")
        _require(self.per_prompt >= 1, "sampling.per_prompt", self.per_prompt, "at least 1")


@dataclass(frozen=True)
class Reward:
    """How a verdict becomes token rewards."""

    mapping: RewardMapping = "probability"
    """Sequence reward made of the debiased verdict against the anchor."""
    max_log_odds: float = 5.0
    """Clip of the log-odds mapping."""
    missing_eos: MissingEOS = "penalise"
    """What happens to the reward of a response that hits the length limit."""
    missing_eos_value: float | None = None
    """What is taken off (penalise; 1 when null), or the reward instead (replace; must be given)."""
    judge_thoughts: bool = False
    """Whether judges and rules read the thoughts in front of an answer (`<think> ... </think>`) too. Otherwise they
    read the answer alone, which is empty where the thoughts do not end."""
    overlong_penalty: float = 0.0
    """What is taken off at the length limit; it rises from nothing over the last overlong_buffer tokens (DAPO)."""
    overlong_buffer: int = 16
    """Tokens before the length limit over which overlong_penalty rises."""
    kl_coef: float = 0.05
    """Weight of the KL to the reference (beta); the starting value when kl_target is set."""
    kl_estimator: KLEstimator = "k1"
    """Per-token KL estimator. As a loss, k2 has the gradient of the KL, k3 a biased one, and k1 none: it is refused."""
    kl_placement: Literal["reward", "loss"] = "reward"
    """Whether the KL is taken off the token rewards or added to the policy loss."""
    kl_target: float | None = None
    """Nats per sequence that an adaptive coefficient steers to; a fixed coefficient when null."""
    kl_horizon: int = 10_000
    """Sequences over which the adaptive coefficient reacts."""

    def __post_init__(self) -> None:
        _require(self.kl_coef >= 0, "reward.kl_coef", self.kl_coef, "0 or more")
        _require(self.max_log_odds > 0, "reward.max_log_odds", self.max_log_odds, "a positive number")
        _require(self.kl_target is None or self.kl_target > 0, "reward.kl_target", self.kl_target, "null or positive")
        _require(self.kl_horizon > 0, "reward.kl_horizon", self.kl_horizon, "a positive number")
        _require(self.kl_target is None or self.kl_coef > 0, "reward.kl_coef", self.kl_coef, "above 0 with a kl_target")
        _require(self.overlong_penalty >= 0, "reward.overlong_penalty", self.overlong_penalty, "0 or more")
        _require(self.overlong_buffer >= 1, "reward.overlong_buffer", self.overlong_buffer, "at least 1")
        missing = self.missing_eos == "replace" and self.missing_eos_value is None
        _require(not missing, "reward.missing_eos_value", None, "a number with missing_eos: replace")
        if self.kl_placement == "loss" and self.kl_estimator == "k1":
            # E[grad log pi] = 0: the loss would cost time and pull nowhere.
            raise ValueError(
                "reward.kl_estimator k1 has no gradient as a loss; choose k2 or k3, or kl_placement: reward"
            )


@dataclass(frozen=True)
class PPO:
    """The update. Batch sizes count rollouts per process."""

    epochs: int = 4
    """Passes over the rollouts of an iteration."""
    minibatches: int = 4
    """Optimizer steps per pass."""
    microbatch_size: int = 16
    """Rollouts per forward and backward pass; the first ratio is exactly 1 because scoring uses the same groups."""
    gamma: float = 1.0
    """Discount."""
    gae_lambda: float = 0.95
    """Trace decay of the advantages."""
    critic_lambda: float | None = None
    """Trace decay of the critic's targets; gae_lambda when null (VC-PPO decouples them, with 1.0 here)."""
    length_adaptive_alpha: float | None = None
    """Replaces gae_lambda by 1 - 1 / (alpha * length) per response (VAPO); off when null."""
    whiten_advantages: bool = True
    """Zero mean, unit variance over the tokens of the global batch."""
    clip_range: float = 0.2
    """Lower clip width of the ratio, and the upper one unless clip_range_high is set."""
    clip_range_high: float | None = None
    """Upper clip width (clip-higher)."""
    dual_clip: float | None = None
    """Bound of the loss for negative advantages, above 1; off when null."""
    value_clip_range: float | None = 0.2
    """Clip width of the value; off when null."""
    value_coef: float = 0.1
    """Weight of the value loss."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus."""
    aggregation: Literal["token_mean", "sequence_mean"] = "token_mean"
    """Average over all tokens, or over responses of each one's token mean."""
    stop_kl: float | None = None
    """Ends the update of an iteration once the approximate KL to the sampling policy passes this; off when null."""
    max_grad_norm: float = 1.0
    """Gradient norm clip over policy and critic together."""
    critic_warmup: int = 0
    """Iterations at the start in which only the critic learns."""
    critic_warmup_until: float | None = None
    """Explained variance of a fresh rollout's returns that ends critic_warmup early; never when null."""

    def __post_init__(self) -> None:
        for name in ("epochs", "minibatches", "microbatch_size"):
            _require(getattr(self, name) >= 1, f"ppo.{name}", getattr(self, name), "at least 1")
        _require(0 <= self.gamma <= 1, "ppo.gamma", self.gamma, "a number in [0, 1]")
        _require(0 <= self.gae_lambda <= 1, "ppo.gae_lambda", self.gae_lambda, "a number in [0, 1]")
        _require(0 < self.clip_range < 1, "ppo.clip_range", self.clip_range, "a number in (0, 1)")
        for name in ("clip_range_high", "value_clip_range", "length_adaptive_alpha", "stop_kl"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"ppo.{name}", value, "null or a positive number")
        decay = self.critic_lambda
        _require(decay is None or 0 <= decay <= 1, "ppo.critic_lambda", decay, "null or a number in [0, 1]")
        _require(self.value_coef >= 0, "ppo.value_coef", self.value_coef, "0 or more")
        _require(self.entropy_coef >= 0, "ppo.entropy_coef", self.entropy_coef, "0 or more")
        _require(self.dual_clip is None or self.dual_clip > 1, "ppo.dual_clip", self.dual_clip, "null or above 1")
        _require(self.critic_warmup >= 0, "ppo.critic_warmup", self.critic_warmup, "0 or more")
        until = self.critic_warmup_until
        _require(until is None or until < 1, "ppo.critic_warmup_until", until, "null or a number below 1")
        _require(until is None or self.critic_warmup > 0, "ppo.critic_warmup", 0, "a budget, with critic_warmup_until")
        _require(self.max_grad_norm > 0, "ppo.max_grad_norm", self.max_grad_norm, "a positive number")


@dataclass(frozen=True)
class Validation:
    """How the policy's validations are read."""

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
    """When a run of PPO warns, and when it stops. A null limit is not looked at."""

    max_skipped: int = 3
    """Updates left out for numbers that are not finite, over the life of the run, with which it stops."""
    warn_every: int = 50
    """A finding that comes back is told again at every so many of its iterations."""
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
    """Shape after the warm-up; linear and cosine fall towards zero, which they would reach after the last step."""
    warmup: int = 0
    """Steps (iterations for PPO) over which the learning rate rises to its peak; the first one already learns."""

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
    """Where a model comes from: weights to read (`path`) or random weights of a shape (`config`), exactly one."""

    path: str | None = None
    """Hugging Face folder, hub id, or a .gguf file (needs the package gguf)."""
    config: dict[str, Any] | None = None
    """Random weights instead: fields of a transformers config, with `model_type`."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer, where it is not beside the weights."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights; those that learn are float32 (or adapters on others)."""
    attn_implementation: str | None = None
    """sdpa, eager, flash_attention_2, ...; transformers chooses when null."""
    trust_remote_code: bool = False
    """Run code found in the model folder. Off: nothing from a model folder is executed."""
    lora: LoRA | None = None
    """Train adapters on frozen weights."""
    gradient_checkpointing: bool = False
    """Keep one activation per layer in training and compute the others again: less memory for another forward pass."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables of the chat template, as {enable_thinking: false}; those saved with the tokenizer when null."""
    chat_template_date: str | None = None
    """What a chat template that writes the date is told, YYYY-MM-DD; the one saved with the tokenizer when null, else
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
            raise ValueError(f"a model needs either path or config; found path={self.path!r}, config={self.config!r}")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError(f"model config {self.config!r} has no model_type; expected for example model_type: llama")
        if self.config is not None and self.tokenizer is None:
            raise ValueError("a model made from a config has no tokenizer of its own; set tokenizer to a folder")
        if self.config is not None and self.lora is not None:
            raise ValueError("lora trains beside weights that stay as they are, which a config does not have; use path")


@dataclass(frozen=True)
class JudgeGate:
    """What a judge's passport must show before a policy is trained against it. A null limit is not looked at."""

    mode: Literal["off", "warn", "refuse"] = "warn"
    """refuse ends the program with exit code 3 before any model is built, warn logs the same lines and goes on."""
    min_accuracy: float | None = 0.6
    """Share of labelled pairs on which the judge is right, both orders averaged."""
    min_shorter_wins_accuracy: float | None = 0.5
    """The same among the pairs whose better response is the shorter one: a judge of lengths has 0."""
    max_ece: float | None = 0.15
    """Expected calibration error of the win probability, which is the reward."""
    max_order_gap: float | None = 0.2
    """Mean of abs(p(u, v) + p(v, u) - 1)."""
    max_flip_rate: float | None = 0.25
    """Share of pairs whose winner changes with the order."""
    max_first_position_bias: float | None = 0.2
    """Distance of the share of readings won by the first place from 1/2."""
    max_cyclic_rate: float | None = 0.2
    """Share of cyclic triples; a judge that guesses has 1/4. Not measured, and not asked for, without such triples."""
    max_canary_rate: float | None = 0.25
    """Share of comparisons that the most successful attack without content wins."""
    max_layout_gap: float | None = 0.1
    """Largest change of a margin between judging pairs one by one and in padded batches, log-odds."""
    min_pairs: int = 50
    """Labelled pairs behind the passport; with fewer, its figures say little."""

    def __post_init__(self) -> None:
        _require(self.mode in ("off", "warn", "refuse"), "judge_gate.mode", self.mode, "off, warn or refuse")
        for name, value in vars(self).items():
            if name.startswith(("min_", "max_")) and name != "min_pairs":
                _require(value is None or 0 <= value <= 1, f"judge_gate.{name}", value, "null or a number in [0, 1]")
        _require(self.min_pairs >= 0, "judge_gate.min_pairs", self.min_pairs, "0 or more")
