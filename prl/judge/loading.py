"""A judge of any kind from its folder."""

from collections.abc import Callable
from pathlib import Path

from prl.judge.base import JUDGE_FILE, PairwiseJudge, read_judge_file
from prl.judge.bradley_terry import BradleyTerryJudge
from prl.judge.generative import GenerativeJudge

_KINDS: dict[str, Callable[..., PairwiseJudge]] = {
    "generative": GenerativeJudge,
    "bradley_terry": BradleyTerryJudge,
}


def load_judge(folder: str | Path, dtype: str = "float32") -> PairwiseJudge:
    """The judge in a folder, ready to compare.

    Raises:
        ValueError: when the folder holds no judge, or one of an unknown kind.
    """
    kind = read_judge_file(folder)["kind"]
    if kind not in _KINDS:
        raise ValueError(f"{Path(folder) / JUDGE_FILE} names the kind {kind!r}; expected one of {', '.join(_KINDS)}")
    judge = _KINDS[kind](str(folder), dtype=dtype)
    judge.load()
    return judge
