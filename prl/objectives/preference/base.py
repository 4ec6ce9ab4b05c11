"""Socket of preference objectives: per-token numbers of the responses in, one loss for each pair out.

Shape letters: B pairs of a batch, N responses of a view, T tokens of the longest response, D width of a hidden state.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from prl.shapes import check_shape

REVISION_PROMPT = "{prompt}\n\nHere is a response:\n\n{response}\n\nWrite a better response."
"""Last turn of a prompt that asks for a better response than the one it quotes."""
STATES = {"hidden": "needs_hidden", "values": "needs_critic", "kl": "needs_kl", "steps": "step_separator"}
"""What else than the outputs of heads is said of states, and how an objective declares that it reads it."""


@dataclass(frozen=True)
class ScoredResponses:
    """Responses as the models read them, token by token; logits are never here.

    What is said of a state stands at place t for the state before token t, which has read the prompt and the response
    up to token t - 1. So the state at a response's last place, its end token, has read all of its text.

    Raises:
        ValueError: when shapes disagree, or the mask is not bool.
    """

    logprobs: Tensor
    """[N, T] log-probability of each token under the policy, nats, with gradient."""
    mask: Tensor
    """[N, T] bool, True on tokens of the response; its end token is one. Each response begins at the first place."""
    ref_logprobs: Tensor | None = None
    """[N, T] log-probabilities under the reference, without gradient; None for objectives that need no reference."""
    guides: Mapping[str, Tensor] = field(default_factory=dict)
    """[N, T] log-probabilities under further frozen models, without gradient, by name."""
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    """[N, T, outputs] what heads say of the policy's states, with gradient, by the name of the head."""
    hidden: Tensor | None = None
    """[N, T, D] the policy's last hidden states, with gradient; None for objectives that declare no need."""
    values: Tensor | None = None
    """[N, T] what the critic says of the states, with gradient; None for objectives that declare no need."""
    kl: Tensor | None = None
    """[N, T] KL(pi || pi_ref) over the vocabulary in each state, nats, with gradient; None without a declared need."""
    steps: Tensor | None = None
    """[N, T] number of the step that each token is in, from 0 in each response; None without a declared need."""

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool or self.mask.dim() != 2:
            raise ValueError(f"mask is {self.mask.dtype} of {self.mask.dim()} dimensions, expected torch.bool of 2")
        shape = tuple(self.mask.shape)
        check_shape("logprobs", self.logprobs, shape)
        if self.ref_logprobs is not None:
            check_shape("ref_logprobs", self.ref_logprobs, shape)
        for name, guide in self.guides.items():
            check_shape(f"guides[{name!r}]", guide, shape)
        for name, outputs in self.outputs.items():
            check_shape(f"outputs[{name!r}]", outputs, (*shape, outputs.shape[-1]))
        if self.hidden is not None:
            check_shape("hidden", self.hidden, (*shape, self.hidden.shape[-1]))
        for name, of_states in {"values": self.values, "kl": self.kl, "steps": self.steps}.items():
            if of_states is not None:
                check_shape(name, of_states, shape)

    def __len__(self) -> int:
        return self.mask.shape[0]

    @property
    def lengths(self) -> Tensor:
        """[N] tokens of each response."""
        return self.mask.sum(1)

    def log_ratio(self, weights: Tensor | None = None) -> Tensor:
        """Sum w_t (log pi - log pi_ref) over the tokens of each response: [N], nats.

        Args:
            weights: [N, T] weight of each token; 1 when None.

        Raises:
            ValueError: when there is no reference.
        """
        ratios = self._ratios()
        return self._summed(ratios if weights is None else ratios * weights)

    def log_ratios(self) -> Tensor:
        """Compute log pi - log pi_ref of each token, and 0 outside of the mask: [N, T], nats.

        Raises:
            ValueError: when there is no reference.
        """
        return self._ratios().masked_fill(~self.mask, 0)

    def guide_ratios(self, name: str) -> Tensor:
        """Compute log pi_guide - log pi_ref of each token, a constant, and 0 outside of the mask: [N, T], nats.

        Args:
            name: name of the guide.

        Raises:
            ValueError: when there is no such guide, or no reference.
        """
        if name not in self.guides or self.ref_logprobs is None:
            raise ValueError(
                f"there are no log-probabilities of a guide {name!r} and a reference; an objective that reads them "
                "declares them with guides and needs_reference = True"
            )
        return (self.guides[name] - self.ref_logprobs).detach().masked_fill(~self.mask, 0)

    def logprob(self) -> Tensor:
        """Sum log pi over the tokens of each response: [N], nats."""
        return self._summed(self.logprobs)

    def mean_logprob(self) -> Tensor:
        """Average log pi over the tokens of each response: [N], nats per token; 0 for a response without tokens."""
        return self.logprob() / self.lengths.clamp(min=1)

    def of_states(self, name: str) -> Tensor:
        """Return `hidden`, `values`, `kl`, `steps`, or the outputs of the head of this name: [N, T] or [N, T, ...].

        Raises:
            ValueError: when they are not there.
        """
        found = self.outputs.get(name, getattr(self, name, None) if name in STATES else None)
        if found is None:
            raise ValueError(
                f"there is no {name!r} of these responses; an objective that reads it declares it with "
                + (STATES[name] + " = True" * (name != "steps") if name in STATES else "heads")
            )
        return found

    def at_end(self, name: str) -> Tensor:
        """Take what `of_states` has for the state that has read a whole response: [N] or [N, ...]; 0 without tokens."""
        found, is_empty = self.of_states(name), self.lengths == 0
        last = found[torch.arange(len(self), device=found.device), (self.lengths - 1).clamp(min=0)]
        return last.masked_fill(is_empty.view(-1, *[1] * (last.dim() - 1)), 0)

    def by_step(self, values: Tensor) -> Tensor:
        """Sum what tokens have over the tokens of each step: [N, T] to [N, steps], [N, T, D] to [N, steps, D].

        There are as many places as the longest response has steps; others have zeros in theirs.

        Args:
            values: numbers of the tokens; those outside of the mask are left out.

        Raises:
            ValueError: when it is not known which step a token is in.
        """
        steps = self.of_states("steps").masked_fill(~self.mask, 0).long()
        inside = one_hot(steps, int(steps.max()) + 1) * self.mask[..., None]
        kept = values.masked_fill(~self.mask.view(*self.mask.shape, *[1] * (values.dim() - 2)), 0)
        return torch.einsum("nts,nt...->ns...", inside.to(values.dtype), kept)

    def of_lists(self, counts: Tensor) -> "ScoredResponses":
        """Give each pair as many places as the longest list has responses: [sum of counts, T] to [B * K, T].

        Args:
            counts: [B] responses of each pair, which stand one after the other; places that are left have an empty
                mask.
        """
        width = int(counts.max())
        places = (torch.arange(width, device=counts.device) < counts[:, None]).flatten().nonzero().squeeze(1)

        def placed(values: Tensor) -> Tensor:
            return values.new_zeros(len(counts) * width, *values.shape[1:]).index_copy(0, places, values)

        def each(value: Any) -> Any:
            return {name: placed(one) for name, one in value.items()} if isinstance(value, Mapping) else placed(value)

        found = {part.name: getattr(self, part.name) for part in fields(self)}
        return replace(self, **{name: each(value) for name, value in found.items() if value is not None})

    def _ratios(self) -> Tensor:
        if self.ref_logprobs is None:
            raise ValueError(
                "there are no log-probabilities of a reference; an objective that reads them declares it "
                "with needs_reference = True"
            )
        return self.logprobs - self.ref_logprobs

    def _summed(self, values: Tensor) -> Tensor:
        return values.masked_fill(~self.mask, 0).sum(1)


