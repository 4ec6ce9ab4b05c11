"""The training of each round of `prl rounds`: checked before anything is sampled, apart where it has processes."""

import gc
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prl.data import AnchoredPrompt, load_records
from prl.objectives.preference import PreferenceObjective
from prl.pairs.making import PairMaker
from prl.run_folder.lock import is_first_process


def check_started_once() -> None:
    """Refuse a launcher that starts this command several times: each would make all rounds.

    Raises:
        ValueError: in one of several processes.
    """
    if not is_first_process() or os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise ValueError(
            "prl rounds was started several times by a launcher (RANK, WORLD_SIZE); start it once: it starts the "
            "processes of each fit by itself, as many as fit.options has in trainer.devices"
        )


def check_revision_prompt(objective: Any, asked: str | None) -> None:
    """Refuse to ask a policy for revisions in other words than it is trained on.

    Args:
        objective: of the fit; one that learns no revisions is not looked at.
        asked: `pairs.revision_prompt` where responses are revised.

    Raises:
        ValueError: naming both settings.
    """
    trained = objective.revision_prompt if getattr(objective, "revisions", None) else None
    if asked is not None and trained not in (None, asked):
        raise ValueError(
            f"pairs.revision_prompt is {asked!r}, and the objective of the fit trains on {trained!r}; set both to one"
        )


def check_columns(objective: Any, maker: PairMaker, data: Mapping[str, Any]) -> None:
    """Refuse an objective that reads columns which the rows of a round will not have.

    Args:
        objective: of the fit; one that reads pairs alone is not looked at.
        maker: makes the rows; further columns of its prompts stay.
        data: resolved settings of the fit's data module.

    Raises:
        DataError: when the first prompt cannot be read.
        ValueError: naming the objective, the column and the fix.
    """
    if not isinstance(objective, PreferenceObjective):
        return
    of_lists = [each for name, numbers in objective.lists.items() for each in (name, *numbers)]
    declared = [*objective.views[2:], *objective.columns, *of_lists]
    renamed = data["init_args"]["train"].get("columns") or {}
    read = [renamed.get(name, name) for name in declared]
    if not (missing := [name for name in read if name not in maker.columns]):
        return
    (first,) = load_records(replace(maker.prompts, limit=1), AnchoredPrompt).records
    if missing := [name for name in missing if name not in first.extra]:
        settings = {**dict.fromkeys(of_lists, "lists"), "proposal_logprobs": "proposal_logprobs"}
        setting = settings.get(missing[0], "calibration" if missing[0] == "calibration" else None)
        fix = f"set pairs.{setting}" if setting else "add it to the prompts, whose further columns stay"
        raise ValueError(
            f"{type(objective).__name__} reads the column {missing[0]!r}, which the rows of a round will not have: "
            f"{maker.prompts.path} has none, and pairs writes {', '.join(maker.columns)}; {fix}"
        )


def needs_processes(settings: dict[str, Any]) -> bool:
    """Return whether a training run sets up processes: for several devices, or by a strategy that shards weights.

    Args:
        settings: resolved, of `prl fit`.

    Raises:
        ValueError: for several machines.
    """
    from lightning import Trainer

    trainer = settings["trainer"]
    if int(trainer["num_nodes"]) > 1:
        raise ValueError(
            f"trainer.num_nodes is {trainer['num_nodes']} in the fit of each round, and prl rounds works on one "
            "machine; leave it out, and set trainer.devices"
        )
    if trainer["strategy"] != "auto":
        return True
    named = {name: trainer[name] for name in ("accelerator", "devices")}
    return Trainer(**named, logger=False, enable_checkpointing=False, enable_progress_bar=False).num_devices > 1


def run_fit(arguments: list[str], apart: bool) -> None:
    """Run `prl fit`.

    Lightning starts the processes of a run by the command line of the first, which must be that of the fit alone.

    Args:
        arguments: of `prl`.
        apart: in processes of its own.

    Raises:
        SystemExit: with the exit code of a process of its own that failed or was told to stop.
    """
    if not apart:
        from prl.cli.app import run_stage

        run_stage(arguments)
        return
    import torch

    from prl.system.children import run_apart

    gc.collect()
    torch.cuda.empty_cache()  # of the models that sampled and judged
    if code := run_apart([sys.executable, "-m", "prl", *arguments]):
        raise SystemExit(code)
