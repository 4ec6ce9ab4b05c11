import pytest
import torch

from lightning_modules.optimizers import build_schedule, continue_schedule, learning_rate_factor
from prl.config import Optimization


def test_warm_up_learns_from_the_first_step() -> None:
    settings = Optimization(warmup=3)
    assert [learning_rate_factor(step, settings, 0) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_schedules_fall_to_zero_behind_the_last_step() -> None:
    linear = Optimization(warmup=1, schedule="linear")
    assert [learning_rate_factor(step, linear, 5) for step in range(6)] == [0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    cosine = Optimization(schedule="cosine")
    assert [learning_rate_factor(step, cosine, 2) for step in range(3)] == pytest.approx([1.0, 0.5, 0.0])


def test_critic_learns_at_full_rate_while_the_policy_waits_for_it() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [w], "name": name} for w, name in zip(weights, ("policy", "critic"), strict=True)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    schedule = build_schedule(optimizer, Optimization(warmup=1), 0, critic_warmup=lambda: 2)
    seen = []
    for _ in range(4):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert seen == [[0.5, 1.0], [0.5, 1.0], [0.5, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize(("length", "rates"), [(5, [2 / 3, 2 / 5]), (9, [6 / 7, 6 / 9])])
def test_a_resumed_schedule_is_that_of_the_runs_length(length: int, rates: list[float]) -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]

    def start(total: int) -> torch.optim.lr_scheduler.LambdaLR:
        groups = [{"params": [w], "name": name} for w, name in zip(weights, ("policy", "critic"), strict=True)]
        settings = Optimization(schedule="linear")
        return build_schedule(torch.optim.SGD(groups, lr=1.0), settings, total, critic_warmup=lambda: 2)

    before, after = start(5), start(length)
    for _ in range(3):
        before.optimizer.step()
        before.step()
    after.load_state_dict(before.state_dict())
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    continue_schedule(after)
    found = [group["lr"] for group in after.optimizer.param_groups]
    assert found == after.get_last_lr() == pytest.approx(rates)
    if length == 5:
        assert found == before.get_last_lr()  # to the last bit
