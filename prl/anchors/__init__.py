"""Anchors: the responses that rollouts are compared with. `base.py` has the socket, other files its classes."""

from prl.anchors.bank import AnchorBank
from prl.anchors.base import AnchorSource
from prl.anchors.group_reference import GroupReference
from prl.anchors.sources import DatasetAnchors, PreviousPolicy, ReferenceSamples, RoundRobin

__all__ = [
    "AnchorBank",
    "AnchorSource",
    "DatasetAnchors",
    "GroupReference",
    "PreviousPolicy",
    "ReferenceSamples",
    "RoundRobin",
]
