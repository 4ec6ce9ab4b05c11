"""Prompts that some online methods need in a test, beyond those of the small world: settings of a run on them."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile

from prl.cli.entry import main
from prl.environments import rows as environment_rows
from prl.quickstart.rubric import write_rubrics
from tests.integration.runs import Home

TRAIN, VALIDATION = "--data.init_args.train.path", "--data.init_args.validation.path"


def of_three_kinds(home: Home, folder: Path) -> list[str]:
    """Write verifiable rows, rankings to score and open instructions, for a policy that is its own referee."""
    folder.mkdir(exist_ok=True)
    if not (path := folder / "rankings.jsonl").exists():
        limit = ("--limit", "12")
        main(["referee", str(home.data("pairs.train")), "--instruction", "Score.", *limit, "--output", str(path)])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, line in enumerate(home.data("prompts.train").read_text().splitlines()[:20]):
        row = json.loads(line)
        rows.append({"prompt": row["prompt"], "answer": row["anchor"]} if number % 2 else row)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [TRAIN, str(folder / "prompts.jsonl")]


def with_rubrics(home: Home, folder: Path) -> list[str]:
    """Write the prompts with their criteria."""
    folder.mkdir(exist_ok=True)
    for split in ("train", "validation"):
        copyfile(home.data(f"prompts.{split}"), folder / f"prompts.{split}.jsonl")
    train, validation = write_rubrics(folder)
    return [TRAIN, str(train), VALIDATION, str(validation)]


def played(home: Home, folder: Path) -> list[str]:
    """Write the rows that an environment is played on, and leave room for several turns."""
    environment_rows.main(["--out", str(folder), "--rows", "32"])
    paths = [TRAIN, str(folder / "train.jsonl"), VALIDATION, str(folder / "validation.jsonl")]
    return [*paths, "--model.init_args.sampling.max_new_tokens", "20"]


OWN_PROMPTS: dict[str, Callable[[Home, Path], list[str]]] = {
    "SelfReferee": of_three_kinds,
    "world/rubrics": with_rubrics,
    "prl.rollouts.Conversation": played,
}
"""What an overlay names -> what writes its prompts, and gives settings."""
