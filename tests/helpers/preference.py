"""Preference objectives of a user's own file, to be named by class path."""

from typing import Any

from torch import Tensor

from prl.models import logprobs
from prl.objectives.logistic import soft_logistic
from prl.objectives.preference import PreferenceBatch, PreferenceObjective


class Logistic(PreferenceObjective):
    """Logistic loss on the difference of log-ratios.

    Args:
        beta: its scale.
    """

    def __init__(self, beta: float = 0.5) -> None:
        self.beta = beta

    def loss(self, batch: PreferenceBatch) -> Tensor:
        margin = self.reward(batch.chosen) - self.reward(batch.rejected)
        return soft_logistic(margin, batch.target)


class WithoutReference(Logistic):
    """Logistic loss on mean log-probabilities."""

    needs_reference = False


class WithGold(Logistic):
    """A margin of the data, and the likelihood of a third response."""

    views = ("chosen", "rejected", "gold")
    columns = ("offset",)

    def loss(self, batch: PreferenceBatch) -> Tensor:
        margin = self.reward(batch.chosen) - self.reward(batch.rejected) - batch.columns["offset"]
        return soft_logistic(margin, batch.target) - 0.1 * batch.views["gold"].mean_logprob()


class WithLists(Logistic):
    """The likelihood of the responses of a list, by the number of each."""

    lists = {"answers": ("worth",)}

    def loss(self, batch: PreferenceBatch) -> Tensor:
        present = batch.present("answers")
        ratios = batch.views["answers"].log_ratio().view(present.shape)
        return super().loss(batch) - 0.1 * (ratios * batch.columns["worth"]).sum(1)


class Revising(Logistic):
    """The likelihood of a better response behind a prompt that quotes a worse one."""

    views = ("chosen", "rejected", "gold")
    revisions = {"better": ("chosen", "rejected"), "best": ("gold", "rejected"), "same": ("gold", "gold")}
    revision_prompt = "{prompt} {response} {prompt} x"

    def loss(self, batch: PreferenceBatch) -> Tensor:
        return super().loss(batch) - 0.1 * sum(batch.views[name].mean_logprob() for name in self.revisions)


class ListsAndRevisions(WithLists):
    """Both."""

    revisions = {"better": ("chosen", "rejected")}
    revision_prompt = "{prompt} {response}"

    def loss(self, batch: PreferenceBatch) -> Tensor:
        return super().loss(batch) - 0.1 * batch.views["better"].log_ratio()


class RevisingNothing(Revising):
    """Revises a view that it does not have."""

    views = ("chosen", "rejected")


class RevisingWithoutPlace(Revising):
    """Quotes nothing."""

    revision_prompt = "{prompt} x"


class Guided(Logistic):
    """A margin against the log-ratio of two frozen models."""

    guides = ("teacher", "critic")

    def loss(self, batch: PreferenceBatch) -> Tensor:
        margin = self.reward(batch.chosen) - self.reward(batch.rejected)
        told = batch.chosen.guide_ratios("teacher").sum(1) - batch.rejected.guide_ratios("critic").sum(1)
        return soft_logistic(margin - 0.1 * told, batch.target)


class GuidedWithoutReference(WithoutReference):
    """Log-probabilities of a frozen model that is no reference."""

    guides = ("teacher",)

    def loss(self, batch: PreferenceBatch) -> Tensor:
        return super().loss(batch) - 0.01 * batch.chosen.guides["teacher"].sum(1)


class WithStates(Logistic):
    """All that is said of states, in both responses."""

    heads = {"size": 3, "colour": 1}
    needs_hidden = needs_critic = needs_kl = True

    def loss(self, batch: PreferenceBatch) -> Tensor:
        loss = super().loss(batch)
        for view in (batch.chosen, batch.rejected):
            for name in ("size", "colour", "hidden"):
                loss = loss + 0.1 * view.at_end(name).square().sum(1)
            for name in ("values", "kl"):
                loss = loss + ((view.of_states(name) - 0.1) * view.mask).square().sum(1)
        return loss


class WithStatesInSlices(WithStates):
    """The same, in a process whose language heads read two tokens at a time."""

    def __init__(self) -> None:
        super().__init__()
        logprobs.LOGITS_AT_ONCE = 100


class Counting(Logistic):
    """A beta that grows with each batch: an objective with a state."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def loss(self, batch: PreferenceBatch) -> Tensor:
        self.beta += 0.1 * bool(batch.chosen.logprobs.requires_grad)  # not in a validation
        return super().loss(batch)

    def state_dict(self) -> dict[str, Any]:
        return {"beta": self.beta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.beta = state["beta"]


class OneNumber(Logistic):
    """A mean instead of a loss for each pair."""

    def loss(self, batch: PreferenceBatch) -> Tensor:
        return super().loss(batch).mean()


class OnlyChosen(Logistic):
    """Declares no rejected response."""

    views = ("chosen",)


class TakesMargin(Logistic):
    """Declares a column that says which response is better."""

    columns = ("margin",)
