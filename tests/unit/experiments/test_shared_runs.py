"""Runs that one study takes from another."""

from benchmarks.online_inputs import read_rows
from experiments import ablations, judges, policies, small


def test_a_run_of_the_policy_study_keeps_the_name_of_the_ablation(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(policies, "RESULTS", tmp_path / "policies.jsonl")
    monkeypatch.setattr(policies, "run", lambda variant, seed: {"judge": 0, "of": variant})
    wanted = [("group baseline | judge 0", 1)]
    for _ in range(2):  # the second time nothing is missing
        lines = ablations.missing_runs(tmp_path / "ablations.jsonl", wanted, ablations.run)
        expected = {"variant": "group baseline | judge 0", "seed": 1, "judge": 0, "of": "GRPO, win rates | judge 0"}
        assert lines == [expected]


def test_each_job_of_the_small_studies_is_one_of_the_full_ones(tmp_path, monkeypatch) -> None:
    made: list[tuple[str, int]] = []
    for name in ("JUDGE_LINES", "POLICY_LINES"):
        monkeypatch.setattr(small, name, tmp_path / f"{name}.jsonl")
    monkeypatch.setattr(policies, "reward_model", lambda name, number: made.append((name, number)))
    monkeypatch.setattr(
        policies, "run", lambda variant, seed: {"arm": policies.ARMS[variant.partition(" | ")[0]].model}
    )
    monkeypatch.setattr(judges, "run", lambda name, seed, out: {"arm": judges.ARMS[name.partition(": ")[2]]})
    for job in (("judge", 1), ("pairwise PPO | judge 1", 0), ("paired: GPM", 1), ("paired: GPM", 1)):
        small.make(*job)
    assert made == [("judge", 1)]
    assert [line["variant"] for line in read_rows(small.POLICY_LINES)] == ["pairwise PPO | judge 1"]
    assert [line["variant"] for line in read_rows(small.JUDGE_LINES)] == ["paired: GPM"]  # once
    assert set(small.POLICY_ARMS) <= set(policies.ARMS)
    assert set(small.JUDGE_ARMS) <= set(judges.ARMS)
    assert {policies.ARMS[arm].model for arm in small.POLICY_ARMS} == set(small.REWARD_MODELS)
