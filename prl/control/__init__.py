"""Control instead of language: trajectories with preferences, and a policy that learns from them (OPPO)."""

from prl.control.environment import Environment, normalized, play, returns
from prl.control.losses import norm_loss, reconstruction_loss, triplet_loss
from prl.control.networks import ConditionedPolicy, Decoder, NetworkSettings, TrajectoryEncoder
from prl.control.point_mass import DataSettings, PointMass, make_data
from prl.control.saving import load_policy, save_policy
from prl.control.trajectories import PreferenceData, read_data, write_data
from prl.control.windows import Window, WindowEncoder

__all__ = [
    "ConditionedPolicy",
    "DataSettings",
    "Decoder",
    "Environment",
    "NetworkSettings",
    "PointMass",
    "PreferenceData",
    "TrajectoryEncoder",
    "Window",
    "WindowEncoder",
    "load_policy",
    "make_data",
    "norm_loss",
    "normalized",
    "play",
    "read_data",
    "reconstruction_loss",
    "returns",
    "save_policy",
    "triplet_loss",
    "write_data",
]
