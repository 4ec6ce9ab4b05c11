"""`prl resume RUN_DIR`: continue a run from its own config, or with --verify K replay K batches and compare.

Settings behind these go to `prl fit`. A replay runs in a scratch folder and does not change the run. It starts at the
newest checkpoint with K batches of the ledger behind it. It says whether the batches repeat to the last bit, within
rounding, or which quantity is the first to differ (exit code 1).
"""

import argparse
import logging
import tempfile
from pathlib import Path
from typing import Any

import yaml

from prl.checkpoints.files import batches_of, summary, valid_checkpoints
from prl.checkpoints.resolve import RunError, resolve_checkpoint
from prl.run_folder.sealed_config import CONFIG, config_fault
from prl.run_folder.trust import FLAG, take_flag

log = logging.getLogger(__name__)

ACCEPT = "--accept_changes"


def main(args: list[str]) -> None:
    """Continue, or verify."""
    parser = argparse.ArgumentParser("prl resume", description=__doc__, allow_abbrev=False)
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    parser.add_argument("--verify", type=int, metavar="K", help="replay K batches and compare them with the ledger")
    parser.add_argument("--ckpt", help="checkpoint to start from; the newest whole one that fits when left out")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="relative difference of measured numbers that counts as rounding"
    )
    parser.add_argument(
        FLAG, metavar="true", help="obey the run's config.yaml also where it names code that is not prl's"
    )
    parser.add_argument(
        ACCEPT,
        metavar="NAMES",
        help="go on although these inputs changed, as in '[data.train]', or true for all; a refusal names them",
    )
    rest, trusted = take_flag(args)
    options, settings = parser.parse_known_args(rest)
    settings += [FLAG, "true"] if trusted else []
    settings += [ACCEPT, options.accept_changes] if options.accept_changes is not None else []
    _check_config(options.run_dir, settings)
    if options.verify is None:
        from prl.cli.app import run_stage

        run_stage(_fit(options.run_dir, options.run_dir, options.ckpt or "last", settings))
    elif options.verify < 1:
        raise RunError(f"--verify is {options.verify}; give the number of batches to replay")
    else:
        verify(options.run_dir, options.verify, options.ckpt, options.tolerance, settings)


def verify(run: Path, count: int, ckpt: str | None, tolerance: float, settings: list[str]) -> None:
    """Replay and report. Exits with 1 when a quantity differs beyond the tolerance.

    Raises:
        RunError: when there is no checkpoint with batches of the ledger behind it.
    """
    from prl.checkpoints.ledger import LEDGER, compare, read_ledger
    from prl.cli.replay import replayed

    before, _ = read_ledger(run / LEDGER)
    checkpoint = _checkpoint(run, before, count, ckpt)
    start = int(summary(checkpoint)["batches"])
    numbers = [n for n in range(start + 1, start + count + 1) if n in before]
    with tempfile.TemporaryDirectory(prefix="prl-verify-") as scratch:
        # Changed inputs are logged, and the ledger shows their effect.
        quiet = ["--trainer.logger", "false", "--checkpoint.every_n_batches", "0", "--accept_changes", "true"]
        quiet += settings
        lines, is_first_rank = replayed(_fit(run, Path(scratch), str(checkpoint), quiet), len(numbers))
    if len(lines) < len(numbers):
        raise RunError(f"the replay ended after {len(lines)} of {len(numbers)} batches; its settings end the run")
    if not is_first_rank:
        return
    what = f"batches {numbers[0]} to {numbers[-1]}, from {checkpoint}"
    if len(numbers) < count:
        what += f" (the ledger has {len(numbers)} after it, {count} were asked for)"
    found = compare([before[n] for n in numbers], lines, tolerance)
    if found is None:
        print(f"exact: {what}")
    elif found.size <= tolerance:
        where = f"{found.quantity} of batch {found.batch}"
        print(f"within {found.size:.1e} (largest difference: {where}; kernels that round otherwise): {what}")
    else:
        print(
            f"batch {found.batch} differs first, in {found.quantity}: {found.before} in the ledger, {found.now} in the "
            f"replay; {found.diagnosis}. Replayed: {what}"
        )
        raise SystemExit(1)


def _checkpoint(run: Path, ledger: dict[int, Any], count: int, ckpt: str | None) -> Path:
    """Choose the given checkpoint, else the newest with `count` ledger batches behind it, or the most of them."""
    if ckpt is not None:
        found = [Path(str(resolve_checkpoint(ckpt, run / "checkpoints"))).resolve()]
    else:
        found = valid_checkpoints(run / "checkpoints")
    behind = {
        path: sum(n in ledger for n in range(batches_of(path) + 1, batches_of(path) + count + 1)) for path in found
    }
    usable = [path for path in found if behind[path]]
    if not usable:
        raise RunError(
            f"no whole checkpoint of {run} has a batch of the ledger behind it, so there is nothing to compare; the "
            "last one alone is not enough. Keep two (checkpoint.keep), or verify while the run goes on"
        )
    return max(usable, key=lambda path: (behind[path], batches_of(path)))


def _check_config(run: Path, settings: list[str]) -> None:
    """Refuse a config that is missing or, unless accepted, changed since the run wrote it. Raises RunError."""
    path = run / CONFIG
    if not path.is_file():
        raise RunError(f"there is no {path}; give the folder of a run")
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument(ACCEPT, type=yaml.safe_load, default=False)
    accept = parser.parse_known_args(settings)[0].accept_changes
    if (wrong := config_fault(run)) is None:
        return
    from prl.run_folder.inputs import is_accepted

    if not is_accepted(CONFIG, accept):
        raise RunError(
            f"{path} has changed since the run wrote it: {wrong}. Put it back, or look it through and go on with it by "
            f"--accept_changes '[{CONFIG}]'. Settings can be given behind the run's folder instead"
        )
    log.warning("%s has changed, as accepted: %s", path, wrong)


def _fit(run: Path, folder: Path, checkpoint: str, settings: list[str]) -> list[str]:
    config = ["fit", "--config", str(run / "config.yaml"), "--run_dir", str(folder)]
    return [*config, "--ckpt_path", checkpoint, "--overwrite", "false", "--accept_changes", "false", *settings]
