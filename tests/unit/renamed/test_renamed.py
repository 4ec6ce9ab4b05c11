"""Names of earlier versions: each is told with its new name, and a run of then goes on after `prl convert`."""

import importlib
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from prl.cli.commands import convert
from prl.renamed.check import RENAMED, RENAMED_KEYS, RenamedError, check_names
from prl.renamed.settings import RENAMED_SETTINGS, STAGES, convert_settings, old_settings
from prl.run_folder.sealed_config import CONFIG, config_fault, write_config

CHANGELOG = Path(__file__).parents[3] / "CHANGELOG.md"


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_gone_and_the_new_one_is_there(old: str, new: str) -> None:
    module, _, name = new.rpartition(".")
    assert hasattr(importlib.import_module(module), name)
    module, _, name = old.rpartition(".")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        return
    assert not hasattr(found, name)


def test_the_changelog_has_the_table() -> None:
    text = CHANGELOG.read_text(encoding="utf-8")
    assert [f"| `{old}` | `{new}` |" for old, new in RENAMED.items() if f"| `{old}` | `{new}` |" not in text] == []
    assert [old for old, new in RENAMED_KEYS.items() if f"| `{old}` | `{new}` |" not in text] == []
    assert [old for old, new in RENAMED_SETTINGS.items() if f"| `{old}` | {new} |" not in text] == []


def test_an_old_name_in_a_config_is_told_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("model:\n  judge:\n    class_path: prl.judge.RuleReward\n")
    with pytest.raises(RenamedError, match=r"mine.yaml, line 3: prl.judge.RuleReward is now prl.rewards.RuleReward;"):
        check_names(["fit", "--config", str(config)])


def test_an_old_name_on_the_command_line_is_told() -> None:
    with pytest.raises(RenamedError, match="exact_match is now prl.rewards.rule.exact_match; write that"):
        check_names(["fit", '--judge={"init_args": {"rule": "prl.judge.rule.exact_match"}}'])


def test_an_old_setting_of_a_judge_is_told_and_converted(tmp_path: Path) -> None:
    write_config(tmp_path, "reward:\n  init_args:\n    path: shared_trunk\n    shared_trunk: true\n")
    with pytest.raises(RenamedError, match="line 5: shared_trunk is now share_base_model; write that; `prl convert"):
        check_names(["fit", "--config", str(tmp_path / CONFIG)])
    with pytest.raises(RenamedError, match="shared_trunk is now share_base_model"):
        check_names(["fit", "--model.init_args.reward.init_args.shared_trunk=true"])
    convert.main([str(tmp_path)])
    assert "    path: shared_trunk\n    share_base_model: true\n" in (tmp_path / CONFIG).read_text()
    check_names(["fit", "--config", str(tmp_path / CONFIG)])


LOOKS_ALIKE = ["my.prl.judge.RuleReward", "prl.judge.RuleRewards", "prl.judge.rule.exact_match.mine"]


@pytest.mark.parametrize("name", LOOKS_ALIKE)
def test_a_name_that_only_looks_like_an_old_one_is_not(name: str) -> None:
    check_names([name])


def test_the_config_of_a_run_is_converted_and_sealed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path, "a: prl.judge.ScalarReward\nb: prl.judge.GenerativeJudge\n")
    with pytest.raises(RenamedError, match=f"`prl convert {tmp_path}` writes the new names"):
        check_names(["fit", "--config", str(tmp_path / CONFIG)])
    convert.main([str(tmp_path)])
    assert "prl.judge.ScalarReward is now prl.rewards.ScalarReward" in capsys.readouterr().out
    assert "a: prl.rewards.ScalarReward\nb: prl.judge.GenerativeJudge\n" in (tmp_path / CONFIG).read_text()
    assert config_fault(tmp_path) is None
    check_names(["fit", "--config", str(tmp_path / CONFIG)])
    convert.main([str(tmp_path)])
    assert "has no old names" in capsys.readouterr().out


def test_a_config_that_was_cut_is_not_converted(tmp_path: Path) -> None:
    write_config(tmp_path, "a: prl.judge.ScalarReward\n")
    text = (tmp_path / CONFIG).read_text()
    (tmp_path / CONFIG).write_text(text[:-20])
    with pytest.raises(RenamedError, match="has changed since the run wrote it"):
        convert.main([str(tmp_path)])


