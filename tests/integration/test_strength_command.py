"""`prl strength`: preference rows with the votes of several judges beside them, which reward models learn from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prl.cli.entry import main
from prl.data import DataSource, PreferencePair, load_records
from prl.rewards import ScalarReward
from tests.helpers.tiny import write_tiny_reward_model
from tests.integration.runs import CONFIGS, Home, Numbers, callback, find_callback


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(write_tiny_reward_model(tmp_path_factory.mktemp("rm"), seed)) for seed in range(3)]


@pytest.fixture
def pairs(home: Home, tmp_path: Path) -> Path:
    """Pairs of the world, one of them a tie, one the other way round, one with a weight and a column."""
    given = rows(home.data("pairs.train"))
    given[0]["preference"], given[1]["preference"] = 0.5, 0.1
    given[2] |= {"weight": 2.0, "stars": 4}
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


def test_rows_have_the_mean_and_deviation_of_the_votes(
    pairs: Path, models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out.jsonl"
    main(["strength", str(pairs), "--judges", *models, "--output", str(output)])
    told, made = capsys.readouterr().out, rows(output)
    given = load_records(DataSource(str(pairs)), PreferencePair).records
    margins, rewards = [], []
    for folder in models:
        source = ScalarReward(folder)
        source.load()
        sides = [
            source.rewards([p.prompt for p in given], [getattr(p, s) for p in given]) for s in ("chosen", "rejected")
        ]
        margins.append((sides[0] - sides[1]).double())
        rewards.append(torch.cat(sides).double())
    votes = torch.stack(margins).numpy()
    assert [row["strength_mean"] for row in made] == pytest.approx(votes.mean(0).tolist(), abs=1e-5)
    assert [row["strength_std"] for row in made] == pytest.approx(votes.std(0).tolist(), abs=1e-5)
    assert [row.get("preference", 1.0) for row in made] == [pair.preference for pair in given]
    assert (made[2]["weight"], made[2]["stars"]) == (2.0, 4)
    again = load_records(DataSource(str(output)), PreferencePair).records
    assert [(p.prompt, p.chosen, p.rejected) for p in again] == [(p.prompt, p.chosen, p.rejected) for p in given]
    assert f"wrote {len(given)} pairs to {output}" in told
    assert "1 ties in the labels" in told
    assert "0 flipped\n" in told
    for folder, of_one in zip(models, rewards, strict=True):
        line = next(line for line in told.splitlines() if line.startswith(folder))
        mean, std = (float(part.split()[-1]) for part in line.partition("rewards: ")[2].split(","))
        assert (mean, std) == pytest.approx((float(of_one.mean()), float(of_one.std())), abs=1e-4)


def test_the_weakest_labels_are_flipped_or_all_of_them_soft(
    pairs: Path, models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, *more in (("plain",), ("flipped", "--flip", "0.3"), ("soft", "--soft_labels")):
        main(["strength", str(pairs), "--judges", *models, "--output", str(tmp_path / f"{name}.jsonl"), *more])
    told = capsys.readouterr().out
    plain, flipped, soft = (rows(tmp_path / f"{name}.jsonl") for name in ("plain", "flipped", "soft"))
    label = [row.get("preference", 1.0) for row in plain]
    support = [row["strength_mean"] * (1 if each > 0.5 else -1) for row, each in zip(plain, label, strict=True)]
    changed = [n for n, row in enumerate(flipped) if row.get("preference", 1.0) != label[n]]
    assert len(changed) == int(0.3 * 31)
    assert f"{len(changed)} flipped\n" in told
    others = [support[n] for n in range(len(plain)) if n not in changed and label[n] != 0.5]
    assert max(support[n] for n in changed) <= min(others)
    for n in changed:
        assert flipped[n]["preference"] == 1 - label[n]
        assert flipped[n]["strength_mean"] == plain[n]["strength_mean"]
    for row in soft:
        assert row["preference"] == pytest.approx(torch.tensor(row["strength_mean"]).sigmoid().item(), abs=1e-6)


def test_votes_of_other_judges_are_their_log_odds_and_a_model_learns(
    home: Home, models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for split in ("train", "validation"):
        output = str(tmp_path / f"{split}.jsonl")
        judges = [models[0], str(home.judge)]
        main(["strength", str(home.data(f"pairs.{split}")), "--judges", *judges, "--output", output])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(str(home.judge)))
    assert "agreement with the labels 0." in line
    assert "rewards" not in line
    from prl.cli.app import run_stage

    arguments = home.arguments("bradley_terry", tmp_path / "run", callback(Numbers))
    overlay = ("--config", str(CONFIGS / "methods" / "preference_strength.yaml"))
    data = [f"--data.init_args.{split}.path={tmp_path}/{split}.jsonl" for split in ("train", "validation")]
    cli = run_stage([*arguments[:3], *overlay, *arguments[3:], *data])
    assert len(find_callback(cli.trainer, Numbers).training) == 4


def test_mistakes_are_told_before_anything_is_written(
    pairs: Path, models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = str(tmp_path / "out.jsonl")
    command = ["strength", str(pairs), "--judges", models[0], "--output", output]
    wrong = {
        "expected a name that ends in .jsonl": [*command[:-1], str(tmp_path / "out.csv")],
        "a judge votes once": [*command, "--judges", models[0], models[0]],
        "expected a share of at least 0 and below 1": [*command, "--flip", "1.0"],
        "--flip and --soft_labels both write labels": [*command, "--flip", "0.1", "--soft_labels"],
        "choose another name": [*command[:-1], str(pairs)],
    }
    for words, arguments in wrong.items():
        with pytest.raises(SystemExit):
            main(arguments)
        assert words in capsys.readouterr().err
    main(command)
    with pytest.raises(SystemExit):
        main(["strength", output, "--judges", models[0], "--output", str(tmp_path / "again.jsonl")])
    assert "row 1 has a column 'strength_mean' already" in capsys.readouterr().err
    assert not (tmp_path / "again.jsonl").exists()
