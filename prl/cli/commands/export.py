"""`prl export --checkpoint FILE --output DIR`: write the model of a checkpoint as a folder that transformers loads.

The folder has the contents of the `model/` that a finished run leaves: safetensors, tokenizer, chat template, model
card, and a judge's template. Adapters are merged. No GPU and no data are needed, so no judge is measured. A judge gets
the passport of the run's `model/` if its weights are equal; otherwise `prl judge --write-passport` writes one.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path

from prl.checkpoints.files import LAST
from prl.checkpoints.resolve import RunError, resolve_checkpoint
from prl.run_folder import trust
from prl.run_folder.lock import LOCK, run_lock
from prl.system.outputs import OutputError, check_folder


def main(args: list[str]) -> None:
    """Write the model folder."""
    parser = argparse.ArgumentParser("prl export", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a .ckpt of a run")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; must be new or empty")
    parser.add_argument("--config", type=Path, help="the run's config.yaml; found beside the checkpoint when left out")
    parser.add_argument(
        trust.FLAG, metavar="true", help="obey the run's config.yaml also where it names code that is not prl's"
    )
    parser.add_argument("--adapter-only", action="store_true", help="write the adapters alone, in peft's files")
    rest, trusted = trust.take_flag(args)
    options = parser.parse_args(rest)
    export(options.checkpoint, options.output, options.config, merge=not options.adapter_only, trusted=trusted)
    print(f"wrote {options.output}")


def export(
    checkpoint: Path, output: Path, config: Path | None = None, *, merge: bool = True, trusted: bool = False
) -> None:
    """Write the model of a checkpoint.

    Args:
        checkpoint: a .ckpt file, or folder of parts.
        output: folder that does not exist yet, or is empty.
        config: the run's config.yaml; `run/config.yaml` of `run/checkpoints/x.ckpt` when None.
        merge: put adapters into the weights, instead of writing them alone.
        trusted: accept a config that names code outside of prl.

    Raises:
        RunError: when a file is missing or corrupt, or the folder is not empty.
        RunInUseError: for a folder inside that of a running run.
        UntrustedRunError: when the model's settings ask for such code.
        ValueError: for a checkpoint of another stage, or for merge: false without adapters.
    """
    _check_checkpoint(checkpoint)
    config = config or checkpoint.absolute().parent.parent / "config.yaml"
    if not config.is_file():
        raise RunError(f"no config at {config}; give the config.yaml of the checkpoint's run with --config")
    try:
        check_folder(output, "--output")
    except OutputError as error:
        raise RunError(str(error)) from None
    settings = trust.read_settings(config)
    if not isinstance(settings.get("model"), dict):
        raise RunError(f"{config} has no settings of a model; give the config.yaml of the checkpoint's run")
    from lightning_modules.export import write_model

    run = next((folder for folder in output.absolute().parents if _is_run(folder)), None)
    with (
        nullcontext() if run is None else run_lock(run),  # or the training would write its own into this one
        nullcontext() if trusted else trust.guarding_config(config),
    ):
        trust.check({"model": settings["model"]})
        write_model(settings, checkpoint, output, passport_of=config.parent / "model", merge=merge)


def _is_run(folder: Path) -> bool:
    return (folder / LOCK).exists() and (folder / "config.yaml").exists()  # other programs have files .lock too


def _check_checkpoint(path: Path) -> None:
    last = path / "checkpoints" / LAST
    if last.exists():
        raise RunError(f"--checkpoint {path} is the folder of a run; give {last}")
    if not path.exists():
        raise RunError(
            f"--checkpoint {path} does not exist; give a .ckpt file of a run, such as RUN_DIR/checkpoints/{LAST}"
        )
    if path.suffix != ".ckpt":
        raise RunError(f"--checkpoint {path} is no .ckpt file; give one such as RUN_DIR/checkpoints/{LAST}")
    resolve_checkpoint(str(path), path.parent)
