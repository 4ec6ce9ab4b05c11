"""What is in rows that name pictures: their sizes, and the accuracy of rules that look at pixels alone."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prl.data import DataSource
from prl.data.images import ImageFiles, pixel_hash
from prl.data.rows.image_records import CaptionedImage, ImagePair
from prl.data.rows.reading import LoadedRecords, load_records
from prl.data.rows.records import prompt_key
from prl.evaluation.data_summary import accuracy_of, label_counts, lengths

_RULES: dict[str, Callable[[np.ndarray], float]] = {
    "the brighter wins": lambda pixels: float(pixels.mean()),
    "more contrast wins": lambda pixels: float(pixels.std()),
    "more colour wins": lambda pixels: float(np.ptp(pixels, axis=-1).mean()),
}
"""The rule -> what the winner has more of."""


def describe_pictures(
    source: DataSource, kind: type[ImagePair] | type[CaptionedImage], on_invalid: Literal["error", "skip"]
) -> tuple[LoadedRecords[Any], dict[str, Any]]:
    """Read rows, open every picture once, and describe both as JSON values.

    Args:
        source: the rows; names of pictures are relative to their folder.
        kind: pairs of pictures, or pictures with captions.
        on_invalid: what a row is whose picture cannot be read, or that is bad itself.

    Raises:
        DataError: for bad rows under `error`, or without a good one.
    """
    path = Path(source.path)
    files = ImageFiles(path if path.is_dir() else path.parent)
    seen: list[list[tuple[str, str, list[float]]]] = []

    def look(record: Any) -> None:
        fields = ("chosen", "rejected") if isinstance(record, ImagePair) else ("image",)
        pictures = [files.read(getattr(record, field), field) for field in fields]
        seen.append([(_size(each), pixel_hash(each), [rule(each) for rule in _RULES.values()]) for each in pictures])

    loaded: LoadedRecords[Any] = load_records(source, kind, on_invalid, look)
    keys = [prompt_key(record.prompt) for record in loaded.records]
    prompts = lengths(loaded.records, len)["prompt"]
    found: dict[str, Any] = {
        "num_prompts": len(set(keys)),
        "num_pictures": len({content for row in seen for _, content, _ in row}),
        "sizes": dict(Counter(size for row in seen for size, _, _ in row).most_common()),
        "lengths": {"characters": {"prompt": prompts}},
    }
    if kind is ImagePair:
        decided = [(pair, key) for pair, key in zip(loaded.records, keys, strict=True) if pair.preference != 0.5]
        leads = np.stack([np.array(row[0][2]) - np.array(row[1][2]) for row in seen])
        kept = leads[[pair.preference != 0.5 for pair in loaded.records]]
        rules = {rule: accuracy_of(kept[:, n].tolist(), decided) for n, rule in enumerate(_RULES)}
        found["labels"] = label_counts(loaded.records)
        found["num_identical"] = sum(row[0][1] == row[1][1] for row in seen)
        found["baselines"] = {rule: numbers for rule, numbers in rules.items() if numbers}
    return loaded, found


def _size(pixels: np.ndarray) -> str:
    *frames, height, width, channels = pixels.shape
    clip = f"{frames[0]} frames of " if frames else ""
    return f"{clip}{height}x{width}, {channels} channel{'s' * (channels > 1)}"
