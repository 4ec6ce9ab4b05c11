"""What holds for every preference objective, whatever its formula.

A new method is found by its file, and its batches are made of what it declares. It stands in a table below only where
its settings, columns or views are special, or where a rule does not hold for it; each exception says why.
"""

import itertools
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules import PreferenceModule
from prl.config import ModelSource
from prl.data.rows.records import PreferencePair
from prl.models.prefix_sharing.tree_attention import PrefixSharing
from prl.objectives.preference import METHODS, PreferenceBatch, PreferenceObjective, ScoredResponses
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.records import ragged_mask, states_of
from tests.helpers.tiny import tiny_model

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "BRAIn": [{}, {"proposal": "column"}],
    "DNO": [{}, {"win_rates": "label"}],
    "FDPO": [{"divergence": name} for name in ("reverse_kl", "forward_kl", "js", "alpha")],
    "MODPO": [{}, {"margin": "guide"}],
    "OREO": [{}, {"step_separator": " "}, {"level": "response"}, {"kl_coef": 0.0}],
    "RPO": [{}, {"sft_term": "average"}],
    "SLiC": [{}, {"with_reference": False}],
    "SPO": [{}, {"weight": 0.0}],
    "SPPO": [{}, {"win_rates": "label"}],
    "TreePO": [{}, {"step_separator": " "}],
    "TriplePO": [{}, {"form": "TPO-L"}, {"alpha": 0}],
    "VPO": [{}, {"optimistic": True}],
}
"""Settings to try beside the defaults."""
COLUMNS: dict[str, tuple[float, float]] = {"chosen_win_rate": (0.5, 1.0), "rejected_win_rate": (0.0, 0.5)}
"""Range of the numbers of a column; 0 to 1 for others."""
LISTED = 3
"""Places for the responses of a list; the second pair has one response less."""
PUSHES_OTHERWISE: dict[str, str] = {}
"""Methods whose first step may lower chosen or raise rejected, and why."""
READS_THE_BATCH: dict[str, str] = {}
"""Methods whose loss of a pair depends on the other pairs, and why."""
LABELS_DIFFER = {
    **dict.fromkeys(("SPPO", "SRPO"), "a label moves the targets of squares; its gradient is that of the share"),
    "SmPO": "a label is the strength of the pair",
    "SubjectRPO": "chosen is imitated whatever the label says",
}
"""Methods for which a soft label is not the share of the pair each way round, and why."""
LABELS_MAY_NOT_MATTER = {"SePPO": "where the policy says less of both than the reference, it learns both"}
"""Methods for which the two labels may give one loss, and why."""
HOLDS_GRADIENTS_BACK = {
    "OREO": "the critic learns from a policy that is held, and the policy from a critic; test_oreo has both by hand"
}
"""Methods whose gradients are not those of the loss itself, and why."""
HOLDS_STATES = {"TreePO": ("hidden", "how alike steps are is a weight, which learns nothing")}
"""Methods that read what is said of states as a constant: what, and why."""

CASES = [
    pytest.param(method(**settings), id=f"{name}{'-' if settings else ''}{'-'.join(map(str, settings.values()))}")
    for name, method in METHODS.items()
    for settings in SETTINGS.get(name, [{}])
]
every = pytest.mark.parametrize("objective", CASES)
Lengths = dict[str, list[int]]


def rule(exceptions: dict[str, str], objective: PreferenceObjective) -> None:
    if why := exceptions.get(type(objective).__name__):
        pytest.skip(why)


def lengths_of(objective: PreferenceObjective, pairs: int, **given: list[int]) -> Lengths:
    """Different lengths in every view, from 1 to 5 tokens, and an empty place in a list."""
    counts = dict.fromkeys((*objective.views, *objective.revisions), pairs) | dict.fromkeys(
        objective.lists, pairs * LISTED
    )
    found = {
        name: given.get(name, [1 + (2 * row + 3 * number) % 5 for row in range(count)])
        for number, (name, count) in enumerate(counts.items())
    }
    for name in objective.lists:
        found[name][2 * LISTED - 1 : 2 * LISTED] = [0] * (pairs > 1)
    return found


