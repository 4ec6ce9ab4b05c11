"""Prefix sharing of a model: when it pays, the check that a model can do it, and the tokens that it saves."""

import logging
import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from prl.data.tokens import left_pad
from prl.models.policy import verdict_logits
from prl.models.prefix_sharing.packing import CostModel, Packed, pack, plan_pass, plan_rows, tree_size

log = logging.getLogger(__name__)

SharingMode = Literal["auto", "on", "off"]

ATTENTION_LENGTH = 2.6
"""Hidden sizes in the length of a row whose attention costs as much as the rest of the network."""
OVERHEAD = 0.05
"""Extra cost of an explicit mask, as a share of the cost of a row. Both are measured: docs/results/fused.md."""
TREE_ATTENTION = ("sdpa", "eager")
"""Attention implementations that take a mask of our own."""
NOISE = 1e-4
"""Root mean square difference of logits that always counts as rounding."""
ROUNDINGS = 4
"""Tolerance in roundings of a typical logit: in half precision a column of padding may change no logit."""


class PrefixSharingError(ValueError):
    """Raised for a setting of `on` with a model that cannot read trees."""


@dataclass
class TokenCounts:
    """Tokens that a model has computed so far, and tokens of all its readings, each read in full."""

    plain: int = 0
    """Tokens of all readings, each read whole."""
    computed: int = 0
    """Tokens that went through the model."""
    positions: int = 0
    """Tokens that went through the model, padding included."""

    @property
    def cached_token_fraction(self) -> float:
        """Share of the tokens that were shared instead of computed."""
        return (self.plain - self.computed) / max(self.plain, 1)

    def add(self, plain: int, computed: int, positions: int) -> None:
        """Count one forward pass."""
        self.plain += plain
        self.computed += computed
        self.positions += positions


def packed_logits(model: Any, packed: Packed) -> Tensor:
    """Compute the logits after each packed reading, equal to those of plain passes: [N, V] float32."""
    logits = model(**packed_inputs(model, packed), logits_to_keep=packed.num_columns).logits
    return logits[packed.row, packed.column].float()


def packed_text_logits(model: Any, packed: Packed) -> tuple[Tensor, Tensor]:
    """Compute `packed_logits` [N, V], and the log-probability of each token given its ancestors: [R, L] float32.

    A first token has no ancestor, and its entry is undefined.
    """
    logits = model(**packed_inputs(model, packed)).logits.float()
    rows, parents = torch.arange(len(logits), device=logits.device)[:, None], packed.parents()
    logprobs = logits[rows, parents, packed.input_ids] - logits.logsumexp(-1).gather(1, parents)
    return logits[packed.row, packed.last()], logprobs


def packed_inputs(model: Any, packed: Packed) -> dict[str, Any]:
    """Build the arguments of one forward pass over packed readings."""
    return {
        "input_ids": packed.input_ids,
        "attention_mask": attention_mask(model, packed),
        "position_ids": packed.depth,
        "use_cache": False,
    }


def attention_mask(model: Any, packed: Packed) -> Tensor:
    """Build the additive mask of a packed batch for the model's attention: [R, 1, L, L].

    A mask of bools would say the same to sdpa, which makes it additive in every layer and keeps each for its backward
    pass.
    """
    visible = packed.visible()[:, None]
    is_sdpa = attention_implementation(model) == "sdpa"
    dtype = computed_in(model, visible.device) if is_sdpa else dtype_of(model)
    unseen = -math.inf if is_sdpa else torch.finfo(dtype).min
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, unseen)


def device_of(model: Any) -> torch.device:
    """Return the device of a language model."""
    return _embedding(model).device


def dtype_of(model: Any) -> torch.dtype:
    """Return the type of a language model's weights."""
    return _embedding(model).dtype


def _embedding(model: Any) -> Tensor:
    # Not by attribute: DeepSpeed counts that as a use, and gathers the weight with all processes.
    return next(model.get_input_embeddings().parameters())


def attention_implementation(model: Any) -> str:
    """Return the name of a model's attention implementation."""
    return model.config.get_text_config()._attn_implementation


