"""Players of `prl arena` from the command line: files of responses, policies, checkpoints, and all those of a run."""

import json
import re
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prl.arena.responses import (
    Responses,
    hash_of,
    read_responses,
    responses_in,
    sample_responses,
    write_responses,
)
from prl.cli.commands.frontier import kept_checkpoints
from prl.cli.commands.judge import read_lines
from prl.config import ModelSource, Sampling
from prl.data import AnchoredPrompt
from prl.models.location import ADAPTERS, ModelNotFoundError, is_hub_id
from prl.rollouts.prompts import encode_prompts
from prl.run_folder.inputs import file_hash, inputs_before_download

RESPONSES = "responses"
"""Folder of the sampled responses in that of the arena."""
_NAME = re.compile(r"[\w.@+-]+")


class Player(NamedTuple):
    """A player before its responses are known."""

    path: str
    about: dict[str, Any]
    """All that decides the responses."""
    responses: Responses | None
    """Those of a file; None for a player that has to answer."""


def players_of(options: Namespace, records: Sequence[AnchoredPrompt]) -> dict[str, Player]:
    """Find the players that the command line names; nothing is sampled yet.

    Raises:
        ValueError: naming the player.
    """
    found: dict[str, Player] = {}
    for given in options.players:
        name, _, path = given.partition("=")
        if not path or not _NAME.fullmatch(name):
            raise ValueError(f"--players {given}: expected NAME=PATH, with letters, digits and ._@+- in the name")
        for own, player in _named(name, path, options, records).items():
            if own in found:
                raise ValueError(f"--players names {own} twice; choose another name for one of them")
            found[own] = player
    if len(found) < 2:
        raise ValueError(f"--players names {len(found)} player; an arena needs at least two")
    return found


def _named(name: str, path: str, options: Namespace, records: Sequence[AnchoredPrompt]) -> dict[str, Player]:
    place = Path(path).expanduser()
    if place.suffix in (".jsonl", ".txt", ".ckpt", ".gguf") and not place.exists():
        raise ValueError(f"--players {name}={path}: there is no such file")
    if place.is_file() and place.suffix in (".jsonl", ".txt"):
        own = responses_in(_rows(place), records, path)
        if bad := [model for model in own if model and not _NAME.fullmatch(model)]:
            raise ValueError(f"{path}: the model is called {bad[0]!r}; expected letters, digits and ._@+- alone")
        names = {model: f"{name}.{model}" if len(own) > 1 else name for model in own}
        return {
            names[model]: Player(path, {"kind": "responses", "texts": hash_of(each.texts)}, each)
            for model, each in own.items()
        }
    if (place / "checkpoints").is_dir():
        kept = kept_checkpoints(place)
        if not kept:
            raise ValueError(f"--players {name}={path}: the run keeps no valid checkpoint; give a run that does")
        return {f"{name}@{batch}": _sampled(str(kept[batch]), options) for batch in sorted(kept)}
    is_model = any((place / each).is_file() for each in ("config.json", ADAPTERS))
    if not (is_model or place.suffix in (".ckpt", ".gguf") or (not place.exists() and is_hub_id(path))):
        raise ValueError(
            f"--players {name}={path}: expected a .jsonl or .txt file of responses, the folder or hub id of a policy "
            "or of adapters, a .gguf or .ckpt file, or the folder of a run"
        )
    try:
        return {name: _sampled(path, options)}
    except ModelNotFoundError as error:
        raise ValueError(f"--players {name}={path}: {error}") from None


def _sampled(path: str, options: Namespace) -> Player:
    is_checkpoint, place = path.endswith(".ckpt"), Path(path)
    if is_checkpoint:
        files = [place] if place.is_file() else sorted(each for each in place.rglob("*") if each.is_file())
        inputs: dict[str, Any] = {str(file.relative_to(place.parent)): file_hash(file) for file in files}
    else:
        inputs = inputs_before_download("policy", ModelSource(path=path))
    names = ("max_new_tokens", "temperature", "max_prompt_length", "seed", "dtype", "sample_batch", "keep_thoughts")
    settings = {each: getattr(options, each) for each in (*names, "chat_template_kwargs")}
    return Player(path, {"kind": "checkpoint" if is_checkpoint else "policy", "inputs": inputs, **settings}, None)


def _rows(path: Path) -> list[Any]:
    """Read the lines of a file of responses, with the further columns of a .jsonl file."""
    texts = read_lines(path, "response")  # refuses what cannot be read, with the line
    if path.suffix != ".jsonl":
        return texts
    lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    return [json.loads(line) for line in lines]


def check_prompts(players: dict[str, Player], options: Namespace, records: Sequence[AnchoredPrompt]) -> None:
    """Refuse prompts that a policy cannot read, before anything is sampled; those of checkpoints are checked later.

    Raises:
        ValueError: naming the player and the prompt.
    """
    for name, player in players.items():
        if player.about["kind"] != "policy" or responses_file(options.out, name).exists():
            continue
        source, sampling = _settings(player.path, options)
        try:
            encode_prompts(source, sampling, records, name=options.prompts, max_prompt_length=options.max_prompt_length)
        except ValueError as error:
            raise ValueError(f"--players {name}: {error}") from None


def responses_file(out: Path, name: str) -> Path:
    """Return where the sampled responses of a player are kept."""
    return out / RESPONSES / f"{name}.jsonl"


def _settings(path: str, options: Namespace) -> tuple[ModelSource, Sampling]:
    source = ModelSource(path=path, dtype=options.dtype, chat_template_kwargs=options.chat_template_kwargs)
    return source, Sampling(options.max_new_tokens, options.temperature)


def answers(players: dict[str, Player], options: Namespace, records: Sequence[AnchoredPrompt]) -> dict[str, Responses]:
    """Return the responses of all players; sampled ones are kept in the folder, and read there the next time."""
    found = {}
    for name, player in players.items():
        file = responses_file(options.out, name)
        responses = player.responses or read_responses(file)
        if responses is None:
            responses = _answer(name, player, options, records)
            write_responses(file, records, responses)
        found[name] = responses
    return found


def _answer(name: str, player: Player, options: Namespace, records: Sequence[AnchoredPrompt]) -> Responses:
    settings = {each: getattr(options, each) for each in ("max_prompt_length", "seed", "keep_thoughts")}

    def sample(folder: str) -> Responses:
        source, sampling = _settings(folder, options)
        return sample_responses(
            name, source, sampling, records, batch=options.sample_batch, prompts=options.prompts, **settings
        )

    if player.about["kind"] == "policy":
        return sample(player.path)
    from prl.cli.commands.export import export

    with tempfile.TemporaryDirectory(prefix=".prl.", dir=options.out) as folder:
        export(Path(player.path), Path(folder) / "model", trusted=options.trusted)
        return sample(str(Path(folder) / "model"))
