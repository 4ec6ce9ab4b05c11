"""`prl convert SOURCE FOLDER`: read a model once (a GGUF file, a hub id) and keep it as a safetensors folder."""

import argparse
from pathlib import Path

from prl.config import ModelSource
from prl.models.loading import load_causal_lm, load_tokenizer, save_model
from prl.system.outputs import check_folder, writing_folder


def main(args: list[str]) -> None:
    """Read SOURCE with its tokenizer and write FOLDER."""
    parser = argparse.ArgumentParser("prl convert", description=__doc__)
    parser.add_argument("source", help="a .gguf file (needs the package gguf), a folder or a hub id")
    parser.add_argument("folder", type=Path, help="where to write the model; must be new or empty")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    options = parser.parse_args(args)
    check_folder(options.folder, "the folder")
    source = ModelSource(path=options.source, dtype=options.dtype)
    model, tokenizer = load_causal_lm(source), load_tokenizer(source)
    with writing_folder(options.folder) as partial:
        save_model(model, tokenizer, partial)
    print(f"wrote {options.folder}")