def attention_window(model: Any) -> int | None:
    """Return the length of a model's sliding or chunked attention window; None without one.

    The tree mask replaces the model's own, its window included, so a row has to fit into the window.
    """
    settings = model.config.get_text_config().to_dict()
    windows = [
        value
        for name, value in settings.items()
        if name.endswith(("window", "window_size", "attention_chunk_size")) and _is_used(name, settings)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0
    ]
    return min(windows, default=None)


def _is_used(window: str, settings: dict[str, Any]) -> bool:
    """Return whether any layer uses a window that the config names: some configs name one that no layer uses."""
    if layers := settings.get("layer_types") or settings.get("attention_layers"):
        kinds = ("chunked",) if "chunk" in window else ("sliding", "local")
        return any(str(layer).startswith(kinds) for layer in layers)
    return settings.get("use_sliding_window") is not False


class PrefixSharing:
    """Decides for one model whether it reads trees. The numbers are equal either way.

    Args:
        mode: auto (where the estimate says that it pays), on (wherever anything is shared) or off.
        setting: what users call the mode, for messages.
    """

    def __init__(self, mode: SharingMode, setting: str = "fused") -> None:
        if mode not in ("auto", "on", "off"):
            raise ValueError(f"{setting} is {mode!r}; expected auto, on or off")
        self.mode, self.setting = mode, setting
        self.tokens = TokenCounts()
        self._able: bool | None = None

    def rows(self, model: Any, readings: list[list[int]], max_tokens: int) -> list[list[int]]:
        """Choose which readings share a row at inference, as lists of reading numbers; rows of one where that is best.

        Raises:
            PrefixSharingError: when the model cannot read branches, and `fused` is on.
        """
        alone = [[i] for i in range(len(readings))]
        if self.mode == "off" or self._able is False or len(readings) < 2:
            return alone
        rows = plan_rows(readings, min(max_tokens, attention_window(model) or max_tokens), self._cost_model(model))
        if len(rows) == len(readings) or not self._try(model, max(readings, key=len)):
            return alone
        return rows

    def should_pack(self, model: Any, packed: Packed, input_ids: Tensor, mask: Tensor) -> bool:
        """Return whether to read a training batch packed, or as plain rows ids and mask [N, S]; count its tokens.

        The model is tried on the first batch in any case: with sharded weights all processes must take part.

        Raises:
            PrefixSharingError: when the model cannot read branches, and `fused` is on.
        """
        if self._able is None:
            self._try(model, input_ids[0][mask[0]].tolist())
        window, cost = attention_window(model), self._cost_model(model)
        rows, width = packed.input_ids.shape
        fits = window is None or width <= window
        cheaper = rows * cost.tree(width) < len(input_ids) * cost.row(input_ids.shape[1])
        fused = bool(self._able and fits and cheaper)
        computed = (packed.num_tokens, rows * width) if fused else (packed.num_plain_tokens, input_ids.numel())
        self.tokens.add(packed.num_plain_tokens, *computed)
        return fused

    def pass_rows(self, model: Any, groups: list[list[int]], readings: list[list[int]]) -> list[list[int]] | None:
        """Choose the rows of one pass over a training batch; None where plain rows are less work.

        Args:
            model: tried on the first batch, as in `should_pack`.
            groups: numbers of the readings that may share.
            readings: token ids.

        Raises:
            PrefixSharingError: when the model cannot read branches, and the mode is on.
        """
        longest = max(map(len, readings))
        widest = attention_window(model) or sum(map(len, readings))
        if not self.is_able(model, max(readings, key=len)) or longest > widest:
            return None
        cost = self._cost_model(model)
        rows = plan_pass(groups, readings, widest, cost)
        width = max(tree_size([readings[i] for i in row]) for row in rows)
        return rows if len(rows) * cost.tree(width) < len(readings) * cost.row(longest) else None

    def longest_tree(self, model: Any, count: int, length: int) -> int:
        """Return the tokens of the longest tree that may be read in place of `count` readings of `length`; 0 for none.

        The model is not tried.
        """
        if self.mode == "off" or attention_implementation(model) not in TREE_ATTENTION:
            return 0
        cost, widest = self._cost_model(model), attention_window(model) or count * length
        return max(0, bisect_left(range(widest + 1), count * cost.row(length), key=cost.tree) - 1)

    def is_able(self, model: Any, reading: list[int]) -> bool:
        """Return whether trees are wanted, and the model reads them as it reads rows; tried once.

        Raises:
            PrefixSharingError: when it does not, and the mode is on.
        """
        return self.mode != "off" and self._try(model, reading)

    def _try(self, model: Any, reading: list[int]) -> bool:
        """Return whether the model reads trees as it reads rows; tried once."""
        if self._able is None:
            reason = self.why_unable(model, reading)
            self._able = reason is None
            if reason and self.mode == "on":
                raise PrefixSharingError(
                    f"{self.setting} is on, but {reason}. Set {self.setting}: auto, which then reads plainly, or off"
                )
            if reason:
                log.warning("rows are read whole (set %s: off to do so without this line): %s", self.setting, reason)
        return self._able

    def why_unable(self, model: Any, reading: list[int]) -> str | None:
        """Explain why a model cannot read trees; None when it can."""
        return _why_unable(model, reading)

    def _cost_model(self, model: Any) -> CostModel:
        """Return the cost to minimise: tokens with `on`, an estimate of the time with `auto`."""
        if self.mode == "on":
            return CostModel()
        return CostModel(ATTENTION_LENGTH * model.config.get_text_config().hidden_size, OVERHEAD)


