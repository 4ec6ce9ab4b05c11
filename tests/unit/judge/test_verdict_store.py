"""Verdicts kept by content: which margins are found again, what a stop leaves, and the preference set they make."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from prl.cli.entry import main
from prl.data import DataSource, PreferencePair, load_records
from prl.judge import AdaptiveOrder, ComparisonEncoder, EndpointJudge, GenerativeJudge, JudgeTemplate, StoredJudge
from prl.judge.base import Comparison
from prl.judge.files import save_judge
from prl.judge.store import VerdictStore, judge_id, read_shard, shards_in
from prl.judge.stored import about_judge
from tests.helpers.tiny import LengthJudge, PlantedJudge, tiny_model, tiny_tokenizer

TEMPLATE = JudgeTemplate("{{ prompt }}\nA:{{ response_a }}\nB:{{ response_b }}\n>", chat=False)


class BatchJudge(PlantedJudge):
    """Longer is better; a margin depends on its batch, as by rounding, only more."""

    def __init__(self, name: str = "one") -> None:
        super().__init__()
        self.name = name
        self.num_read: list[int] = []

    def describe(self) -> dict[str, Any]:
        return {"kind": "planted", "name": self.name}

    def margins(self, comparisons: list[Comparison]) -> torch.Tensor:
        self.num_read.append(len(comparisons))
        lengths = [len(first) - len(second) + 0.3 for _, first, second in comparisons]
        return torch.tensor(lengths) + torch.tensor(lengths).sum() / 1e3 + len(comparisons) / 7


def asked(numbers: range) -> tuple[list[Any], list[str], list[str]]:
    prompts = [({"role": "user", "content": f"p {n % 5}"},) for n in numbers]
    return (
        prompts,
        ["é\u2028\ud800"[: n % 3] + "x" * (n % 4 + 1) for n in numbers],
        ["y" * (n % 6 + 1) for n in numbers],
    )


def stored(folder: Path, judge: Any = None) -> StoredJudge:
    found = StoredJudge(judge or BatchJudge(), str(folder))
    found.load()
    return found


def test_what_was_read_once_is_found_to_the_bit(tmp_path: Path) -> None:
    first = stored(tmp_path)
    before = first.compare(*asked(range(20)))
    again = stored(tmp_path)
    prompts, a, b = (list(reversed(each)) for each in asked(range(20)))  # in another layout, and as b against a
    found = again.compare(prompts, b, a)
    assert torch.equal(found.margin_ba.flip(0), before.margin_ab)
    assert torch.equal(found.margin_ab.flip(0), before.margin_ba)
    assert again.judge.num_read == []
    assert (first.store.hit_rate, again.store.hit_rate) == (0.0, 1.0)
    assert again.numbers() == {"perf/verdict_store_hit_rate": 1.0}
    more = stored(tmp_path)
    more.compare(*asked(range(10, 30)))
    assert 0 < more.store.hit_rate < 1
    assert sum(more.judge.num_read) + more.store.lookups.found == more.store.lookups.asked


@pytest.mark.parametrize("stop", ["between", "within"])
def test_a_resumed_run_reads_what_the_run_read(stop: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A stop after a checkpoint, with batches that are replayed, beside another run that fills the same folder."""
    stages = [range(8), range(4, 20), range(15, 40), range(30, 50)]
    stored(tmp_path / "whole", BatchJudge()).compare(*asked(range(6)))
    stored(tmp_path / "cut", BatchJudge()).compare(*asked(range(6)))
    whole = stored(tmp_path / "whole")
    expected = [whole.compare(*asked(each)) for each in stages]
    run = stored(tmp_path / "cut")
    run.compare(*asked(stages[0]))
    stored(tmp_path / "cut").compare(*asked(range(35, 45)))  # another run, after this one began
    checkpoint = json.loads(json.dumps(run.store.state_dict()))
    run.compare(*asked(stages[1]))
    (own,) = (path for path in shards_in(tmp_path / "cut") if checkpoint["run"] in path.name)
    run.compare(*asked(stages[2]))
    if stop == "within":  # the last batch was half written when the process was killed
        content = own.read_bytes()
        own.write_bytes(content[: content.rindex(b"\n", 0, -1) + 200])
    stored(tmp_path / "cut").compare(*asked(range(60)))  # another run, in other batches
    resumed = stored(tmp_path / "cut")
    with caplog.at_level(logging.WARNING):
        resumed.store.load_state_dict(checkpoint)
    assert ("the last line was cut" in caplog.text) == (stop == "within")
    for rows, verdict in zip(stages[1:], expected[1:], strict=True):
        found = resumed.compare(*asked(rows))
        assert torch.equal(found.margin_ab, verdict.margin_ab)
        assert torch.equal(found.margin_ba, verdict.margin_ba)
    replayed = 1 if stop == "within" else 2
    assert len(resumed.judge.num_read) == 3 - replayed  # batches that had been lost or were never read
    assert len([path for path in shards_in(tmp_path / "cut") if checkpoint["run"] in path.name]) == 2