def batch_of(
    objective: PreferenceObjective,
    lengths: Lengths,
    dtype: torch.dtype = torch.float64,
    ratio: dict[str, float] | None = None,
    label: float = 1.0,
) -> PreferenceBatch:
    """Make a batch of random log-probabilities, or of given log-ratios of whole responses, whose leaves learn."""
    generator = torch.Generator().manual_seed(5)

    def numbers(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    views = {}
    for name, counts in lengths.items():
        mask = ragged_mask(counts)
        reference = -2 * numbers(*mask.shape)
        policy = -2 * numbers(*mask.shape)
        if ratio is not None:
            each = torch.tensor(ratio.get(name, 0.0)).double() / torch.tensor(counts).clamp(min=1)[:, None]
            reference = reference - (each.abs() if ratio.get(name, 0.0) else 0)
            policy = reference + each
        leaf = policy.to(dtype).requires_grad_()
        guides = {guide: (reference - numbers(*mask.shape)).to(dtype) for guide in objective.guides}
        states = as_leaves(states_of(objective, mask, numbers), dtype)
        read = reference.to(dtype) if objective.needs_reference else None
        views[name] = ScoredResponses(leaf, mask, read, guides, **states)
    pairs = len(lengths["chosen"])
    columns = {}
    for name in objective.columns:
        low, high = COLUMNS.get(name, (0.0, 1.0))
        columns[name] = (low + (high - low) * numbers(pairs)).to(dtype)
    columns |= {name: (count * columns[name]).floor() for name, count in objective.classes.items()}
    columns |= {name: numbers(pairs, LISTED).to(dtype) for some in objective.lists.values() for name in some}
    return PreferenceBatch(views, torch.full((pairs,), label, dtype=dtype), columns)


def as_leaves(states: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Make all of them learn, but for the numbers of steps."""

    def leaf(each: Any) -> Any:
        if isinstance(each, dict):
            return as_leaves(each, dtype)
        return each.detach().to(dtype).requires_grad_() if each.is_floating_point() else each

    return {name: leaf(each) for name, each in states.items()}


def leaves_of(batch: PreferenceBatch) -> dict[tuple[str, str], Tensor]:
    """All that learns, by view and by what it is: log-probabilities as `logprobs`."""
    found = {}
    for name, view in batch.views.items():
        states = {
            "logprobs": view.logprobs,
            "hidden": view.hidden,
            "values": view.values,
            "kl": view.kl,
            **view.outputs,
        }
        found |= {(name, part): each for part, each in states.items() if each is not None}
    return found


def with_leaves(batch: PreferenceBatch, leaves: dict[tuple[str, str], Tensor]) -> PreferenceBatch:
    views = {}
    for name, view in batch.views.items():
        states = {part: each for (of, part), each in leaves.items() if of == name}
        outputs = {head: states.pop(head) for head in view.outputs}
        views[name] = replace(view, outputs=outputs, **states)
    return replace(batch, views=views)


def gradients(objective: PreferenceObjective, batch: PreferenceBatch) -> tuple[Tensor, dict[tuple[str, str], Tensor]]:
    loss, leaves = objective.loss(batch), leaves_of(batch)
    found = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
    filled = {
        name: torch.zeros_like(leaf) if each is None else each
        for (name, leaf), each in zip(leaves.items(), found, strict=True)
    }
    return loss.detach(), filled


@every
def test_the_first_step_raises_chosen_and_does_not_raise_rejected(objective: PreferenceObjective) -> None:
    """At the reference; a loss whose gradient is zero or turned round trains nothing, or the opposite.

    Where a list is read, chosen is its response of the highest reward, and rejected that of the lowest.
    """
    rule(PUSHES_OTHERWISE, objective)
    batch = batch_of(objective, lengths_of(objective, 4), ratio={})
    if objective.needs_critic:  # which has learnt the mean of each list, and no more
        (of_list,) = objective.lists.values()
        present, (name,) = batch.present(*objective.lists), objective.lists
        means = batch.columns[of_list[0]].masked_fill(~present, 0).sum(1) / present.sum(1)
        view = batch.views[name]
        values = means.repeat_interleave(LISTED)[:, None].expand(view.mask.shape).clone().requires_grad_()
        batch = replace(batch, views={**batch.views, name: replace(view, values=values)})
    _, found = gradients(objective, batch)
    for name in objective.lists:
        of_list = found[name, "logprobs"].sum(1).view(4, LISTED)
        rewards = batch.columns["rewards"]
        best = rewards.masked_fill(~batch.present(name), -9).argmax(1, keepdim=True)
        worst = rewards.masked_fill(~batch.present(name), 9).argmin(1, keepdim=True)
        assert (of_list.gather(1, best) < 0).all()
        assert (of_list.gather(1, worst) > 0).all()
        return
    sides = {name: found[name, "logprobs"] for name in ("chosen", "rejected")}
    chosen, rejected = (each.masked_fill(~batch.views[name].mask, 0).sum(1) for name, each in sides.items())
    assert (chosen < 0).all()
    assert (rejected >= 0).all()


@every
def test_padding_and_other_pairs_of_the_batch_change_nothing(objective: PreferenceObjective) -> None:
    lengths = lengths_of(objective, 4)
    batch = batch_of(objective, lengths, label=0.7)
    together, of_all = gradients(objective, batch)

    def padded(values: Any, rows: slice, fill: float) -> Any:
        """Tokens are the second dimension."""
        if isinstance(values, dict):
            return {name: padded(each, rows, fill) for name, each in values.items()}
        behind = (0, 0) * (values.dim() - 2) + (0, 3)
        return torch.nn.functional.pad(values.detach()[rows], behind, value=7 if values.dtype == torch.long else fill)

    per_pair = dict.fromkeys(objective.lists, LISTED)
    groups = [slice(0, 4)] if type(objective).__name__ in READS_THE_BATCH else [slice(n, n + 1) for n in range(4)]
    for pair in groups:
        views = {}
        for name, view in batch.views.items():
            per = per_pair.get(name, 1)
            rows = slice(pair.start * per, pair.stop * per)
            parts = {part.name: getattr(view, part.name) for part in fields(view) if part.name != "mask"}
            parts = {part: padded(each, rows, float("nan")) for part, each in parts.items() if each is not None}
            learnt = {part: parts.pop(part) for part in tuple(parts) if part not in ("ref_logprobs", "guides")}
            parts |= as_leaves(learnt, torch.float64)
            views[name] = ScoredResponses(mask=padded(view.mask, rows, 0), **parts)
        alone = PreferenceBatch(views, batch.target[pair], {k: v[pair] for k, v in batch.columns.items()})
        loss, found = gradients(objective, alone)
        torch.testing.assert_close(loss, together[pair], atol=1e-12, rtol=1e-12)
        for (name, part), each in found.items():
            per = per_pair.get(name, 1)
            expected = of_all[name, part][pair.start * per : pair.stop * per]
            torch.testing.assert_close(each[:, :-3], expected, atol=1e-12, rtol=1e-12)
            assert (each[~views[name].mask] == 0).all()


@every
def test_a_soft_label_is_the_share_of_the_pair_each_way_round(objective: PreferenceObjective) -> None:
    batch = batch_of(objective, lengths_of(objective, 4))

    def losses(label: float, of: PreferenceBatch = batch) -> Tensor:
        return objective.loss(replace(of, target=torch.full_like(of.target, label))).detach()

    sure, wrong = losses(1.0), losses(0.0)
    if objective.probabilities or objective.lists:  # win rates and rewards of the responses leave nothing to a label
        assert torch.equal(sure, wrong)
        return
    differ = (sure - wrong).abs() > 1e-9
    assert differ.any() if type(objective).__name__ in LABELS_MAY_NOT_MATTER else differ.all()
    rule(LABELS_DIFFER, objective)
    torch.testing.assert_close(losses(0.3), 0.3 * sure + 0.7 * wrong)
    if not objective.columns:
        turned = replace(batch, views={**batch.views, "chosen": batch.rejected, "rejected": batch.chosen})
        torch.testing.assert_close(losses(0.7, turned), losses(0.3))


@every
def test_gradients_are_those_of_finite_differences(objective: PreferenceObjective) -> None:
    rule(HOLDS_GRADIENTS_BACK, objective)
    batch = batch_of(objective, lengths_of(objective, 3), label=0.7)
    held = HOLDS_STATES.get(type(objective).__name__, ("", ""))[0]
    leaves = {name: leaf for name, leaf in leaves_of(batch).items() if name[1] != held}
    for leaf in leaves_of(batch).values():  # which differences read everywhere
        leaf.data.nan_to_num_(0.0)

    def loss(*values: Tensor) -> Tensor:
        return objective.loss(with_leaves(batch, dict(zip(leaves, values, strict=True))))

    assert torch.autograd.gradcheck(loss, list(leaves.values()), fast_mode=True)


@every
@pytest.mark.parametrize(
    ("chosen", "rejected"), [([1, 1], [1, 1]), ([1, 4], [5, 1]), ([0, 0], [2, 2]), ([3, 3], [0, 0]), ([0, 2], [0, 0])]
)
def test_responses_of_one_token_and_of_none_have_a_loss(
    objective: PreferenceObjective, chosen: list[int], rejected: list[int]
) -> None:
    """An empty response is one whose row was skipped."""
    loss, found = gradients(objective, batch_of(objective, lengths_of(objective, 2, chosen=chosen, rejected=rejected)))
    assert loss.isfinite().all()
    assert all(each.isfinite().all() for each in found.values())


@every
@pytest.mark.parametrize("size", [80.0, 800.0])
def test_log_ratios_far_from_the_reference_have_a_loss_in_float32(objective: PreferenceObjective, size: float) -> None:
    others = [*objective.views[2:], *objective.revisions, *objective.lists]
    sizes = (size, 0.0, -size)
    for chosen, rejected, other in itertools.product(sizes, sizes, sizes if others else (0.0,)):
        ratio = {"chosen": chosen, "rejected": rejected, **dict.fromkeys(others, other)}
        for label in (1.0, 0.3):
            batch = batch_of(objective, lengths_of(objective, 2), torch.float32, ratio, label)
            loss, found = gradients(objective, batch)
            assert loss.dtype == torch.float32
            assert loss.isfinite().all(), ratio
            assert all(each.isfinite().all() for each in found.values()), ratio


def rows_of(objective: PreferenceObjective) -> list[PreferencePair]:
    """Make two pairs with all that an objective reads."""
    rows = []
    for number, prompt in enumerate(("reverse dcab and copy it", "copy a")):
        extra: dict[str, Any] = dict.fromkeys(objective.views[2:], "abcd"[number:])
        extra |= {name: sum(COLUMNS.get(name, (0.0, 1.0))) / 2 for name in objective.columns}
        for name, some in objective.lists.items():
            extra |= {name: ["ba cd", "b", "abc a"][number:]} | {each: [1.0, 0.2, -0.7][number:] for each in some}
        turn = {"role": "user", "content": prompt}
        rows.append(PreferencePair((turn,), "bacd", "ab" if number else "dcabdcab", preference=0.8, extra=extra))
    return rows


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    return tiny_model(1), tiny_model(2).requires_grad_(False)


@every
def test_packed_pairs_have_the_losses_and_gradients_of_plain_ones(
    objective: PreferenceObjective, tiny_folder: Any, models: tuple[Any, Any]
) -> None:
    if objective.needs_critic or objective.heads:
        pytest.skip("reads hidden states through modules of its own; test_completions.py compares these states")
    source = ModelSource(path=str(tiny_folder))
    guides = dict.fromkeys(objective.guides, source)
    module: Any = PreferenceModule(source, objective, max_length=128, guides=guides)
    (module.model, frozen), module.heads = models, torch.nn.ModuleDict()
    module.reference = frozen if objective.needs_reference else None
    module.guides.update(dict.fromkeys(guides, frozen))
    encoder = module.build_encoder()
    batch, found = encoder.collate([encoder.encode(row) for row in rows_of(objective)]), {}
    for mode in ("off", "on"):
        module.sharing = {name: PrefixSharing(mode) for name in module.sharing}
        losses = objective.loss(module.score(batch))
        found[mode] = losses, torch.autograd.grad(losses.sum(), list(module.model.parameters()))
    tokens = module.sharing["model"].tokens
    assert tokens.computed < tokens.plain
    assert_same_numbers(found["on"][0], found["off"][0])
    for one, other in zip(found["on"][1], found["off"][1], strict=True):
        assert_same_numbers(one, other)


def test_exceptions_are_of_methods_that_exist() -> None:
    exceptions = (
        PUSHES_OTHERWISE,
        READS_THE_BATCH,
        LABELS_DIFFER,
        LABELS_MAY_NOT_MATTER,
        HOLDS_GRADIENTS_BACK,
        HOLDS_STATES,
    )
    for table in (SETTINGS, *exceptions):
        assert table.keys() <= METHODS.keys()
