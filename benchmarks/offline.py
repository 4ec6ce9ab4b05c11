"""Every preference objective on the quickstart's world: several seeds of each, measured against the truth.

Takes a finished quickstart at runs/quickstart. All runs start from its supervised policy and
learn from its labelled pairs, in as many steps of as many pairs. Columns that some objectives read are added to the
pairs: the right answer as `gold` (TriplePO), a reward for short responses as the other objective of MODPO, and
corrupted responses (SPO). These have letters removed where `prl corrupt` removes keywords, for a response is one word.
The guide of TGDPO is the DPO run of the same seed. BRAIn, TreePO and OREO learn from lists: samples of the supervised
policy with rewards of a Bradley-Terry model (`configs/quickstart/bradley_terry.yaml`), made by `prl pairs --lists`.
Beside them stands supervised learning of the chosen responses. Betas of objectives whose usual values are made for
long responses are set here, as the table of METHODS says. A run that is in the results file already is not repeated.
"""

import json
from pathlib import Path
from random import Random
from typing import Any

from methods import COLUMNS, MODEL, Method, measure, train
from runs import missing_runs, run_options, table

QUICKSTART = Path("runs/quickstart")
OBJECTIVE = f"{MODEL}objective.init_args."
METHODS = {
    "supervised, chosen": Method("supervised"),
    "DPO": Method("preference", "dpo"),
    "SimPO": Method("preference", "simpo"),
    "f-DPO, forward KL": Method(
        "preference", "f_dpo", (f"{OBJECTIVE}divergence", "forward_kl", f"{OBJECTIVE}alpha", "null")
    ),
    "f-DPO, JS": Method("preference", "f_dpo", (f"{OBJECTIVE}divergence", "js", f"{OBJECTIVE}alpha", "null")),
    "f-DPO, alpha 0.5": Method("preference", "f_dpo"),
    "RPO, average": Method(
        "preference", "rpo", (f"{OBJECTIVE}beta", "0.5", f"{OBJECTIVE}eta", "0.2", f"{OBJECTIVE}sft_term", "average")
    ),
    "LD-DPO": Method("preference", "ld_dpo"),
    "Flex-DPO": Method("preference", "flex_dpo"),
    "SFT-DPO": Method("preference", "sft_dpo"),
    "SLiC": Method("preference", "slic"),
    "SPPO, labels": Method("preference", "sppo", (f"{OBJECTIVE}beta", "0.1", f"{OBJECTIVE}win_rates", "label")),
    "DNO, labels": Method("preference", "dno", (f"{OBJECTIVE}win_rates", "label")),
    "VPO": Method("preference", "vpo"),
    "Triple PO": Method("preference", "triple_po"),
    "MODPO, short": Method("preference", "modpo"),
    "TGDPO": Method("preference", "tgdpo"),
    "SRPO": Method("preference", "srpo", (f"{MODEL}max_length", "128")),
    "SPO": Method("preference", "spo", (f"{OBJECTIVE}levels", "3")),
    "BRAIn, lists": Method("preference", "brain"),
    "Tree PO, lists": Method("preference", "tree_po"),
    "OREO, lists": Method("preference", "oreo", (f"{OBJECTIVE}beta", "1.0", f"{MODEL}critic.learning_rate", "1.0e-3")),
}
"""Objective -> overlay, and settings where the overlay's are made for responses of hundreds of tokens."""


def shortened(response: str, draw: Random) -> tuple[str, int]:
    """Remove 0, 1 or 2 letters from a response, which are its levels; one letter stays."""
    level = draw.randrange(min(3, len(response)))
    removed = set(draw.sample(range(len(response)), level))
    return "".join(letter for at, letter in enumerate(response) if at not in removed), level


def prepare(quickstart: Path, folder: Path) -> None:
    """Write the pairs with the columns that some objectives read, and the chosen responses as demonstrations."""
    from prl.quickstart.world import right_answer

    for split in ("train", "validation"):
        pairs = [json.loads(line) for line in (quickstart / "world" / f"pairs.{split}.jsonl").open(encoding="utf-8")]
        chosen = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
        draw = Random(split)
        for row in pairs:
            row["gold"] = right_answer(row["prompt"])
            for side in ("chosen", "rejected"):
                row[f"{side}_margin_reward"] = -0.1 * len(row[side])
                row[f"corrupted_{side}"], row[f"level_{side}"] = shortened(row[side], draw)
        for name, rows in (("pairs", pairs), ("demonstrations", chosen)):
            path = folder / f"{name}.{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def prepare_lists(quickstart: Path, folder: Path) -> None:
    """Sample the supervised policy and score its samples; validation keeps the labelled pairs, as lists of two."""
    from prl.cli.commands.pairs import main as pairs

    lists, scalar = folder / "lists.train.jsonl", {"path": str(quickstart / "bradley_terry" / "model")}
    if not lists.exists():
        pairs(
            [
                *("--policy", str(quickstart / "supervised" / "model"), "--lists", "--samples", "8"),
                *("--prompts", str(quickstart / "world" / "prompts.train.jsonl"), "--output", str(lists)),
                *("--reward", json.dumps({"class_path": "ScalarReward", "init_args": scalar})),
                *("--max_new_tokens", "12", "--batch_size", "320"),
            ]
        )
    labelled = [json.loads(line) for line in (folder / "pairs.validation.jsonl").open(encoding="utf-8")]
    for row in labelled:
        row["responses"], row["rewards"] = [row["chosen"], row["rejected"]], [1.0, 0.0]
    text = "".join(json.dumps(row) + "\n" for row in labelled)
    (folder / "lists.validation.jsonl").write_text(text, encoding="utf-8")


def settings(name: str, seed: int, quickstart: Path, data: Path, out: Path) -> list[str]:
    """Return the settings of a run that its overlay does not have: where data and models are."""
    method = METHODS[name]
    rows = "demonstrations" if method.config == "supervised" else "lists" if name.endswith("lists") else "pairs"
    found = [
        each
        for side in ("train", "validation")
        for each in (f"--data.init_args.{side}.path", f"{data}/{rows}.{side}.jsonl")
    ]
    if method.config == "supervised":
        found += [f"{MODEL}model.config", "null", f"{MODEL}model.tokenizer", "null"]  # it starts from the folder
        found += [f"{MODEL}optimization.learning_rate", "2.0e-5", "--data.init_args.batch_size", "32"]
    if method.overlay == "tgdpo":
        found += [f"{MODEL}guides", json.dumps({"guide": {"path": str(folder_of("DPO", seed, out) / "model")}})]
    return found


def folder_of(name: str, seed: int, out: Path) -> Path:
    """Name the run folder of an objective and a seed."""
    return out / f"{name.replace(', ', '_').replace(' ', '_')}.{seed}"


def main() -> None:
    """Run what is missing, then print the table."""
    options = run_options(__doc__, "runs/offline", METHODS)
    data = options.out / "data"
    prepare(QUICKSTART, data)
    if any(name.endswith("lists") for name, _ in options.wanted):
        prepare_lists(QUICKSTART, data)

    def one(name: str, seed: int) -> dict[str, Any]:
        own = settings(name, seed, QUICKSTART, data, options.out)
        return train(METHODS[name], folder_of(name, seed, options.out), seed, QUICKSTART, [*own, *options.overrides])

    rows = missing_runs(options.out / "results.jsonl", options.wanted, one)
    start = measure(QUICKSTART / "supervised" / "model", QUICKSTART)
    print(table([{"variant": "the start", "seed": 0, **start}, *rows], "objective", COLUMNS))


if __name__ == "__main__":
    main()
