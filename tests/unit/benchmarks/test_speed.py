"""The speed benchmarks at sizes of a test, so that they cannot rot: prl's side, floors, growth, table and page."""

import json
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import floors
import growth
import numpy as np
import ppo_inputs
import ppo_iteration
import ppo_vs_trl
import pytest
import speed
import speed_table
from speed_table import Row

import prl.rl.phase_timer as phase_timer
from runs import UNTIL, between

PHASES = ("rollout", "judge", "score", "update")


@pytest.fixture(autouse=True)
def _clock_of_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phase_timer, "perf_counter", phase_timer.perf_counter)  # which a worker replaces


@pytest.fixture(scope="module", params=["own", "adapter"])
def iteration(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("iteration")
    given = ppo_inputs.prepare(ppo_inputs.SIZES["tiny"], None, folder, 1)
    given |= {"worker": request.param, "folder": str(folder), "threads": 1}
    return {"name": request.param, **ppo_iteration.run_prl(Namespace(**given))}


def test_an_iteration_tells_phases_and_floors(iteration) -> None:
    work = ppo_inputs.SIZES["tiny"]
    assert iteration["response_tokens"] == work.rows * work.response_tokens
    assert iteration["iterations"] == 1
    assert set(iteration["floors"]) == set(PHASES) <= set(iteration["phases"])
    assert 0 < sum(iteration["phases"].values()) < iteration["seconds"]
    assert all(0 < iteration["floors"][name] < iteration["phases"][name] for name in PHASES)


def test_memory_of_an_iteration_is_that_of_its_largest_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = iter([1.0, 2.0, 1.5])  # at the start, and at the end of each iteration
    monkeypatch.setattr(ppo_iteration, "peak_gib", lambda: next(resident))
    clock = ppo_iteration.IterationClock(lambda: 0.0)
    clock.tick({"rollout": 1.0}, {"rollout": 4.0})
    clock.tick({"rollout": 1.0}, {"rollout": 3.0})
    found = clock.result()
    assert (found["peak_gib"], found["peak_above_start_gib"]) == (4.0, 3.0)


def test_figures_of_runs_become_rows(iteration) -> None:
    name = iteration["name"]
    memory = {"peak_above_start_gib": 0.5}  # measured in a process of its own; this one may need no more than it had
    run = {**iteration, **memory, "without_judge": iteration["seconds"] - iteration["phases"]["judge"]}
    theirs = {**run, "seconds": 2 * run["seconds"]}
    several, once = {"epochs": 2, "minibatches": 2}, {"epochs": 1, "minibatches": 1}
    beside = {"work": several, **ppo_vs_trl.figures_of({"trl": [theirs], name: [run]})}
    rows = speed_table.rows_of({"ppo_small": beside})
    found = {row.figure: row for row in rows}
    assert found["iteration / TRL"].found == pytest.approx(0.5)
    assert found["memory / TRL"].found == 1
    floors = sum(iteration["floors"].values())
    assert found["all phases at their floors / TRL"].found == pytest.approx(floors / theirs["seconds"])
    assert {f"{phase} / floor" for phase in PHASES} <= set(found)
    alone = speed_table.rows_of({"ppo_small": {"work": once, **ppo_vs_trl.figures_of({name: [run]})}})
    assert [row.figure for row in alone] == ["rollout / floor", "judge / floor", "score and update / floor"]
    both = [sum(run[each][phase] for phase in ("score", "update")) for each in ("phases", "floors")]
    assert alone[-1].found == pytest.approx(both[0] / both[1])


def test_contestants_with_different_tokens_are_no_comparison(iteration) -> None:
    run = {**iteration, "without_judge": 1.0}
    with pytest.raises(SystemExit, match="different numbers of tokens"):
        ppo_vs_trl.figures_of({"trl": [{**run, "response_tokens": 1}], "own": [run]})


def test_phases_of_trl_are_told_apart() -> None:
    """A trainer that takes a known time for each of its functions."""
    clock = SimpleNamespace(now=0.0)

    def takes(seconds: float, result: Any = None) -> Any:
        def work(*args: Any, **options: Any) -> Any:
            clock.now += seconds
            return result

        return work

    sampled = (SimpleNamespace(numel=lambda: 18), None)
    trainer = SimpleNamespace(batch_generation=takes(1, sampled), get_reward=takes(10), masked_whiten=takes(100))
    phases = ppo_vs_trl.PhasesOfTRL(trainer, lambda: clock.now)
    phases.reward_model = "scalar"
    phases.begin()
    trainer.batch_generation("policy", SimpleNamespace(numel=lambda: 8))
    clock.now += 1000
    trainer.get_reward("value")
    trainer.get_reward("scalar")
    trainer.masked_whiten()
    clock.now += 10000
    phases.mark("update")
    assert phases.seconds == {"rollout": 1, "score": 1000 + 10 + 100, "judge": 10, "update": 10000}
    assert phases.response_tokens == 10


def test_tokens_of_pairs(tmp_path) -> None:
    rows, model = tmp_path / "pairs.jsonl", tmp_path / "model"
    floors.write_pairs(rows, 8, 64)
    ppo_inputs.write_model(ppo_inputs.SIZES["tiny"], model)
    given = {"model": model, "rows": rows, "batch_size": 4, "max_length": 128, "threads": 1, "mib": 1}
    found = {
        stage: floors.train_pairs(Namespace(**given, worker=stage, folder=str(tmp_path))) for stage in ("dpo", "both")
    }
    for each in found.values():
        assert each["steps"] == 2
        assert each["computed_over_distinct"] > each["computed_over_real"] > 0.5
        assert 0 < each["floor"] < each["seconds"]
    texts = [json.loads(line) for line in rows.read_text().splitlines()]
    assert max(len(text["chosen"]) for text in texts) == 16  # a quarter of the longest


def test_a_slope_is_that_of_least_squares() -> None:
    sizes, values = [16.0, 32.0, 64.0, 128.0], [2.0, 3.5, 9.0, 13.0]
    assert growth.slope(sizes, values) == pytest.approx(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def test_one_size_grows() -> None:
    for size, field in growth.SIZES.items():
        before, after = vars(growth.BASE), vars(growth.grown(growth.BASE, size, 2))
        changed = {name: after[name] / before[name] for name in before if after[name] != before[name]}
        assert changed == dict.fromkeys(["hidden", "inner"] if size == "width" else [field], 4)


def test_growth_is_measured_in_a_process_of_its_own() -> None:
    point = growth.measure_point(growth.TINY, 1)
    assert set(point["phases_gib"]) == set(point["estimated_phases_gib"]) == set(PHASES)
    assert point["gib"] > 0
    both = {"sizes": [2, 4], "points": [point, point], "slopes": {"seconds": 1.0, "gib": 0.5}}
    rows = speed_table.rows_of({"growth": {"growth": {"batch": both}}})
    assert [row.found for row in rows[:2]] == [1.0, 0.5]
    assert rows[-1].target == "0.85 to 1.15"


@pytest.mark.parametrize(
    ("row", "target", "met"),
    [
        (Row("w", "f", 0.604, most=0.6), "≤ 0.6", "yes"),
        (Row("w", "f", 0.606, most=0.6), "≤ 0.6", "no"),
        (Row("w", "f", 1.4, least=1.5), "≥ 1.5", "no"),
        (Row("w", "f", 1.2, most=1.15, least=0.85), "0.85 to 1.15", "no"),
        (Row("w", "f", 7.0), "", ""),
    ],
)
def test_a_target_is_met_by_the_figure_that_is_shown(row, target, met) -> None:
    assert (row.target, row.met) == (target, met)
    assert speed_table.markdown([row])[-1] == f"| w | f | {row.found:.2f} | {target} | {met} |  |"


def test_rows_of_all_other_scripts() -> None:
    ratio = {"auto": 0.5, "random": 1.6, "both": 1.0, "trl": 1.0}
    once = {"seconds": 1.0, "of_again": 0.8, "memory_of_again": 1.1}
    results = {
        "start_up": {"seconds": 9.5, "cpu_seconds": 9.0},
        "sampling": {"results": [{"rows": 8, "prl": 2.0, "generate": 4.0, "floor": 1.0, "over_floor": 2.0,
                                  "over_generate": 0.5}]},
        "shared_update": {"load": [], "settings": {}, "4 samples, share 0.5": {
            phase: {"seconds": {"auto": 2.0, "off": 4.0}, "time": {"auto": time}, "memory": {"auto": 0.9}}
            for phase, time in (("scoring", 0.9), ("update", 0.69))
        }},
        "score_once": {"figures": {
            "own critic": {"again": once | {"of_again": 1.0}, "scored once": once},
            "adapters": {"again": once | {"of_again": 1.0}, "scored once": once | {"of_again": 9.0}, "both": once},
        }},
        "pairs": {"pairs": {"dpo": {"seconds": 1.0, "floor": 0.5, "ratio_to_floor": 2.0}},
                  "tokens": {"both": {"real": 1.05, "distinct": 1.3}}},
        "dpo": {"shares": {"0.5": {"seconds": ratio, "seconds_ratio_to_trl": ratio, "peak_gib_ratio_to_trl": ratio}}},
        "judge": {"pairs_per_s_ratio_to_trl": ratio, "peak_gib_ratio_to_trl": ratio},
    }  # fmt: skip
    rows = speed_table.rows_of(results)
    assert [row.met for row in rows if row.target] == [
        "yes",
        "no",
        "yes",
        "yes",
        *["no", "yes"],
        *["yes"] * 3,
        "no",
        *["yes"] * 2,
    ]
    told = [(row.work, row.figure, row.found) for row in rows]
    assert ("update, 4 samples, prompt share 0.5", "time / unshared", 0.69) in told
    assert [found for work, _, found in told if work.startswith("scoring and update")] == [0.8, 1.1] * 2


def options_of(**given: Any) -> Namespace:
    settings = {"model": None, "pairs": None, "trl_python": None, "trl_latest_python": None}
    return Namespace(**{**settings, "parts": speed.PARTS, "rounds": 3, "threads": 1, "tiny": False, **given})


def test_parts_that_need_trl_are_left_out_without_it() -> None:
    without = speed.commands(options_of())
    assert set(without) == set(speed.PARTS) - {"dpo", "judge"}
    tiny = speed.commands(options_of(tiny=True))
    assert set(tiny) == set(without) - {"ppo_smollm2"}
    assert all("--tiny" in tiny[name] for name in ("sampling", "shared_update", "score_once", "growth"))
    for name, command in without.items():
        contestants = command[command.index("--contestants") :] if name.startswith("ppo") else ["--contestants", "own"]
        assert "own" in contestants, name
        assert "trl" not in contestants, name
    whole = speed.commands(options_of(trl_python="python", model="m", pairs="p"))
    assert set(whole) == set(speed.PARTS)
    assert all((Path(speed.__file__).parent / command[0]).is_file() for command in whole.values())


def test_the_table_stands_between_the_marks_of_the_page(tmp_path, monkeypatch, capsys) -> None:
    page = speed.PAGE.read_text(encoding="utf-8")
    before, after = page.split(speed.BEGIN)[0], page.split(UNTIL)[1]
    out = tmp_path / "page.md"
    (tmp_path / "judge.json").write_text(json.dumps({
        "load": [[1.0, 1.0, 1.0], [3.0, 1.0, 1.0]], "runs": {"trl": [{"version": "1.9.2"}]},
        "pairs_per_s_ratio_to_trl": {"random": 1.6, "both": 1.0}, "peak_gib_ratio_to_trl": {"random": 0.5, "both": 0.5},
    }))  # fmt: skip
    monkeypatch.setattr("sys.argv", ["speed.py", "--table-only", "--out", str(tmp_path), "--page", str(out)])
    speed.main()
    written = out.read_text(encoding="utf-8")
    assert written.startswith(before)
    assert written.endswith(after)
    assert "load average 1.0 to 3.0" in written
    assert "TRL 1.9.2" in written
    assert capsys.readouterr().out.strip() in written
    assert between(written, speed.BEGIN, []).count(UNTIL) == 1
    with pytest.raises(ValueError, match="one line"):
        between("no marks", speed.BEGIN, [])
