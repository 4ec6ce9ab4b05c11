"""Socket of preference objectives: per-token log-probabilities of the responses in, one loss for each pair out.

Shape letters: B pairs of a batch, N responses of a view, T tokens of the longest response.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor

from prl.shapes import check_shape

REVISION_PROMPT = "{prompt}\n\nHere is a response:\n\n{response}\n\nWrite a better response."
"""Last turn of a prompt that asks for a better response than the one it quotes."""


@dataclass(frozen=True)
class ScoredResponses:
    """Responses as the models read them, token by token; logits are never here.

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

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool or self.mask.dim() != 2:
            raise ValueError(f"mask is {self.mask.dtype} of {self.mask.dim()} dimensions, expected torch.bool of 2")
        shape = tuple(self.mask.shape)
        check_shape("logprobs", self.logprobs, shape)
        if self.ref_logprobs is not None:
            check_shape("ref_logprobs", self.ref_logprobs, shape)
        for name, guide in self.guides.items():
            check_shape(f"guides[{name!r}]", guide, shape)

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
        if self.ref_logprobs is None:
            raise ValueError(
                "there are no log-probabilities of a reference; an objective that reads them declares it "
                "with needs_reference = True"
            )
        ratios = self.logprobs - self.ref_logprobs
        return self._summed(ratios if weights is None else ratios * weights)

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

    def of_lists(self, counts: Tensor) -> "ScoredResponses":
        """Give each pair as many places as the longest list has responses: [sum of counts, T] to [B * K, T].

        Args:
            counts: [B] responses of each pair, which stand one after the other; places that are left have an empty
                mask.
        """
        width = int(counts.max())
        places = (torch.arange(width, device=counts.device) < counts[:, None]).flatten().nonzero().squeeze(1)

        def placed(values: Tensor) -> Tensor:
            return values.new_zeros(len(counts) * width, values.shape[1]).index_copy(0, places, values)

        return replace(
            self,
            logprobs=placed(self.logprobs),
            mask=placed(self.mask),
            ref_logprobs=None if self.ref_logprobs is None else placed(self.ref_logprobs),
            guides={name: placed(each) for name, each in self.guides.items()},
        )

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
