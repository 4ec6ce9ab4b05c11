"""`prl anchors`: a file of anchors that pairwise PPO reads, with where each comes from."""

import json
import re
from pathlib import Path

import pytest

from prl.anchors.writing import Sampler
from prl.cli.entry import main
from prl.judge import Judge
from tests.integration.runs import Home


def command(home: Home, output: Path, *more: str, samples: int = 4) -> list[str]:
    return [
        *("anchors", "--policy", str(home.policy), "--prompts", str(home.data("prompts.train"))),
        *("--output", str(output), "--samples", str(samples), "--max_new_tokens", "5", "--limit", "10"),
        *("--judge", str(home.judge), *more),
    ]


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_best_of_n_feeds_a_run_and_says_where_it_comes_from(home: Home, tmp_path: Path, capsys) -> None:
    output = tmp_path / "new" / "anchors.jsonl"
    main(command(home, output))
    assert "wrote 10 prompts with anchors" in capsys.readouterr().out
    made = rows(output)
    provenance = json.loads(output.with_suffix(".provenance.json").read_text())
    prompts, left_out = rows(home.data("prompts.train"))[:10], provenance["left_out_prompts"]
    kept = [row["prompt"] for number, row in enumerate(prompts, 1) if number not in left_out]
    assert [row["prompt"][0]["content"] for row in made] == kept
    assert (provenance["method"], provenance["samples"], provenance["seed"]) == ("best_of_n", 4, 0)
    assert {row["anchor_id"] for row in made} == {provenance["anchor_id"]}
    assert len(provenance["policy"]["weights_sha256"]) == len(provenance["judge"]["weights_sha256"]) == 64
    assert 0 < provenance["num_comparisons"] <= 30
    assert not list(output.parent.glob("*.partial"))
    home.run("pairwise_ppo", tmp_path / "run", "--data.init_args.train.path", str(output))


def test_a_prompt_with_empty_samples_only_is_left_out_by_number(
    home: Home, tmp_path: Path, capsys, monkeypatch
) -> None:
    sampled = Sampler.candidates

    def silent_on_the_third(self: Sampler, start: int, number: int, keep: bool) -> tuple[list[list[str]], int]:
        found, unfinished = sampled(self, start, number, keep)
        return [[] if start + i == 2 else texts for i, texts in enumerate(found)], unfinished

    monkeypatch.setattr(Sampler, "candidates", silent_on_the_third)
    main(command(home, tmp_path / "x.jsonl"))
    assert "all samples were empty: prompt 3" in capsys.readouterr().out
    assert len(rows(tmp_path / "x.jsonl")) == 9
    assert json.loads((tmp_path / "x.provenance.json").read_text())["left_out_prompts"] == [3]


def test_the_same_seed_gives_the_same_file_and_another_one_another(home: Home, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        main(command(home, tmp_path / f"{name}.jsonl", "--seed", seed))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert rows(tmp_path / "a.jsonl") != rows(tmp_path / "c.jsonl")


def test_the_judge_prefers_the_best_of_many_to_the_only_one(home: Home, tmp_path: Path) -> None:
    main(command(home, tmp_path / "best.jsonl", samples=8))
    main(command(home, tmp_path / "one.jsonl", samples=1))
    best, one = rows(tmp_path / "best.jsonl"), rows(tmp_path / "one.jsonl")
    both = {row["prompt"][0]["content"] for row in best} & {row["prompt"][0]["content"] for row in one}
    best, one = ([row for row in some if row["prompt"][0]["content"] in both] for some in (best, one))
    verdict = Judge.from_pretrained(home.judge).compare(
        [row["prompt"] for row in best], [row["anchor"] for row in best], [row["anchor"] for row in one]
    )
    assert verdict.win_prob.mean() > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--max_prompt_length", "2"], "prompt 1 of .*max_prompt_length is 2"),
        (["--policy", "nowhere/at/all"], "nowhere/at/all does not exist"),
        (["--temperature", "0"], "sampling.temperature is 0"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(change, message, home: Home, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command(home, tmp_path / "x.jsonl"), *change])
    assert stopped.value.code == 1
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_columns_are_mapped_and_asked_for_as_options(home: Home, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine.jsonl").write_text('{"question": "copy ab"}\n')
    args = ["--prompts", str(tmp_path / "mine.jsonl"), "--keep_unfinished"]
    with pytest.raises(SystemExit):
        main([*command(home, tmp_path / "x.jsonl"), *args])
    assert "map it: --columns prompt=question." in capsys.readouterr().err
    main([*command(home, tmp_path / "x.jsonl"), *args, "--columns", "prompt=question"])
    assert json.loads((tmp_path / "x.provenance.json").read_text())["prompts"]["columns"] == {"prompt": "question"}


def test_an_existing_file_is_not_overwritten(home: Home, tmp_path: Path, capsys) -> None:
    (tmp_path / "x.jsonl").write_text("mine")
    with pytest.raises(SystemExit):
        main(command(home, tmp_path / "x.jsonl"))
    assert "exists; choose another name" in capsys.readouterr().err
