"""Estimate the memory of a run on one process, by model and by phase, before anything is allocated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from lightning_modules.base import TrainingModule
from lightning_modules.bradley_terry import BradleyTerryRewardModule
from lightning_modules.denoising_stage import DenoisingStage
from lightning_modules.generative_reward import GenerativeRewardModule
from lightning_modules.image_reward import ImageRewardModule
from lightning_modules.oppo import OPPOModule
from lightning_modules.optimizers import check_learns, parameter_group
from lightning_modules.pairwise_ppo import PairwisePPOModule
from lightning_modules.policy_estimates import pass_memory, sampled_at_once, sampling_memory
from lightning_modules.preference import PreferenceModule
from lightning_modules.reasoning_reward import ReasoningRewardModule
from lightning_modules.reference import REFERENCE
from lightning_modules.reference_passes import TOKENS
from prl.config import ModelSource
from prl.models.actor_critic import frozen_layers_of
from prl.models.adapters import add_adapters, is_adapted
from prl.models.critic import AdapterCritic, Critic, LinearHead, ValueHead, hidden_size
from prl.models.loading import freeze, init_model
from prl.models.logprobs import LOGITS_AT_ONCE, logits_setting
from prl.models.memory import ModelMemory, Shards, model_memory, on_fake_tensors, working_memory
from prl.models.policy import in_own_type
from prl.models.prefix_sharing.packing import Packed
from prl.models.prefix_sharing.tree_attention import packed_inputs
from prl.rewards.base import RewardSource
from prl.rewards.folder import outputs_of, read_judge_file
from prl.rewards.implicit import ImplicitReward
from prl.rewards.token_guide import TokenGuide

Make = Callable[[Callable[[], Any]], Any]
COPIES_OF_LOGITS = {True: 3, False: 2}
"""Tensors in memory per slice of float32 logits, with and without a backward pass: slice, exponentials, gradient."""

RESPONSES_OF_A_LIST = 4
"""Responses that a list of a row is taken to have, since an estimate reads no data."""


@dataclass(frozen=True)
class Estimate:
    """Memory of a run on one process, bytes."""

    models: list[ModelMemory]
    phases: dict[str, int]
    """Peak of each phase, models and optimizer state included."""


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of a run, before it is known how processes share it."""

    cut: list[ModelMemory]
    """Models that a strategy may shard."""
    whole: list[ModelMemory]
    """Models of which each process holds all weights."""
    working: dict[str, int]
    """Bytes that each phase needs on one process beside models and optimizer state."""
    alone: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the phases that need less on a single process without DDP or a strategy that shards."""

    def on_one_process(self, processes: int, shards: Shards) -> Estimate:
        """Compute the memory of one of `processes` processes, where a strategy shards the parts in `shards`."""
        models = [each.on_one_process(processes, shards) for each in self.cut]
        models += [each.on_one_process(1, Shards()) for each in self.whole]
        lasting = sum(each.total for each in models)
        working = {**self.working, **(self.alone if processes == 1 and shards == Shards() else {})}
        return Estimate(models, {name: lasting + work for name, work in working.items()})


def plan_memory(
    module: TrainingModule,
    rows: int,
    *,
    precision: str = "32-true",
    float32_copies: bool = False,
    whole: bool = True,
    on_cpu: bool = False,
) -> MemoryPlan:
    """Estimate the memory that a run needs at most: every row is of the longest length.

    Args:
        module: the configured module; its weights are not read.
        rows: rows of a batch on one process (PPO: rollouts).
        precision: `trainer.precision`.
        float32_copies: whether the strategy updates float32 copies of the weights, and holds the weights themselves in
            the type of the precision (DeepSpeed).
        whole: whether each process has whole weights, of which sampling may make copies.
        on_cpu: whether the run is on a CPU.

    Raises:
        ValueError: for weights that could not learn, or a module whose models are no language models.
    """
    if isinstance(module, OPPOModule):
        raise ValueError("prl estimate is for language models; those of OPPOModule have a few megabytes")
    if isinstance(module, DenoisingStage | ImageRewardModule):
        raise ValueError(f"prl estimate is for language models, and {type(module).__name__} has models of pictures")
    module.build_encoder()  # raises for settings that `prl fit` would refuse
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    dtype = half if float32_copies else {"64-true": torch.float64}.get(precision)
    mixed = torch.autocast("cpu", half or torch.bfloat16, enabled=half not in (None, dtype), cache_enabled=False)
    with FakeTensorMode() as mode, mixed:

        def make(build: Callable[[], Any], dtype: torch.dtype | None = dtype) -> Any:
            if dtype is not None:
                return on_fake_tensors(lambda: build().to(dtype), mode)
            model = on_fake_tensors(build, mode)
            check_learns(parameter_group(model.parameters(), module.optimization, "model"))
            return model

        if isinstance(module, PairwisePPOModule):
            sampled = partial(sampling_memory, whole=whole, on_cpu=on_cpu)
            return _pairwise_ppo(module, rows, make, partial(make, dtype=None if half else dtype), sampled)
        if isinstance(module, PreferenceModule):
            return _preference(module, rows, make)
        return _one_model(module, rows, make)


def _one_model(module: Any, rows: int, make: Make) -> MemoryPlan:
    scalar = isinstance(module, BradleyTerryRewardModule)
    writes = scalar and module.objective.needs_traces  # a language model with a scalar head
    if scalar and not writes:
        heads = module.num_outputs
        model = make(lambda: init_model(AutoModelForSequenceClassification, module.source, num_labels=heads))
        model.config.pad_token_id = 0
    else:
        model = make(lambda: init_model(AutoModelForCausalLM, module.source))
    thinks = isinstance(module, ReasoningRewardModule)
    judge = thinks or isinstance(module, GenerativeRewardModule)
    readings = 2 if scalar or (judge and module.order == "both") else 1
    readings += scalar and module.operator is not None and module.operator.prompt_head  # of each prompt by itself
    readings += 2 * module.objective.dropout_passes if scalar else 0
    whole_logits = not scalar and (not judge or thinks or module.text_coef > 0)
    length = module.max_length
    if thinks:
        readings *= max(module.thoughts, 1)
        compiled = module.build_encoder().compiled
        length += module.reasoning.max_tokens + len(compiled.end_of_thoughts) + len(compiled.closing)
    work = partial(_train, model.train(), rows * readings, length, whole_logits=whole_logits)
    working = working_memory(model, work)
    models, kept = [model_memory("model", model, trained=True)], []
    if thinks and module.thoughts and module.kl_coef:  # which reads the thoughts on the start too
        start = model if is_adapted(model) else make(lambda: freeze(init_model(AutoModelForCausalLM, module.source)))
        kept += [] if start is model else [model_memory(REFERENCE, start, trained=False)]
        behind = rows * readings * (length - module.max_length) * model.get_input_embeddings().num_embeddings
        working += working_memory(start, partial(_read, start, rows * readings, length))
        working += COPIES_OF_LOGITS[False] * 4 * behind
    if writes:
        head = make(lambda: nn.Linear(hidden_size(model), 1, bias=False))
        models.append(model_memory("score", head, trained=True))
        working += COPIES_OF_LOGITS[True] * _slice_of_logits(model, rows * readings * module.max_length)
    if scalar and module.objective.look_ahead:  # the weights before it, and its gradients
        working += 2 * sum(each.numel() * each.element_size() for each in model.parameters() if each.requires_grad)
    return MemoryPlan(models, kept, {"train": working})


def _preference(module: PreferenceModule, rows: int, make: Make) -> MemoryPlan:
    """Plan a preference run: the policy reads a whole batch at once, a frozen model a pair, or several short ones.

    Pairs that share a prompt are shorter as trees, whose mask and attention may still take more.
    """
    kind = None if module.critic_settings is None else module.critic_settings.kind
    policy = make(lambda: _with_critic(module.source, kind))
    reads = module.objective
    views = len(reads.views) + len(reads.revisions) + RESPONSES_OF_A_LIST * len(reads.lists)
    cut, length = [model_memory("policy", policy, trained=True)], module.max_length
    heads = {name: partial(LinearHead, hidden_size(policy), outputs) for name, outputs in reads.heads.items()}
    cut += [model_memory(f"heads.{name}", make(head), trained=True) for name, head in heads.items()]
    critic = _critic(kind, module.critic_source, policy, make)
    cut += [] if critic is None else [model_memory("critic", critic, trained=True)]
    copies = COPIES_OF_LOGITS[True] + COPIES_OF_LOGITS[False] * reads.needs_kl  # the reference's beside the policy's
    train = _train_both(policy, critic, kind, rows * views, length)
    if tree := module.sharing["model"].longest_tree(policy, views, length):
        train = max(train, working_memory(policy, partial(_train, policy, rows, tree, trees=True)))
    working = {"train": train + copies * _slice_of_logits(policy, rows * views * length)}
    at_once, kept = max(views, -(-TOKENS // length)), []
    for name, source in module.frozen_sources().items():
        if name == REFERENCE and module.reference_source is None and is_adapted(policy):
            continue  # the policy with its adapters off
        frozen: Any = make(lambda source=source: freeze(init_model(AutoModelForCausalLM, source)))  # type: ignore[misc]
        label = name if name == REFERENCE else f"guides.{name}"
        kept.append(model_memory(label, frozen, trained=False))
        together = rows * views if reads.needs_kl and name == REFERENCE else at_once
        read = working_memory(frozen, partial(_read, frozen, together, length))
        if tree := module.sharing[name].longest_tree(frozen, views, length):
            more = partial(_read, frozen, max(1, TOKENS // tree), tree, trees=True)
            read = max(read, working_memory(frozen, more))
        working[label] = read + COPIES_OF_LOGITS[False] * _slice_of_logits(frozen, together * length)
    if module.reference_logprobs == "cached":  # frozen models are freed before training
        for each in kept:
            working[each.name] += sum(one.weights for one in kept)
    else:
        cut += kept
    return MemoryPlan(cut, [], working)


def _slice_of_logits(model: Any, tokens: int) -> int:
    """Compute the bytes, in float32, of the logits that are in memory at once."""
    whole = tokens * model.get_input_embeddings().num_embeddings
    return 4 * (whole if logits_setting(model.config) else min(LOGITS_AT_ONCE, whole))


def _pairwise_ppo(
    module: PairwisePPOModule, rows: int, make: Make, make_judge: Make, sampled: Callable[..., int]
) -> MemoryPlan:
    policy = make(lambda: _with_critic(module.policy_source, module.critic_kind))
    cut = [model_memory("policy", policy, trained=True)]
    critic = _critic(module.critic_kind, module.critic_source, policy, make)
    if critic is not None:
        cut.append(model_memory("critic", critic, trained=True))
    if module.reference_source is not None or not is_adapted(policy):
        source = module.reference_source or module.policy_source
        reference = make(lambda: freeze(init_model(AutoModelForCausalLM, source)))
        cut.append(model_memory("reference", reference, trained=False))
    judges = {"judge": module.reward, "held-out judge": module.heldout_judge}
    prompt, answer = module.max_prompt_length, module.sampling.max_new_tokens
    asked = {
        name: _read_once(judge, rows, make_judge, prompt + answer)
        for name, judge in judges.items()
        if judge is not None
    }
    whole = [each for models, _, _ in asked.values() for each in models]
    judging = [each for _, models, _ in asked.values() for each in models]
    passes = pass_memory(module, rows, policy, critic)
    states = [each.bytes_of(rows * (prompt + answer)) for each in frozen_layers_of(policy, critic)]
    kept = sum(states) * module.resources.reuse_frozen_layers
    working = {
        "rollout": max(sampled(policy, *each, answer) for each in sampled_at_once(module, rows)),
        **{name: work for name, (_, _, work) in asked.items()},
        "score": kept + passes.scoring,
        "update": kept + passes.update,
    }
    alone = {"update": kept + passes.apart}
    if module.resources.shard_judges:
        return MemoryPlan(cut + judging, whole, working, alone)
    return MemoryPlan(cut, whole + judging, working, alone)


def _with_critic(source: ModelSource, kind: str | None) -> Any:
    """Make a policy, with the adapters of a critic of this kind, if any."""
    policy = init_model(AutoModelForCausalLM, source).train()
    if kind == "adapter":
        add_adapters(policy, AdapterCritic.NAME)
    return policy


def _critic(kind: str | None, source: ModelSource, policy: Any, make: Make) -> Any:
    if kind == "own":
        return make(lambda: Critic(init_model(AutoModel, source)).train())
    if kind == "adapter":
        return make(lambda: AdapterCritic(policy))
    return None if kind is None else make(lambda: ValueHead(hidden_size(policy)))


def _train_both(policy: Any, critic: Any, kind: str | None, rows: int, length: int) -> int:
    """Compute the bytes of a forward and a backward pass of policy and critic."""
    both = working_memory(policy, partial(_train, policy, rows, length))
    if kind == "own":  # its activations wait for the backward pass too
        both += working_memory(critic, partial(_train, critic.backbone, rows, length))
    return 2 * both if kind == "adapter" else both


def _frozen(auto_class: Any, source: ModelSource, **extra: Any) -> Any:
    return freeze(init_model(auto_class, source, new_head=False, **extra))


def _read_once(
    judge: RewardSource, rows: int, make: Make, rollout: int
) -> tuple[list[ModelMemory], list[ModelMemory], int]:
    """List the models of a reward source, and the bytes of its largest forward pass: one anchor each, both orders.

    Args:
        judge: the source.
        rows: rollouts.
        make: makes a model.
        rollout: longest prompt and response together, tokens.

    Returns:
        Models that are whole on each process, models that `resources.shard_judges` shards, and bytes.
    """
    whole: list[ModelMemory] = []
    sharded: list[ModelMemory] = []
    most = 0
    for source in judge.leaves():
        for role, weights in source.model_sources().items():
            settings = _judge_settings(source, weights, rollout)
            is_generative = settings["kind"] in ("generative", "tool_reward")
            auto_class = AutoModelForCausalLM if is_generative else AutoModelForSequenceClassification
            extra = {} if is_generative else {"num_labels": outputs_of(settings)}
            model: Any = make(partial(_frozen, auto_class, weights, **extra))
            length = settings["max_length"]
            at_once = getattr(source, "max_batch_tokens", getattr(source, "batch_size", 64) * length) // length
            at_once = max(1, min(2 * rows, at_once))
            model.config.pad_token_id = 0
            with in_own_type(torch.device("cpu")):
                work = working_memory(model, partial(_read, model, at_once, length))
            if isinstance(source, ImplicitReward | TokenGuide):  # which read log-probabilities
                work += COPIES_OF_LOGITS[False] * _slice_of_logits(model, at_once * length)
            most = max(most, work)
            found = model_memory(f"{type(source).__name__} {role}".strip(), model, trained=False)
            (sharded if hasattr(source, "model") else whole).append(found)
    return whole, sharded, most


def _judge_settings(source: RewardSource, weights: ModelSource, rollout: int) -> Mapping[str, Any]:
    """Return kind and longest text of a model of a reward source. Raises ValueError for one of an unknown kind."""
    if isinstance(source, TokenGuide):
        return {"kind": "generative", "max_length": rollout}
    if isinstance(source, ImplicitReward):
        return {"kind": "generative", "max_length": source.longest()}
    settings = read_judge_file(str(weights.path))
    if settings["kind"] not in ("generative", "bradley_terry", "general_preference", "tool_reward"):
        raise ValueError(f"{weights.path} is a judge of the kind {settings['kind']!r}, which cannot be estimated")
    own = getattr(source, "max_length", None)  # of a model that no judge's folder describes
    return settings if own is None else {**settings, "max_length": own}


def _ids(rows: int, length: int) -> Tensor:
    return torch.ones(rows, length, dtype=torch.long)


def _inputs(model: Any, rows: int, length: int, trees: bool) -> dict[str, Any]:
    ids = _ids(rows, length)
    if trees:
        return packed_inputs(model, Packed(ids, ids, ids, ids, ids[:, 0], ids[:, 0], 1, ids.numel(), ids.numel()))
    return {"input_ids": ids, "use_cache": False}


@torch.no_grad()
def _read(model: Any, rows: int, length: int, *, trees: bool = False) -> Any:
    scalar = type(model).__name__.endswith("SequenceClassification")
    return model(**_inputs(model, rows, length, trees), **({} if scalar else {"logits_to_keep": 1}))


def _train(model: Any, rows: int, length: int, *, whole_logits: bool = False, trees: bool = False) -> None:
    """Run a forward and a backward pass over `rows` rows of `length` tokens, as trees with their explicit mask."""
    keeps = {"logits_to_keep": 1} if hasattr(model, "lm_head") and not whole_logits else {}
    found = model(**_inputs(model, rows, length, trees), **keeps)
    last = found.logits.float() if hasattr(found, "logits") else found.last_hidden_state
    (last.logsumexp(-1).sum() if whole_logits else last.sum()).backward()
