"""Runs that one study takes from another."""

from experiments import ablations, policies


def test_a_run_of_the_policy_study_keeps_the_name_of_the_ablation(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(policies, "RESULTS", tmp_path / "policies.jsonl")
    monkeypatch.setattr(policies, "run", lambda variant, seed: {"judge": 0, "of": variant})
    wanted = [("group baseline | judge 0", 1)]
    for _ in range(2):  # the second time nothing is missing
        lines = ablations.missing_runs(tmp_path / "ablations.jsonl", wanted, ablations.run)
        expected = {"variant": "group baseline | judge 0", "seed": 1, "judge": 0, "of": "GRPO, win rates | judge 0"}
        assert lines == [expected]
