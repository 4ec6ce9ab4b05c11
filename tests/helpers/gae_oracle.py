"""GAE in float64, written from its equations: what every implementation of the operators is measured against.

Masked tokens are taken out first, so that neither holes nor padding exist in the recurrence; each step of it is one
line over the whole batch.
"""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ROUNDING = 2.0**-24  # unit roundoff of float32
SECOND_ORDER = 1.01  # (1 + ROUNDING)^n is below this for any chain of roundings here


@dataclass(frozen=True)
class Problem:
    """Arguments of both operators: tokens are [B, T], or [N] where `offsets` are given."""

    rewards: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    scores: Tensor
    values: Tensor
    mask: Tensor
    kl_coef: float = 0.1
    kl_estimator: str = "k1"
    gamma: float = 1.0
    gae_lambda: float = 0.95
    critic_lambda: float | None = None
    row_lambda: Tensor | None = None
    offsets: Tensor | None = None

    def arguments(self, operator: str) -> dict:
        """Return the arguments of `torch.ops.prl.<operator>`, by name."""
        left_out = {
            "gae": {"logprobs", "ref_logprobs", "scores", "kl_coef", "kl_estimator"},
            "shaped_gae": {"rewards"},
        }
        names = [field.name for field in fields(self) if field.name not in left_out[operator]]
        return {name: getattr(self, name) for name in names}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors among the arguments, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def map_tensors(self, function) -> "Problem":
        """Apply function(name, tensor) to each tensor of the problem."""
        return replace(self, **{name: function(name, tensor) for name, tensor in self.tensors().items()})

    def only_row(self, row: int) -> "Problem":
        """Select the problem of one row of [B, T]."""
        return self.map_tensors(lambda _, tensor: tensor[row : row + 1])


