"""`prl convert SOURCE FOLDER`: read a model once (a GGUF file, a hub id) and keep it as a safetensors folder.

`prl convert RUN_DIR` writes the current names of classes and settings into the config.yaml of an earlier version's run.
"""

import argparse
from pathlib import Path

from prl.config import DTYPES, ModelSource
from prl.renamed.check import rename_in_run
from prl.run_folder.sealed_config import CONFIG
from prl.system.outputs import check_folder, writing_folder


def main(args: list[str]) -> None:
    """Read SOURCE with its tokenizer and write FOLDER; or write new names into a run folder."""
    parser = argparse.ArgumentParser("prl convert", description=__doc__)
    parser.add_argument("source", help="a .gguf file (needs the package gguf), a folder, a hub id, or a run folder")
    parser.add_argument("folder", type=Path, nargs="?", help="where to write the model; must be new or empty")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    options = parser.parse_args(args)
    if options.folder is None:
        if not (Path(options.source) / CONFIG).is_file():
            parser.error(f"{options.source} is no run folder; give a FOLDER to write the model to")
        _rename(Path(options.source))
        return
    check_folder(options.folder, "the folder")
    from prl.models.loading import load_causal_lm, load_tokenizer, save_model

    source = ModelSource(path=options.source, dtype=options.dtype)
    model, tokenizer = load_causal_lm(source), load_tokenizer(source)
    with writing_folder(options.folder) as partial:
        save_model(model, tokenizer, partial)
    print(f"wrote {options.folder}")


def _rename(run: Path) -> None:
    found = rename_in_run(run)
    for old, new in found.items():
        print(f"{old} is now {new}")
    print(f"wrote {run / CONFIG}" if found else f"{run / CONFIG} has no old names")
