from typing import Any

import pytest
import torch

from prl.distributed import global_sum, rank, world_size
from prl.masking import masked_mean, masked_var, weighted_mean, whiten
from prl.models.critic import explained_variance
from tests.helpers.records import ragged_mask
from tests.helpers.two_processes import in_two_processes

MASK = ragged_mask([5, 1, 3, 0, 2, 4, 5])
SPLIT = 2  # rows 0 and 1 on the first process, the other five on the second: neither rows nor tokens are shared evenly


def numbers() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(MASK.shape, generator=generator) * 3 + 2


def results(values: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "sum": global_sum(torch.tensor([float(mask.sum()), 1.0])),
        "mean": masked_mean(values, mask),
        "var": masked_var(values, mask),
        "white": whiten(values, mask),
        "explained": explained_variance(values / 2, values, mask),
    }


def weighted() -> tuple[torch.Tensor, torch.Tensor]:
    return numbers()[0, :4], torch.tensor([1.0, 0.5, 3.0, 2.0])


def worker(process: int) -> dict[str, Any]:
    rows = slice(0, SPLIT) if process == 0 else slice(SPLIT, None)
    seen = {"rank": rank(), "world_size": world_size(), **results(numbers()[rows], MASK[rows])}
    nothing = torch.zeros_like(MASK[rows]) if process == 0 else MASK[rows]
    seen["one_side_empty"] = masked_mean(numbers()[rows], nothing)
    seen["weighted"] = weighted_mean(*(part[2 * process : 2 * process + 2] for part in weighted()))
    values, weights = (part[2 * process : 2 * process + 2] for part in weighted())
    parts = [weighted_mean(values[n : n + 1], weights[n : n + 1], weights, 2) for n in range(2)]
    seen["accumulated"] = torch.stack(parts).mean()
    with_gradient = torch.ones(2, requires_grad=True)
    seen["detached"] = not global_sum(with_gradient).requires_grad
    seen["untouched"] = torch.equal(with_gradient.detach(), torch.ones(2))
    return seen


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return in_two_processes(worker, tmp_path_factory.mktemp("gloo"))


def test_ranks(shares) -> None:
    assert [(share["rank"], share["world_size"]) for share in shares] == [(0, 2), (1, 2)]
    assert (rank(), world_size()) == (0, 1)


def test_sums_agree_on_every_rank(shares) -> None:
    for share in shares:
        assert share["sum"].tolist() == [20.0, 2.0]
        assert share["detached"]
        assert share["untouched"]


@pytest.mark.parametrize("name", ["mean", "var", "explained"])
def test_statistics_of_shared_rows_equal_those_of_one_process(shares, name) -> None:
    alone = results(numbers(), MASK)[name]
    for share in shares:  # two partial float32 sums of 20 numbers in another order
        torch.testing.assert_close(share[name], alone, atol=0, rtol=1e-6)


def test_whitening_of_shared_rows_equals_that_of_one_process(shares) -> None:
    white = torch.cat([share["white"] for share in shares])
    torch.testing.assert_close(white, whiten(numbers(), MASK), atol=1e-6, rtol=0)
    apart = whiten(numbers()[:SPLIT], MASK[:SPLIT])
    assert (white[:SPLIT] - apart).abs().max() > 0.1  # whitening each share by itself is something else


def test_a_rank_without_tokens_takes_part(shares) -> None:
    expected = masked_mean(numbers()[SPLIT:], MASK[SPLIT:])
    for share in shares:
        torch.testing.assert_close(share["one_side_empty"], expected, atol=0, rtol=1e-6)


def test_the_mean_over_ranks_is_the_weighted_mean_of_all(shares) -> None:
    values, weights = weighted()
    mean = (shares[0]["weighted"] + shares[1]["weighted"]) / 2
    torch.testing.assert_close(mean, (values * weights).sum() / weights.sum(), atol=0, rtol=1e-6)
    accumulated = (shares[0]["accumulated"] + shares[1]["accumulated"]) / 2
    torch.testing.assert_close(accumulated, mean, atol=0, rtol=1e-6)
    assert (shares[0]["weighted"] - weighted_mean(values[:2], weights[:2])).abs() > 0.01  # not each rank by itself


def test_alone_a_sum_is_a_copy() -> None:
    value = torch.ones(2)
    total = global_sum(value)
    assert torch.equal(total, value)
    assert total.data_ptr() != value.data_ptr()