def ragged(kind: str, rows: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw a random mask of one kind, or with a random kind in each row ("mixed"): [rows, width] bool."""
    places = torch.arange(width)
    lengths = torch.randint(0, width + 1, (rows, 1), generator=generator)
    density = torch.rand(rows, 1, generator=generator)
    kinds = {
        "full": torch.ones(rows, width, dtype=torch.bool),
        "right padded": places < lengths,
        "left padded": places >= width - lengths,
        "holes": torch.rand(rows, width, generator=generator) < density,
        "none": torch.zeros(rows, width, dtype=torch.bool),
    }
    if kind != "mixed":
        return kinds[kind]
    choice = torch.randint(0, len(kinds), (rows,), generator=generator)
    return torch.stack(list(kinds.values()))[choice, torch.arange(rows)]


def random_problem(
    rows: int,
    width: int,
    *,
    seed: int = 0,
    mask: str = "mixed",
    packed: bool = False,
    per_row: bool = False,
    poison: float = 0.0,
    dtypes: tuple[torch.dtype, ...] = (torch.float32,) * 4,
    scale: float = 1.0,
    **settings,
) -> Problem:
    """Draw a problem with random numbers.

    Args:
        rows: B.
        width: T, or the largest length of a row of a packed problem.
        seed: of everything random.
        mask: kind of mask (`ragged`).
        packed: rows of random lengths, some of them 0, one after the other.
        per_row: one lambda per row.
        poison: what stands in masked places.
        dtypes: of rewards, logprobs, ref_logprobs and values.
        scale: standard deviation of rewards, scores and values.
        settings: further fields of `Problem`.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    counts = ragged(mask, rows, width, generator)
    logprobs = -normal(rows, width).abs()
    # exp(-d) of k3 stays far from the largest float32
    ref_logprobs = logprobs + normal(rows, width).clamp(-4, 4)
    tokens = [normal(rows, width) * scale, logprobs, ref_logprobs, normal(rows, width) * scale]
    tokens = [tensor.to(dtype).masked_fill(~counts, poison) for tensor, dtype in zip(tokens, dtypes, strict=True)]
    if packed:
        real = ragged("right padded", rows, width, generator)
        settings["offsets"] = torch.cat([torch.zeros(1, dtype=torch.long), real.sum(1).cumsum(0)])
        counts, *tokens = (tensor[real] for tensor in (counts, *tokens))
    if per_row:
        settings["row_lambda"] = torch.rand(rows, generator=generator)
    rewards, logprobs, ref_logprobs, values = tokens
    return Problem(rewards, logprobs, ref_logprobs, normal(rows) * scale, values, counts, **settings)


class Tracks(NamedTuple):
    """One output, without its masked tokens, and how far float32 may be from it."""

    exact: np.ndarray  # [L, B] zero beyond a row's tokens
    largest: np.ndarray  # [B] the largest magnitude of the row
    bound: np.ndarray  # [B] worst error of any token of the row


class Oracle:
    """Float64 results of one problem.

    `gamma`, `gamma * lambda` and `kl_coef` are numbers of float32 in every implementation, so they are rounded here
    too: they belong to the problem. What this rounding changes is bounded in a test of its own
    (`round_decays=False`), not hidden in the tolerances.
    """

    def __init__(self, problem: Problem, operator: str, *, scan: bool = False, round_decays: bool = True) -> None:
        self.mask = problem.mask.flatten().numpy()
        num_rows = len(problem.scores)
        lengths = problem.mask.shape[1] if problem.offsets is None else problem.offsets.diff().numpy()
        self._row = np.repeat(np.arange(num_rows), lengths)[self.mask]  # of each token that counts
        self.count = np.bincount(self._row, minlength=num_rows)
        self._place = np.arange(len(self._row)) - np.repeat(np.cumsum(self.count) - self.count, self.count)
        self._shape = (self.count.max(initial=0) + 1, num_rows)

        as_float32 = (lambda x: np.float64(np.float32(x))) if round_decays else np.float64
        gamma = as_float32(problem.gamma)
        actor = np.full(num_rows, as_float32(problem.gamma * problem.gae_lambda))
        if problem.row_lambda is not None:
            actor = as_float32(gamma * problem.row_lambda.double().numpy())
        critic = actor
        if problem.critic_lambda is not None:
            critic = np.full(num_rows, as_float32(problem.gamma * problem.critic_lambda))

        rewards, rough = self._rewards(problem, operator, as_float32(problem.kl_coef))
        values = self.tokens(problem.values)
        # delta_t = r_t + gamma V_{t+1} - V_t; the row below the last token is zero.
        delta = rewards - values
        delta[:-1] += gamma * values[1:]
        inputs = np.maximum(np.abs(rewards).max(0), np.abs(values).max(0))
        advantages = _discounted(delta, actor)
        traces = advantages if critic is actor else _discounted(delta, critic)
        counted = np.arange(self._shape[0])[:, None] < self.count
        self.advantages = self._tracks(advantages, advantages, actor, inputs, rough, scan)
        self.returns = self._tracks((traces + values) * counted, traces, critic, inputs, rough, scan)

    def tokens(self, tensor: Tensor) -> np.ndarray:
        """Collect the tokens that count, in order: [L + 1, B] float64, zero beyond the last of a row."""
        dense = np.zeros(self._shape)
        dense[self._place, self._row] = _float64(tensor)[self.mask]
        return dense

    def errors(self, found: Tensor, tracks: Tracks) -> np.ndarray:
        """Compute the largest error of each row: [B]. A nonzero token outside the mask counts as infinitely wrong."""
        if not (_float64(found)[~self.mask] == 0).all():
            return np.full(self._shape[1], np.inf)
        return np.abs(self.tokens(found) - tracks.exact).max(0)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """[3]: the number of tokens that count, the sum of advantages and of squares; and the worst error of each."""
        exact, _, bound = self.advantages
        moments = [self.count.sum(), exact.sum(), np.square(exact).sum()]
        of_squares = (2 * np.abs(exact).sum(0) * bound + self.count * bound**2).sum()
        return np.array(moments), np.array([0, (self.count * bound).sum(), of_squares])

    def _rewards(self, problem: Problem, operator: str, kl_coef: float) -> tuple[np.ndarray, np.ndarray]:
        """Token rewards, and in roundings the largest error that float32 makes in those of a row before the score."""
        if operator == "gae":
            rewards = self.tokens(problem.rewards)
            return rewards, np.zeros(self._shape[1])
        last = self.count - 1, np.arange(self._shape[1])
        # A row without tokens has its -1 here: the zero below all tokens, where no score goes.
        scores = np.where(self.count > 0, _float64(problem.scores), 0)
        if kl_coef == 0:
            rewards = np.zeros(self._shape)
            rewards[last] += scores
            return rewards, np.zeros(self._shape[1])
        d = self.tokens(problem.logprobs) - self.tokens(problem.ref_logprobs)
        growth = np.expm1(-d)
        kl = {"k1": d, "k2": d**2 / 2, "k3": growth + d}[problem.kl_estimator]
        rewards = -kl_coef * kl
        # Roundings of r: k1 has those of the difference and the product, k2 that of the difference twice, of the
        # square and of the product. In k3, that of d changes exp(-d) - 1 + d by |d (exp(-d) - 1)|, expm1 is right
        # within one unit in the last place (two roundings), and the sum and the product follow.
        rough = {
            "k1": 2 * np.abs(rewards),
            "k2": 4 * np.abs(rewards),
            "k3": abs(kl_coef) * (np.abs(d) + 2) * np.abs(growth) + 2 * np.abs(rewards),
        }[problem.kl_estimator]
        rewards[last] += scores
        return rewards, rough.max(0)

    def _tracks(
        self,
        exact: np.ndarray,
        traces: np.ndarray,
        decay: np.ndarray,
        inputs: np.ndarray,
        rough: np.ndarray,
        scan: bool,
    ) -> Tracks:
        """Put the bound to a result, which is `traces` or `traces` plus values.

        Let S be the largest |r| or |V| of a row, M its largest |A|, K the error of r in roundings and a = gamma lambda.
        One token at a time: r + score rounds a number of size S, gamma V' one of S, their sum one of 2S, less V one
        of 3S, a A' one of M, the sum one of M: at most 7S + 2M roundings a token. An error of one token reaches the
        k-th before it times a^k, so there are n = 1 + a + a^2 + ... of these.

        A scan adds pieces that lack what is to their right. A piece is the difference of two sums of the whole row,
        each at most M + 2S, so at most P = 2M + 4S. Its steps round numbers of S, 2S and thrice P, the powers of a
        are off by one rounding a token (another P), which is below 19S + 8M; and up to 32 pieces (lanes, warps,
        blocks) are joined with two roundings of P each, which is below 16 tokens' worth.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = np.where(decay == 1, self.count, (1 - decay**self.count) / (1 - decay))
        largest = np.abs(exact).max(0)
        sums = np.abs(traces).max(0)
        each = (19 * inputs + 8 * sums if scan else 7 * inputs + 2 * sums) + rough
        roundings = (steps + 16 if scan else steps) * each
        # The result itself is rounded once more where values are added; numbers below 1e-37 have fewer digits.
        return Tracks(exact, largest, SECOND_ORDER * ROUNDING * (roundings + largest) + 1e-36)


def _discounted(delta: np.ndarray, decay: np.ndarray) -> np.ndarray:
    """A_t = delta_t + decay A_{t+1} of [L, B] and [B]."""
    sums = np.zeros_like(delta)
    for t in reversed(range(len(delta) - 1)):
        sums[t] = delta[t] + decay * sums[t + 1]
    return sums


def _float64(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float64).flatten().numpy()
