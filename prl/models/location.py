"""Resolution of model paths: a model folder, a GGUF file, adapters with a base model elsewhere, or an id on the hub."""

import json
from pathlib import Path
from typing import Any

from prl.models.damage import damaged

ADAPTERS = "adapter_config.json"
"""File that makes a folder one of adapters."""
JUDGE_FILE = "prl_judge.json"
"""Settings of a judge beside its weights; in a folder without weights it names the model (`linked_model`)."""
MODEL_FILES = (
    *("*.safetensors", "pytorch_model*.bin", "*.index.json", "config.json", "generation_config.json"),
    *("adapter_config.json", "adapter_model.*", "README.md", "rm_passport.json", "judge_training.json"),
    *("prl_judge.json", "*.jinja"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "spiece.model"),
    *("sentencepiece.bpe.model", "additional_chat_templates*", ".gitattributes", "processor_config.json"),
)
"""Names in a model folder that `save_pretrained` and prl write."""


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.*", "*.model", "tekken.json")
"""Names of which a tokenizer has one at least."""


class ModelNotFoundError(ValueError):
    """Raised for a missing model folder or file; the message has the fix."""


def is_hub_id(path: str) -> bool:
    """Return whether a path means a model on the hub: a name or owner/name, and no folder of that name here.

    Anything else with a slash, a leading dot or a root is a folder, and so is owner/name where the owner is a folder
    here: a typing mistake is more likely than an id.
    """
    owner, slash, name = path.partition("/")
    meant_local = path.startswith((".", "/", "~")) or path.count("/") > 1 or path.endswith(".gguf")
    inside_a_folder = bool(slash) and (not name or Path(owner).is_dir())
    return not (meant_local or inside_a_folder or Path(path).is_dir())


def location(path: str) -> dict[str, Any]:
    """Build arguments for from_pretrained; a GGUF file is named within its folder.

    Raises:
        ModelNotFoundError: when a folder or file is missing, or a folder holds no model.
    """
    local = Path(path).expanduser()
    if path.endswith(".gguf"):
        if not local.is_file():
            raise ModelNotFoundError(f"GGUF file {path} does not exist")
        return {"pretrained_model_name_or_path": str(local.parent), "gguf_file": local.name}
    if local.is_file():
        raise ModelNotFoundError(f"{path} is a file, and no .gguf file; give a model folder, a .gguf file or a hub id")
    if not local.is_dir() and not is_hub_id(path):
        raise ModelNotFoundError(
            f"model folder {path} does not exist; run the stage that writes it first, or give another folder or hub id"
            + _not_an_id(path)
        )
    if local.is_dir() and not any((local / name).is_file() for name in ("config.json", "tokenizer.json")):
        raise ModelNotFoundError(f"folder {path} holds no config.json: it is not a Hugging Face model folder")
    return {"pretrained_model_name_or_path": str(local) if local.is_dir() else path}


def check_holds(path: str, names: tuple[str, ...], fix: str) -> None:
    """Refuse a local folder that holds no file of these names (globs); say what mends it. Raises ModelNotFoundError."""
    location(path)  # a folder with neither is no model folder at all
    folder = Path(path).expanduser()
    if folder.is_dir() and not any(any(folder.glob(name)) for name in names):
        raise ModelNotFoundError(f"folder {path} holds no {names[0]}; {fix}")


def _not_an_id(path: str) -> str:
    """Suggest another reading of owner/name."""
    owner, slash, name = path.partition("/")
    if not slash or "/" in name or not owner.strip(".~"):
        return ""
    return f" (it is not looked up on the hub, since {owner} is a folder here)"


def base_of(path: str) -> str | None:
    """Find the base model of a folder of adapters: a folder or hub id; None for a full model.

    A relative folder is searched for in the folder of the adapters, in the folders above, and then in the current one.

    Raises:
        ModelNotFoundError: when the base model is a folder that is in none of them.
        ValueError: when the file of the adapters is damaged.
    """
    folder = Path(path).expanduser()
    settings = folder / ADAPTERS
    if path.endswith(".gguf") or not settings.is_file():
        return None
    try:
        written = json.loads(settings.read_text(encoding="utf-8"))
        base, _ = written["base_model_name_or_path"], written["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(settings, error) from None
    if not isinstance(base, str) or not base:
        raise damaged(settings, f"base_model_name_or_path is {base!r}, expected a folder or a hub id")
    return _found_from(
        folder, base, f"the base model {base} of the adapters in {path}", settings, "base_model_name_or_path"
    )


def linked_model(path: str) -> str | None:
    """Find the model of a judge's folder that has settings alone, as calibration writes; None for any other path.

    It is searched for as the base model of adapters is.

    Raises:
        ModelNotFoundError: when the model is a folder or file that is in no such place.
        ValueError: when the file of the settings is damaged.
    """
    folder = Path(path).expanduser()
    settings = folder / JUDGE_FILE
    if not settings.is_file() or any((folder / name).is_file() for name in ("config.json", ADAPTERS)):
        return None
    try:
        model = json.loads(settings.read_text(encoding="utf-8")).get("model")
    except (ValueError, AttributeError, RecursionError) as error:
        raise damaged(settings, error) from None
    if model is None:
        return None
    if not isinstance(model, str) or not model:
        raise damaged(settings, f"model is {model!r}, expected a folder, a .gguf file or a hub id")
    return _found_from(folder, model, f"the model {model} of the judge in {path}", settings, "model")


def _found_from(folder: Path, written: str, named: str, settings: Path, field: str) -> str:
    """Find a model that a file in a folder names."""
    wanted = Path(written).expanduser()
    if (found := _from_above(folder, wanted)) is not None:
        return str(found)
    if wanted.is_dir() or (wanted.is_file() and written.endswith(".gguf")) or is_hub_id(written):
        return written
    looked = "" if wanted.is_absolute() else f", looked for from here and from the folders above {folder}"
    raise ModelNotFoundError(f"{named} does not exist{looked}; put it back, or correct {field} in {settings}")


def _from_above(folder: Path, wanted: Path) -> Path | None:
    """Find a relative model folder in the folder of adapters or a folder above; None where there is none."""
    if wanted.is_absolute():
        return None
    for above in (folder.absolute(), *folder.absolute().parents):
        if wanted.suffix == ".gguf" and (above / wanted).is_file():
            return above / wanted
        if any((above / wanted / name).is_file() for name in ("config.json", ADAPTERS)):
            return above / wanted
    return None


def pin_base(folder: Path) -> None:
    """Write the base model of adapters that were just written so that it is found from any folder."""
    settings = folder / ADAPTERS
    written = json.loads(settings.read_text(encoding="utf-8"))
    here = Path(written["base_model_name_or_path"]).expanduser()
    found = _from_above(folder, here)
    if here.exists() and (found is None or found.resolve() != here.resolve()):
        written["base_model_name_or_path"] = str(here.resolve())
        settings.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def adapter_chain(path: str) -> list[str]:
    """List a folder of adapters, the folder of their base model, and so on; the full model is last.

    Of a judge's folder without weights it is the chain of the model that it names.

    Raises:
        ValueError: when the chain is a circle.
    """
    path = linked_model(path) or path
    chain, seen = [path], {Path(path).expanduser().resolve()}
    while (base := base_of(chain[-1])) is not None:
        chain.append(base)
        if (place := Path(base).expanduser().resolve()) in seen:
            raise ValueError(
                f"the adapters in {path} have no base model: their files point in a circle, {' -> '.join(chain)}. "
                f"Correct base_model_name_or_path in {Path(chain[-2]) / ADAPTERS}"
            )
        seen.add(place)
    return chain
