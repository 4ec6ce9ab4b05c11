"""Checks of a preference run before anything is read: the needs of an objective, and the settings."""

from collections.abc import Sequence

from prl.config import ModelSource
from prl.data.rows.records import PreferencePair
from prl.objectives.preference import PreferenceObjective

_OF_ROWS = ("source", "target", "length", "index")
"""Names that rows and batches use already."""


def check_needs(objective: PreferenceObjective) -> None:
    """Refuse an objective whose declared views or columns no row could have.

    Raises:
        ValueError: naming the objective and the view or column.
    """
    name = type(objective).__name__
    if tuple(objective.views[:2]) != ("chosen", "rejected"):
        raise ValueError(
            f"{name} declares the views {list(objective.views)}; expected chosen and rejected, then others"
        )
    check_columns(name, [*objective.views[2:], *objective.columns])


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
        given = {"reference": reference is not None, "reference_logprobs: cached": how == "cached"}
        for setting in [setting for setting, is_given in given.items() if is_given]:
            raise ValueError(f"{setting} is set, but {name} needs no reference; leave it out")
    elif reference is None and model.path is None:
        raise ValueError(
            f"{name} needs a reference, and the model has random weights (config), so there is no start to read; use "
            "path, or set reference"
        )
    if reference is not None and reference.lora is not None:
        raise ValueError("reference.lora is set, but a reference does not learn; leave it out")
    if reference is not None and reference.path is None:
        raise ValueError("reference has random weights (config), which measure nothing; use path")