# The settings of pairwise PPO as a run of an earlier version wrote them, turned away from their defaults.
OLD: dict[str, Any] = {
    "policy": {"path": "p"},
    "judge": {"class_path": "prl.judge.GenerativeJudge", "init_args": {"path": "j"}},
    "iterations": 7,
    "sampling": {"max_new_tokens": 9, "temperature": 0.5, "per_prompt": 2, "top_k": 0, "num_beams": 1},
    "reward": {
        **{"mapping": "log_odds", "max_log_odds": 3.0, "missing_eos": "replace", "missing_eos_value": -1.0},
        **{"judge_thoughts": True, "overlong_penalty": 0.5, "overlong_buffer": 4},
        **{"kl_coef": 0.1, "kl_estimator": "k2", "kl_placement": "loss", "kl_target": 2.0, "kl_horizon": 99},
    },
    "ppo": {
        **{"epochs": 2, "minibatches": 3, "microbatch_size": 5, "gamma": 0.9, "gae_lambda": 0.8, "critic_lambda": 1.0},
        **{"length_adaptive_alpha": None, "whiten_advantages": False, "clip_range": 0.3, "clip_range_high": 0.4},
        **{"dual_clip": 3.0, "value_clip_range": None, "value_coef": 0.2, "entropy_coef": 0.01, "stop_kl": 0.5},
        **{"aggregation": "sequence_mean", "max_grad_norm": 2.0, "critic_warmup": 4, "critic_warmup_until": 0.5},
    },
    "critic": "shared",
    "critic_model": None,
    "critic_learning_rate": 0.01,
    "offload_frozen": True,
    "shard_judges": False,
    "gather_rollouts": "never",
    "rollout_server": {"base_url": "http://h/v1", "folder": "f"},
}
NEW: dict[str, Any] = {
    "policy": {"path": "p"},
    "reward": {"class_path": "prl.judge.GenerativeJudge", "init_args": {"path": "j"}},
    "iterations": 7,
    "sampling": {"max_new_tokens": 9, "temperature": 0.5, "per_prompt": 2},
    "shaping": [
        {"class_path": "prl.rewards.shapers.LogOdds", "init_args": {"clip": 3.0}},
        {"class_path": "prl.rewards.shapers.MissingEOS", "init_args": {"value": -1.0, "replace": True}},
        {"class_path": "prl.rewards.shapers.Overlong", "init_args": {"penalty": 0.5, "buffer": 4}},
    ],
    "judge_thoughts": True,
    "kl": {"coef": 0.1, "estimator": "k2", "placement": "loss", "target": 2.0, "horizon": 99},
    "advantage": {
        "class_path": "prl.advantages.GAE",
        "init_args": {
            **{"gamma": 0.9, "gae_lambda": 0.8, "critic_lambda": 1.0, "length_adaptive_alpha": None, "whiten": False}
        },
    },
    "objective": {
        "class_path": "prl.objectives.policy.PPO",
        "init_args": {"clip_range": 0.3, "clip_range_high": 0.4, "dual_clip": 3.0, "entropy_coef": 0.01},
    },
    "update": {
        **{"epochs": 2, "minibatches": 3, "microbatch_size": 5, "aggregation": "sequence_mean", "stop_kl": 0.5},
        "max_grad_norm": 2.0,
    },
    "critic": {
        **{"kind": "shared", "model": None, "learning_rate": 0.01, "value_coef": 0.2, "value_clip_range": None},
        **{"warmup": 4, "warmup_until": 0.5},
    },
    "resources": {"offload_frozen": True, "shard_judges": False, "gather_rollouts": "never"},
    "sampler": {"class_path": "prl.rollouts.RolloutServer", "init_args": {"base_url": "http://h/v1", "folder": "f"}},
}


# The settings of a judge's loss as its run wrote them, and what is made of them.
OLD_LOSS: dict[str, Any] = {
    **{"label_smoothing": 0.1, "verdict_loss": "two_tokens", "consistency_coef": 0.5, "consistency": "probability"},
    "language_coef": 0.25,
}
LOSSES: list[tuple[str, dict[str, Any], str, dict[str, float]]] = [
    (
        "GenerativeRewardModule",
        OLD_LOSS,
        "Pairwise",
        {"label_smoothing": 0.05, "verdict_coef": 1.0, "language_coef": 0.25, "consistency_coef": 0.5},
    ),
    (
        "GenerativeRewardModule",
        {**OLD_LOSS, "verdict_loss": "full_vocabulary", "language_coef": 0.0, "consistency": "log_odds"},
        "Pairwise",
        {"label_smoothing": 0.05, "verdict_coef": 0.0, "language_coef": 1.0, "logit_consistency_coef": 0.5},
    ),
    ("BradleyTerryRewardModule", {"label_smoothing": 0.1}, "BradleyTerry", {"label_smoothing": 0.05}),
]


