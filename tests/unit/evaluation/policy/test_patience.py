"""When a run has seen its best."""

import pytest

from prl.config import Validation
from prl.evaluation.policy.frontier import EXTRAPOLATED
from prl.evaluation.policy.patience import Patience


def numbers(low: float, gap: float | None = None) -> dict[str, float]:
    found = {"win_rate": low + 0.1, "win_rate_lo": low}
    if gap is not None:
        found |= {"goodhart_gap": gap, "win_rate_heldout_lc": low, "win_rate_heldout_lc_lo": low / 2}
    return found


def objections(patience: Patience, validations: list[dict[str, float]]) -> list[bool]:
    found = []
    for each in validations:
        patience.observe(int(patience.state_dict()["batch"]) + 1, each)
        found.append(patience.stop_reason() is not None)
    return found


def test_only_a_higher_lower_bound_counts_as_better() -> None:
    patience = Patience(2)
    assert objections(patience, [numbers(low) for low in (0.5, 0.5, 0.6, 0.55, 0.59, 0.61)]) == [
        *(False, False, False, False, True, False)
    ]
    assert patience.waited == 0
    assert objections(Patience(2), [numbers(0.5)] * 3) == [False, False, True]  # as high is no higher


def test_the_gap_must_have_grown_since_the_best_validation() -> None:
    seen = [numbers(0.5, 0.0), numbers(0.6, 0.05), numbers(0.5, 0.04), numbers(0.5, 0.06)]
    patience = Patience(1)
    assert objections(patience, seen) == [False, False, False, True]
    reason = patience.stop_reason()
    assert reason is not None
    assert "held-out judge, length-controlled" in reason
    assert "has not passed 0.300" in reason
    assert "from 0.050 to 0.060" in reason


def test_a_resumed_run_goes_on_waiting() -> None:
    first, second = Patience(3), Patience(3)
    objections(first, [numbers(0.5), numbers(0.4)])
    second.load_state_dict(first.state_dict())
    assert second.waited == 1
    second.observe(1, numbers(0.3))  # repeated: the sanity check of a resumed run
    assert second.waited == 1
    assert objections(second, [numbers(0.4), numbers(0.45)]) == [False, True]


def test_a_rate_beyond_equal_lengths_is_neither_the_best_nor_waited_for() -> None:
    beyond = [{**numbers(low, 0.0), EXTRAPOLATED: True} for low in (0.9, 0.1, 0.1)]
    patience = Patience(1)
    assert objections(patience, [beyond[0], numbers(0.5, 0.0), *beyond[1:], numbers(0.6, 0.0)]) == [False] * 5
    assert patience.waited == 0


def test_another_measure_begins_anew() -> None:
    """A held-out judge that joins a resumed run has no record to beat."""
    patience = Patience(1)
    assert objections(patience, [numbers(0.9), numbers(0.5, 0.0), numbers(0.6, 0.1)]) == [False, False, False]


def test_never_without_a_limit() -> None:
    assert not any(objections(Patience(None), [numbers(0.5)] * 9))


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="validation.patience is 0; expected null or at least 1"):
        Validation(patience=0)