def _why_unable(model: Any, reading: list[int]) -> str | None:
    """Explain why a model cannot read trees; None when it can.

    The trial compares logits of `probe_pair(reading)` with those of a plain forward pass.
    """
    if attention_implementation(model) not in TREE_ATTENTION:
        return f"attn_implementation {attention_implementation(model)} takes no mask of our own (sdpa and eager do)"
    device = device_of(model)
    if window := attention_window(model):
        reading = reading[: max(2, 2 * window // 3)]  # both halves that differ and the shared one fit into the window
    pair = probe_pair(reading)
    return logits_mismatch(
        model,
        reading,
        lambda: packed_logits(model, pack([[0, 1]], pair, reading[0]).to(device)),
        "ignores a part of the block mask or of the positions",
    )


def probe_pair(reading: list[int]) -> list[list[int]]:
    """Return a reading, and a copy with its second half reversed."""
    half = len(reading) // 2
    return [reading, reading[:half] + reading[half:][::-1]]


def logits_mismatch(
    model: Any,
    reading: list[int],
    compute: Callable[[], Tensor],
    symptom: str,
    plain: Callable[[Any, Tensor, Tensor], Tensor] = verdict_logits,
) -> str | None:
    """Explain how other outputs of `probe_pair(reading)` differ from plain ones; None when they agree.

    The tolerance is three times the change by a column of padding, since rounding differs between types and devices, or
    a few roundings of the type.

    Args:
        model: a causal language model.
        reading: ids.
        compute: computes the other outputs: [2, V].
        symptom: words for the error of a model whose outputs differ.
        plain: computes the outputs of the model on ids and mask.
    """
    device = device_of(model)
    with torch.no_grad():
        ids, mask = (each.to(device) for each in left_pad(probe_pair(reading), reading[0]))
        expected = plain(model, ids, mask)
        wider = (torch.nn.functional.pad(each, (1, 0)) for each in (ids, mask))
        noise = _distance(expected, plain(model, *wider))
        try:
            found = compute()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a model may raise anything for unexpected arguments
            return f"{type(model).__name__} {symptom} ({type(error).__name__}: {error})"
    difference = _distance(expected, found)
    size = float(expected.pow(2).mean().sqrt())
    if difference <= max(NOISE, 3 * noise, ROUNDINGS * torch.finfo(computed_in(model, device)).eps * size):
        return None
    return f"{type(model).__name__} {symptom}: outputs differ by {difference:.1g}, rounding by {noise:.1g}"


def computed_in(model: Any, device: torch.device) -> torch.dtype:
    """Return the type of the model's matrix products."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return dtype_of(model)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).pow(2).mean(1).sqrt().max())
