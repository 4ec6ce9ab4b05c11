import pytest

from lightning_modules.ppo_checks import check_methods
from prl.advantages import PairwiseMatrix
from prl.anchors import DatasetAnchors, GroupReference, RoundRobin
from prl.anchors.base import AnchorSource
from prl.config import CriticSettings, Sampling


def checked(anchors: AnchorSource) -> CriticSettings | None:
    return check_methods(
        advantage=PairwiseMatrix(), critic=None, filters=[], anchors=anchors, sampling=Sampling(per_prompt=4)
    )


def test_an_estimator_that_compares_a_group_needs_the_group_as_anchors() -> None:
    for anchors in (DatasetAnchors(), GroupReference()):
        with pytest.raises(ValueError, match=f"PairwiseMatrix compares .* {type(anchors).__name__} gives other"):
            checked(anchors)
    assert checked(RoundRobin()) is None