@dataclass(frozen=True)
class PreferenceBatch:
    """B preference pairs with the views of their responses that an objective declares.

    Raises:
        ValueError: when a view is missing or shapes disagree.
    """

    views: Mapping[str, ScoredResponses]
    """Responses by view. `chosen` and `rejected` have B rows; another view may have K responses of each pair, those of
    a pair one after the other: [B * K, T], with an empty mask where a pair has fewer."""
    target: Tensor
    """[B] probability that chosen is the better response."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """[B] numbers of the rows, by the names that the objective declares; [B, K] those of a list, 0 in empty places."""

    def __post_init__(self) -> None:
        if self.target.dim() != 1:
            raise ValueError(f"target has shape {tuple(self.target.shape)}, expected one number for each pair")
        for name in ("chosen", "rejected"):
            if name not in self.views:
                raise ValueError(f"the views are {sorted(self.views)}; {name!r} is missing")
            if len(self.views[name]) != len(self):
                raise ValueError(f"view {name!r} has {len(self.views[name])} responses for {len(self)} pairs")
        for name, view in self.views.items():
            if len(self) and len(view) % len(self):
                raise ValueError(f"view {name!r} has {len(view)} responses, which cannot be dealt to {len(self)} pairs")
        for name, column in self.columns.items():
            check_shape(f"columns[{name!r}]", column, (len(self), *column.shape[1:2]))

    def __len__(self) -> int:
        return self.target.shape[0]

    def present(self, name: str) -> Tensor:
        """Tell which places of a list view hold a response: [B, K] bool."""
        return self.views[name].mask.any(1).view(len(self), -1)

    @property
    def chosen(self) -> ScoredResponses:
        """The first response of each pair."""
        return self.views["chosen"]

    @property
    def rejected(self) -> ScoredResponses:
        """The second response of each pair."""
        return self.views["rejected"]


class PreferenceObjective(ABC):
    """One loss for each preference pair; weights of pairs, the mean over a batch and logging stay outside.

    The constructor has the settings of a method and checks them. What a method needs it declares on its class, or in
    its constructor where a setting decides it, and a run checks that before a model is read. A method whose
    `state_dict` and `load_state_dict` exist is saved with the run.
    """

    needs_reference: bool = True
    """Whether the loss reads log-probabilities of a frozen reference; otherwise none is loaded."""
    views: tuple[str, ...] = ("chosen", "rejected")
    """Responses of a row that the loss reads. Names after these two are text columns of the data."""
    columns: tuple[str, ...] = ()
    """Columns of the data that hold a number for each row, such as margins, win rates or scores."""
    probabilities: tuple[str, ...] = ()
    """Those of `columns` that are probabilities, such as win rates; a row with one outside of 0 to 1 is refused."""
    classes: Mapping[str, int] = MappingProxyType({})
    """Those of `columns` that are one of n classes, a whole number from 0 to n - 1, with n; another one is refused."""
    lists: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Further views of several responses, whose columns hold a list of texts; by view, the columns that hold a number
    for each text. Rows may have lists of different lengths."""
    revisions: Mapping[str, tuple[str, str]] = MappingProxyType({})
    """Further views of a response behind another prompt, which quotes a response and asks for a better one; by view,
    the response and the quoted one, both of `views`."""
    revision_prompt: str = REVISION_PROMPT
    """Last turn of that prompt, with {prompt} for the last turn of the row's prompt, and {response} for the quote."""
    guides: tuple[str, ...] = ()
    """Further frozen models, by name, whose log-probabilities of all views the loss reads; a run gives a source of
    each."""
    heads: Mapping[str, int] = MappingProxyType({})
    """Linear heads on the policy's last hidden states, by name, with the number of their outputs. They start at zero
    and learn with the policy."""
    needs_hidden: bool = False
    """Whether the loss reads the policy's last hidden states themselves."""
    needs_critic: bool = False
    """Whether the loss reads, and trains, the values of a critic; a run may say which kind (`critic`)."""
    needs_kl: bool = False
    """Whether the loss reads the exact KL to the reference in each state, which then works in each step (live)."""
    step_separator: str | None = None
    """Text that ends a step of a response, for a loss that reads which step a token is in; None where it does not."""

    @abstractmethod
    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""

    def reward(self, responses: ScoredResponses) -> Tensor:
        """Compute the implicit reward of each response, for logs: [N].

        It is beta times the log-ratio, or times the mean log-probability where no reference is needed, with a beta of 1
        where the method has none.
        """
        of_response = responses.log_ratio() if self.needs_reference else responses.mean_logprob()
        return getattr(self, "beta", 1.0) * of_response


NEEDS = tuple(PreferenceObjective.__annotations__)
"""What an objective may declare, for one that is made of another."""
