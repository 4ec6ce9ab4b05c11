"""A judge whose margins are kept in a folder and read from it."""

from typing import Any

import torch
from torch import Tensor

from prl.judge.base import Comparison, PairwiseJudge
from prl.judge.lineage import base_hash
from prl.judge.passport import DTYPE, describe_judge
from prl.judge.store import VerdictStore, judge_id
from prl.judge.wrapper import JudgeWrapper
from prl.rewards.folder import read_judge_file

BATCH = 1024
"""Readings that are computed before they are written."""


class StoredJudge(JudgeWrapper):
    """Reads margins from a folder of verdicts, and has another judge compute and keep those that are not there.

    A verdict is known by its content: what decides the judge's margins (weights, template, temperature, type, ...), the
    prompt and both texts in their order. A margin depends on its batch by rounding; the store decides, so that equal
    readings have equal margins in all runs that read it. Judgements that failed are not kept.

    Args:
        judge: the judge that reads.
        folder: folder of verdicts, which several runs may share; made where it does not exist.

    Raises:
        ValueError: for a judge that chooses the orders itself.
    """

    def __init__(self, judge: PairwiseJudge, folder: str) -> None:
        super().__init__(judge)
        if not judge.reads_both_orders:
            name = type(judge).__name__
            raise ValueError(f"StoredJudge.judge is {name}, which chooses its readings; put StoredJudge inside {name}")
        self.antisymmetric = judge.antisymmetric  # type: ignore[misc] # of this judge alone
        self.store = VerdictStore(folder)
        self._about: dict[str, Any] | None = None
        self._place = torch.device("cpu")

    def load(self) -> None:
        """Load the judge, and read the folder.

        Raises:
            ValueError: for a judge that does not say what decides its margins, or a damaged folder.
        """
        super().load()
        self.store.open()
        self._about = about_judge(self.judge)

    def counters(self) -> list[Any]:
        """Return the counts of look-ups."""
        return [self.store.lookups]

    def numbers(self) -> dict[str, float]:
        """Return the share of readings so far that were in the store."""
        return {"perf/verdict_store_hit_rate": self.store.hit_rate}

    @torch.no_grad()
    def margins(self, comparisons: list[Comparison]) -> Tensor:
        """Return z(u, v) of each comparison, kept or computed: [N] float32."""
        if self._about is None:
            self._about = about_judge(self.judge)
        name = judge_id(self._about)
        found = self.store.look_up(name, comparisons)
        lacking = [n for n, margin in enumerate(found) if margin is None]
        for start in range(0, len(lacking), BATCH):
            asked = lacking[start : start + BATCH]
            computed = self.judge.margins([comparisons[n] for n in asked])
            self._place = computed.device
            margins = computed.float().tolist()
            self.store.add(name, self._about, [comparisons[n] for n in asked], margins)
            for n, margin in zip(asked, margins, strict=True):
                found[n] = margin
        known = [torch.nan if margin is None else margin for margin in found]
        return torch.tensor(known, dtype=torch.float32, device=self._device())

    def _device(self) -> torch.device:
        own = next(iter(self.parameters()), None)
        return self._place if own is None else own.device


def about_judge(judge: PairwiseJudge) -> dict[str, Any]:
    """Describe all that decides a judge's margins, up to rounding.

    Raises:
        ValueError: for a judge that has neither a description nor a folder.
    """
    if (about := judge.describe()) is not None:
        return about
    if judge.folder is None:
        raise ValueError(
            f"{type(judge).__name__} does not say what decides its margins, so they cannot be kept by content; give it "
            "a method describe() that returns its settings and a hash of its weights"
        )
    about = {**describe_judge(judge.folder, judge.dtype or DTYPE), **judge.described_otherwise()}
    # Where the model lies says nothing of it, and its weights are hashed.
    about["settings"] = {name: each for name, each in read_judge_file(judge.folder).items() if name != "model"}
    base = base_hash(judge.folder)  # else the weights are those of adapters
    return about if base is None else {**about, "base_sha256": base}
