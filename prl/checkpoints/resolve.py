"""Resolution of the checkpoint argument: a path, or `last`."""

from pathlib import Path

from prl.checkpoints.files import REST, CheckpointError, find_corruption, holds_checkpoints, latest_valid


class RunError(ValueError):
    """A run folder or checkpoint that does not fit the request."""


def resolve_checkpoint(ckpt_path: str | None, folder: Path) -> str | None:
    """Resolve the checkpoint argument to a valid checkpoint: for `last`, the newest valid one in `folder`.

    Raises:
        RunError: when the checkpoint is missing or corrupt. Lightning would warn about a missing `last` and start from
            the beginning.
    """
    if ckpt_path is None:
        return None
    if str(ckpt_path) in ("best", "hpc", "registry"):
        raise RunError(f"--ckpt_path {ckpt_path}: give `last` or the path of a checkpoint")
    if str(ckpt_path) == "last":
        try:
            return str(latest_valid(folder))
        except CheckpointError as error:
            hint = "leave --ckpt_path out to start"
            if holds_checkpoints(folder):
                hint = "start anew with --overwrite true and without --ckpt_path"
            raise RunError(f"--ckpt_path last: {error}. Check --run_dir, or {hint}") from None
    path = Path(ckpt_path)
    if not path.exists():
        raise RunError(f"checkpoint {path} does not exist. Check --run_dir, or leave --ckpt_path out to start")
    if path.suffix != ".ckpt" if path.is_file() else not (path / REST).is_file():
        raise RunError(f"--ckpt_path {ckpt_path} is no checkpoint; give a .ckpt file, or `last`")
    if wrong := find_corruption(path):
        hint = "Use another one, or --ckpt_path last for the newest whole one"
        raise RunError(f"checkpoint {path} is torn: {wrong}. {hint}")
    return str(path)
