"""When chosen responses lose probability: what is measured, and when the user is told."""

import pytest

from lightning_modules.drift import START, WINDOW, DriftMonitor


def watched(values: list[float], from_reference: bool = True) -> tuple[list[dict[str, float]], list[int]]:
    """Return what is logged of each batch, and the batches at which a warning came."""
    monitor = DriftMonitor(from_reference)
    logged, warned = [], []
    for number, value in enumerate(values, start=1):
        logged.append(monitor.observe(value, 2 * value))
        if monitor.warning() is not None:
            warned.append(number)
    return logged, warned


def test_a_log_ratio_is_the_drift() -> None:
    logged, warned = watched([0.5, -0.25])
    assert logged == [{"drift/chosen": 0.5, "drift/rejected": 1.0}, {"drift/chosen": -0.25, "drift/rejected": -0.5}]
    assert warned == []


def test_without_a_reference_the_first_batches_are_the_start() -> None:
    logged, _ = watched([float(-n) for n in range(START)] + [-30.0], from_reference=False)
    assert logged[:START] == [{}] * START
    mean = -(START - 1) / 2
    assert logged[START] == pytest.approx({"drift/chosen": -30.0 - mean, "drift/rejected": -60.0 - 2 * mean})


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        ([-1.0] * (WINDOW + 30), [WINDOW]),  # once
        # 32 of the last 50 are below: a mean of -0.28, two standard errors are 0.27; of 31 a mean of -0.24.
        ([1.0] * 60 + [-1.0] * 60, [60 + 32]),
        ([-0.001] * 200, []),  # rounding
        ([3.0, -3.2] * 100, []),  # below zero on average, within its noise
        ([0.5] * 200, []),
        ([-1.0] * (WINDOW - 1), []),
    ],
)
def test_a_warning_comes_once_when_the_mean_is_below_the_start_for_long(values: list[float], warned: list[int]) -> None:
    _, found = watched(values)
    assert found == warned


def test_a_monitor_that_goes_on_says_what_an_uninterrupted_one_does() -> None:
    values = [float(-n % 7) - n / 20 for n in range(90)]
    for from_reference in (True, False):
        expected, warned = watched(values, from_reference)
        first = DriftMonitor(from_reference)
        for value in values[:30]:
            first.observe(value, 2 * value)
        second = DriftMonitor(from_reference)
        second.load_state_dict(first.state_dict())
        rest = []
        for number, value in enumerate(values[30:], start=31):
            assert second.observe(value, 2 * value) == expected[number - 1]
            rest += [number] if second.warning() is not None else []
        assert rest == warned
        assert second.warning() is None
        third = DriftMonitor(from_reference)
        third.load_state_dict(second.state_dict())
        third.observe(-9.0, -9.0)
        assert third.warning() is None  # told already