def test_all_processes_read_the_shards_that_the_first_one_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(tmp_path).compare(*asked(range(6)))
    seen = {path.name: path.stat().st_size for path in shards_in(tmp_path)}
    stored(tmp_path).compare(*asked(range(6, 12)))  # another run, between the first process and this one
    monkeypatch.setattr("prl.judge.store.gathered", lambda own: [("0" * 12, seen), own])
    second = VerdictStore(tmp_path)
    second.open()
    assert second.state_dict() == {"run": "0" * 12, "seen": seen}
    assert len(second) == 12


def test_shards_that_are_gone_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored(tmp_path).compare(*asked(range(6)))
    run = stored(tmp_path)
    state = run.store.state_dict()
    (path,) = shards_in(tmp_path)
    path.unlink()
    with caplog.at_level(logging.WARNING):
        run.store.load_state_dict(state)
    assert f"{path}, which this run has read, is gone" in caplog.text


def test_a_line_that_was_changed_is_refused(tmp_path: Path) -> None:
    stored(tmp_path).compare(*asked(range(6)))
    (path,) = shards_in(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"readings": [[', b'"readings": [['[:-1], 1))
    with pytest.raises(ValueError, match=rf"{path.name}, line 2 is no batch of verdicts .* move this file away"):
        stored(tmp_path)
    with pytest.raises(ValueError, match="is a file; expected a folder"):
        stored(path)


def test_each_judge_has_its_own_verdicts(tmp_path: Path) -> None:
    stored(tmp_path, BatchJudge("one")).compare(*asked(range(6)))
    other = stored(tmp_path, BatchJudge("two"))
    other.compare(*asked(range(6)))
    assert other.store.hit_rate == 0


def test_all_that_decides_a_margin_is_in_the_name_of_a_judge(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    found = []
    for number, (seed, length, temperature, dtype) in enumerate(
        [
            (1, 64, 1.0, "float32"),
            (2, 64, 1.0, "float32"),
            (1, 65, 1.0, "float32"),
            (1, 64, 2.0, "float32"),
            (1, 64, 1.0, "bfloat16"),
        ]
    ):
        folder = tmp_path / str(number)
        save_judge(
            folder,
            tiny_model(seed),
            tokenizer,
            ComparisonEncoder(tokenizer, TEMPLATE, length),
            temperature=temperature,
        )
        found.append(judge_id(about_judge(GenerativeJudge(str(folder), dtype=dtype))))
    assert len(set(found)) == 5
    same = about_judge(GenerativeJudge(str(tmp_path / "0"), max_batch_tokens=64, fused="off"))
    assert judge_id(same) == found[0]  # these change a margin by rounding alone
    file = tmp_path / "1" / "prl_judge.json"
    judge, before = GenerativeJudge(str(tmp_path / "1")), found[1]
    file.write_text(json.dumps({**json.loads(file.read_text()), "a_setting_to_come": 0.5}))
    assert judge_id(about_judge(judge)) != before
    server = EndpointJudge("http://127.0.0.1:1/v1", "a model", TEMPLATE)
    assert judge_id(about_judge(server)) != judge_id(about_judge(EndpointJudge("http://127.0.0.1:1/v1", "b", TEMPLATE)))
    with pytest.raises(ValueError, match="LengthJudge does not say what decides its margins, .*describe"):
        about_judge(LengthJudge())


def test_failed_judgements_are_asked_again(tmp_path: Path) -> None:
    class Failing(BatchJudge):
        def margins(self, comparisons: list[Comparison]) -> torch.Tensor:
            return super().margins(comparisons).fill_(torch.nan)

    verdict = stored(tmp_path, Failing()).compare(*asked(range(4)))
    assert not verdict.judged.any()
    assert shards_in(tmp_path) == []
    again = stored(tmp_path)
    assert again.compare(*asked(range(4))).judged.all()
    assert again.store.hit_rate == 0


def test_the_second_order_is_kept_where_it_was_read(tmp_path: Path) -> None:
    found = AdaptiveOrder(stored(tmp_path), threshold=1.0).compare(*asked(range(30)))
    again = AdaptiveOrder(stored(tmp_path), threshold=1.0)
    assert torch.equal(again.compare(*asked(range(30))).win_logit, found.win_logit)
    assert again.judge.store.hit_rate == 1.0
    assert len(again.judge.store) < 60


def test_no_description_stands_in_for_another(tmp_path: Path) -> None:
    run = stored(tmp_path)
    run.compare(*asked(range(6)))
    run.compare(*asked(range(6, 12)))
    (path,) = shards_in(tmp_path)
    lines = list(read_shard(path))
    assert [line.about for line in lines] == [{"kind": "planted", "name": "one"}, None, None]
    assert len(VerdictStore(tmp_path)) == 0  # nothing is read before it is needed


# ---- prl verdicts


def test_verdicts_make_a_preference_set(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    prompts, a, b = asked(range(24))
    a = [text.replace("\ud800", "") for text in a]
    folder, file = tmp_path / "verdicts", tmp_path / "pairs.jsonl"
    both = stored(folder).compare(prompts, a, b)
    alone = [f"one order {n}" for n in range(8)]
    AdaptiveOrder(stored(folder), 0.0).compare(prompts[:8], alone, ["alone"] * 8)
    main(["verdicts", str(folder), "--export", str(file)])
    assert "left out: 8 pairs that were read in one order alone" in capsys.readouterr().out
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    pairs = load_records(DataSource(str(file)), PreferencePair).records
    assert len(pairs) == len(rows) == len({(str(p), *sorted((u, v))) for p, u, v in zip(prompts, a, b, strict=True)})
    expected = {(p[0]["content"], u, v): float(x) for p, u, v, x in zip(prompts, a, b, both.win_prob, strict=True)}
    for pair, row in zip(pairs, rows, strict=True):
        assert row["source"].startswith("planted-")
        assert pair.preference >= 0.5
        key = pair.prompt[0]["content"], pair.chosen, pair.rejected
        swapped = key[0], key[2], key[1]
        other = 1 - torch.tensor(expected.get(swapped, 0.0))  # in float32, as verdicts are
        assert pair.preference == expected.get(key, float(other))
    main(["data", str(file)])
    told = capsys.readouterr().out
    assert f"{len(rows)} read, {len(rows)} kept" in told
    assert "duplicates      0, contradictions 0" in told


def test_a_folder_with_two_judges_asks_which(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, file = tmp_path / "verdicts", tmp_path / "pairs.jsonl"
    for name in ("one", "two"):
        stored(folder, BatchJudge(name)).compare(*asked(range(5)))
    main(["verdicts", str(folder)])
    told = capsys.readouterr().out
    ids = [judge_id({"kind": "planted", "name": name}) for name in ("one", "two")]
    assert all(f"judge {each}: 10 readings, 5 pairs in both orders, 0 in one" in told for each in ids)
    with pytest.raises(SystemExit):
        main(["verdicts", str(folder), "--export", str(file)])
    assert f"choose with --judge_id one of {', '.join(sorted(ids))}" in capsys.readouterr().err
    main(["verdicts", str(folder), "--export", str(file), "--judge_id", ids[1]])
    assert ids[1] in file.read_text()
    assert ids[0] not in file.read_text()


def test_mistakes_on_the_command_line_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "notes.jsonl").write_text("{}\n")
    stored(tmp_path / "verdicts").compare(*asked(range(3)))
    for args, told in (
        ([str(tmp_path / "nowhere")], "is no folder"),
        ([str(tmp_path)], "holds no verdicts"),
        ([str(tmp_path / "verdicts"), "--judge_id", "x"], "--judge_id goes with --export"),
        ([str(tmp_path / "verdicts"), "--export", "x.txt"], "ends in .jsonl"),
        ([str(tmp_path / "verdicts"), "--export", str(tmp_path / "notes.jsonl")], "no earlier result"),
    ):
        with pytest.raises(SystemExit):
            main(["verdicts", *args])
        assert told in capsys.readouterr().err
