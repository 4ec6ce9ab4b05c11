"""Policies of control tasks on disk: config.json and model.safetensors."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from prl.control.networks import ConditionedPolicy, NetworkSettings
from prl.system.json_files import read_object
from prl.system.outputs import write_text

CONFIG, WEIGHTS = "config.json", "model.safetensors"
KIND = "prl_oppo"


def save_policy(policy: ConditionedPolicy, folder: str | Path) -> None:
    """Write a policy, its encoder and z* into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in policy.state_dict().items()}, folder / WEIGHTS)
    write_text(folder / CONFIG, json.dumps({"model_type": KIND, **asdict(policy.sizes)}, indent=2) + "\n")


def load_policy(folder: str | Path) -> ConditionedPolicy:
    """Read a folder of `save_policy`, ready to act.

    Raises:
        ValueError: when the folder holds no such policy, or not all of it.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} holds no {CONFIG}; expected the folder `model` of a run of OPPOModule")
    settings = read_object(folder / CONFIG)
    if settings.pop("model_type", None) != KIND:
        raise ValueError(f"{folder / CONFIG} is not of a policy for control; expected model_type {KIND}")
    try:
        policy = ConditionedPolicy(NetworkSettings(**settings))
        policy.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no whole policy: {str(error).splitlines()[0]}") from None
    return policy.eval()
