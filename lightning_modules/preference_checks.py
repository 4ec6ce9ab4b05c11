"""Checks of a preference run before anything is read: the needs of an objective, and the settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn import ModuleDict

from prl.config import CriticSettings, ModelSource
from prl.data.rows.records import PreferencePair
from prl.models.critic import check_critic
from prl.objectives.preference import PreferenceObjective
from prl.objectives.preference.base import STATES

_OF_ROWS = ("source", "target", "length", "index")
"""Names that rows and batches use already."""
ROWS_WITH_STEPS = 1000
"""Rows of the training data in which steps are looked for."""


def check_needs(objective: PreferenceObjective) -> None:
    """Refuse an objective that declares what no row could have, or guides and heads without a usable name.

    Raises:
        ValueError: naming the objective and the view, column, guide or head.
    """
    name = type(objective).__name__
    if tuple(objective.views[:2]) != ("chosen", "rejected"):
        raise ValueError(
            f"{name} declares the views {list(objective.views)}; expected chosen and rejected, then others"
        )
    for view, quoted in objective.revisions.items():
        if unknown := [each for each in quoted if each not in objective.views]:
            raise ValueError(f"{name}.revisions has {unknown[0]!r} at {view!r}, which is not among its views")
    if objective.revisions and not all(each in objective.revision_prompt for each in ("{prompt}", "{response}")):
        raise ValueError(
            f"{name}.revision_prompt is {objective.revision_prompt!r}; expected a text with {{prompt}} and {{response}}"
        )
    if objective.step_separator == "":
        raise ValueError(f"{name}.step_separator is empty; expected the text that ends a step, such as a line break")
    of_lists = [each for view, columns in objective.lists.items() for each in (view, *columns)]
    check_columns(name, [*objective.views[2:], *objective.revisions, *objective.columns, *of_lists])
    if unknown := [each for each in objective.probabilities if each not in objective.columns]:
        raise ValueError(f"{name} declares the probability {unknown[0]!r}, which is not among its columns")
    if unknown := [each for each in objective.classes if each not in objective.columns]:
        raise ValueError(f"{name} declares the classes of {unknown[0]!r}, which is not among its columns")
    for head, outputs in objective.heads.items():
        taken = (*STATES, *objective.guides)
        if not head.isidentifier() or head in taken or hasattr(ModuleDict, head) or outputs < 1:
            raise ValueError(
                f"{name} declares the head {head!r} of {outputs} outputs; expected a plain name, not "
                f"{', '.join(taken)}, and at least one output"
            )
    for guide in objective.guides:
        if not guide.isidentifier() or guide in ("ref", "reference", "model") or hasattr(ModuleDict, guide):
            raise ValueError(f"{name} declares the guide {guide!r}; expected a plain name, not ref, reference or model")


def check_columns(objective: str, declared: Sequence[str]) -> None:
    """Refuse columns that an objective declares twice, or that a preference pair has for something else.

    Args:
        objective: its name, for the error.
        declared: columns and views of the data.

    Raises:
        ValueError: naming the objective and the column.
    """
    if twice := sorted({each for each in declared if declared.count(each) > 1}):
        raise ValueError(f"{objective} declares {twice[0]!r} twice, among its views and columns")
    if taken := [each for each in declared if each in (*PreferencePair.columns, *_OF_ROWS)]:
        raise ValueError(
            f"{objective} declares {taken[0]!r}, which a preference pair has for something else (docs/data.md); give "
            "its view or column another name"
        )


def check_reference(
    objective: PreferenceObjective, model: ModelSource, reference: ModelSource | None, how: str
) -> None:
    """Refuse a reference that is not needed, and a missing one that is.

    Raises:
        ValueError: naming the setting and the fix.
    """
    name = type(objective).__name__
    if how not in ("live", "cached"):
        raise ValueError(f"reference_logprobs is {how!r}; expected 'live' or 'cached'")
    if not objective.needs_reference:
        cached = how == "cached" and not objective.guides
        given = {"reference": reference is not None, "reference_logprobs: cached": cached}
        for setting in [setting for setting, is_given in given.items() if is_given]:
            raise ValueError(f"{setting} is set, but {name} needs no reference; leave it out")
    elif objective.needs_kl and how == "cached":
        raise ValueError(
            f"reference_logprobs is cached, which keeps log-probabilities of tokens alone, but {name} reads the KL "
            "over the whole vocabulary; use live"
        )
    elif reference is None and model.path is None:
        raise ValueError(
            f"{name} needs a reference, and the model has random weights (config), so there is no start to read; use "
            "path, or set reference"
        )
    if reference is not None:
        _check_frozen(reference, "reference", "reference")


def check_steps(objective: PreferenceObjective, trainer: Any) -> None:
    """Refuse training data without steps for an objective that reads them: most likely its separator is another one.

    Args:
        objective: read for the text that ends a step.
        trainer: whose data module has encoded rows of training; one without is left alone.

    Raises:
        ValueError: when the separator ends no step of the first rows.
    """
    separator = objective.step_separator
    encoder = getattr(trainer.datamodule, "encoder", None)
    if separator is None or encoder is None:
        return
    rows = trainer.datamodule.rows["train"]
    rows = rows.select(range(min(ROWS_WITH_STEPS, len(rows))))
    if not any(max(encoder.steps.numbers(ids), default=0) for row in rows for ids in encoder.responses_of(row)):
        raise ValueError(
            f"step_separator {separator!r} ends no step in the responses of the first {len(rows)} training rows, so "
            f"that {type(objective).__name__} would read each as one step; give the text that ends a step in these data"
        )


def critic_of(
    objective: PreferenceObjective, critic: CriticSettings | None, model: ModelSource
) -> CriticSettings | None:
    """Return the settings of the critic that the objective needs, the defaults where none are given; None for none.

    Raises:
        ValueError: for a critic that is not needed, or settings that contradict each other or have no use here.
    """
    name = type(objective).__name__
    if not objective.needs_critic:
        if critic is not None:
            raise ValueError(f"critic is set, but {name} needs no critic; leave it out")
        return None
    critic = critic or CriticSettings()
    check_critic(critic, model)
    for setting in ("value_coef", "value_clip_range", "warmup", "warmup_until"):
        if (value := getattr(critic, setting)) != getattr(CriticSettings(), setting):
            raise ValueError(
                f"critic.{setting} is {value}, a setting of PPO; how the critic learns here is a setting of {name}, so "
                "leave it out"
            )
    return critic


def check_guides(objective: PreferenceObjective, guides: Mapping[str, ModelSource]) -> None:
    """Refuse a guide that the objective does not read, and a missing one that it does.

    Raises:
        ValueError: naming the setting and the fix.
    """
    name, declared = type(objective).__name__, objective.guides
    if missing := [each for each in declared if each not in guides]:
        raise ValueError(
            f"guides.{missing[0]} is not set, but {name} reads the log-probabilities of this frozen model; set "
            f"model.init_args.guides.{missing[0]} to {{path: FOLDER}}"
        )
    if unknown := [each for each in guides if each not in declared]:
        raise ValueError(
            f"guides.{unknown[0]} is set, but {name} reads no guide of this name (it reads "
            f"{', '.join(declared) or 'none'}); leave it out"
        )
    for each, source in guides.items():
        _check_frozen(source, f"guides.{each}", "guide")


def _check_frozen(source: ModelSource, setting: str, role: str) -> None:
    if source.lora is not None:
        raise ValueError(f"{setting}.lora is set, but a {role} does not learn; leave it out")
    if source.path is None:
        raise ValueError(f"{setting} has random weights (config), which measure nothing; use path")