@pytest.mark.parametrize(("stage", "old", "objective", "settings"), LOSSES)
def test_the_loss_of_an_old_judge_becomes_an_objective(
    stage: str, old: dict[str, Any], objective: str, settings: dict[str, float], tmp_path: Path
) -> None:
    config = {"model": {"class_path": f"lightning_modules.{stage}", "init_args": {"max_length": 9, **old}}}
    write_config(tmp_path, yaml.safe_dump(config, sort_keys=False))
    with pytest.raises(RenamedError, match=r"init_args.label_smoothing is now label_smoothing of .* half of its value"):
        check_names(["fit", "--config", str(tmp_path / CONFIG)])
    convert.main([str(tmp_path)])
    check_names(["fit", "--config", str(tmp_path / CONFIG)])
    made = {"class_path": f"prl.objectives.reward.{objective}", "init_args": settings}
    config["model"]["init_args"] = {"max_length": 9, "objective": made}
    assert yaml.safe_load((tmp_path / CONFIG).read_text()) == config
    getattr(importlib.import_module("prl.objectives.reward"), objective)(**settings)


def test_no_stage_has_a_setting_of_an_old_name() -> None:
    import lightning_modules

    for stage in STAGES:
        taken = set(signature(getattr(lightning_modules, stage)).parameters) & set(RENAMED_SETTINGS)
        assert taken <= {"critic"}  # a class of settings now, a word before


def test_the_settings_of_an_old_run_are_converted_and_nothing_is_lost() -> None:
    assert convert_settings("PairwisePPOModule", OLD) == NEW
    assert list(old_settings(NEW)) == []
    # All of the table but what the example has not: sampling habits at their defaults, and settings of judges.
    unused = {f"sampling.{each}" for each in ("top_p", "min_p", "typical_p", "repetition_penalty", "min_new_tokens")}
    unused |= {"sampling.no_repeat_ngram_size", *OLD_LOSS}
    assert set(RENAMED_SETTINGS) - set(old_settings(OLD)) == unused


def test_a_reward_that_was_a_probability_needs_no_shaper_but_that_of_the_end() -> None:
    old = {"judge": {}, "reward": {"mapping": "probability", "missing_eos": "penalise"}}
    plain = convert_settings("PairwisePPOModule", old)
    assert plain["shaping"] == [
        {"class_path": "prl.rewards.shapers.MissingEOS", "init_args": {"value": 1.0, "replace": False}}
    ]
    old = {"judge": {}, "reward": {"missing_eos": "keep"}}
    assert convert_settings("PairwisePPOModule", old)["shaping"] == []


def test_an_old_setting_is_told_with_where_it_is_now(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("model:\n  init_args:\n    ppo: {gamma: 0.9}\n")
    with pytest.raises(RenamedError, match=r"mine.yaml: model.init_args.ppo.gamma is now gamma of prl.advantages.GAE"):
        check_names(["fit", "--config", str(config)])
    config.write_text("model: {class_path: PairwisePPOModule, init_args: {critic: shared}}\n")
    with pytest.raises(RenamedError, match="critic is now critic.kind; write that"):
        check_names(["fit", "--config", str(config)])
    config.write_text("model: {class_path: my.Module, init_args: {judge: mine, ppo: {gamma: 1}}}\n")
    check_names(["fit", "--config", str(config)])  # another module has settings of its own
    part = tmp_path / "part.yaml"
    part.write_text("model: {init_args: {label_smoothing: 0.1}}\n")
    check_names(["fit", "--config", str(config), "--config", str(part)])
    with pytest.raises(RenamedError, match="label_smoothing is now label_smoothing of prl.objectives.reward.Pairwise"):
        check_names(["fit", "--config", str(part)])


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--model.init_args.ppo.critic_warmup", "3"], "ppo.critic_warmup is now critic.warmup"),
        (["--model.reward.kl_coef=0.1"], "reward.kl_coef is now kl.coef"),
        (["--model.init_args.judge.init_args.path", "x"], "judge is now reward"),
        (["--model.init_args.critic", "own"], "critic is now critic.kind"),
        (["--model.init_args.consistency_coef=1"], "consistency_coef is now consistency_coef of prl.objectives.reward"),
        (["--model.init_args.sampling.top_p", "0.9"], "sampling.top_p is now no setting: it changes the distribution"),
    ],
)
def test_an_old_option_is_told(option: list[str], told: str, tmp_path: Path) -> None:
    config = tmp_path / "new.yaml"
    config.write_text("model: {class_path: PairwisePPOModule, init_args: {critic: {kind: own}}}\n")
    with pytest.raises(RenamedError, match=told):
        check_names(["fit", "--config", str(config), *option])
    check_names(["fit", "--config", str(config), "--model.init_args.critic", '{"kind": "own"}'])


def test_the_config_of_an_old_run_has_new_settings_after_it_was_converted(tmp_path: Path) -> None:
    config = {"model": {"class_path": "lightning_modules.PairwisePPOModule", "init_args": OLD}, "run_dir": "r"}
    write_config(tmp_path, yaml.safe_dump(config, sort_keys=False))
    convert.main([str(tmp_path)])
    found = yaml.safe_load((tmp_path / CONFIG).read_text())
    assert found == {"model": {"class_path": "lightning_modules.PairwisePPOModule", "init_args": NEW}, "run_dir": "r"}
    assert config_fault(tmp_path) is None
