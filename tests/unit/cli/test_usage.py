"""What a wrong setting is told: the setting, what was found, and what may be meant, in one line."""

import re

import pytest

from prl.cli.usage import ELSEWHERE
from tests.integration.runs import CONFIGS

SUPERVISED, PPO = (str(CONFIGS / "quickstart" / f"{name}.yaml") for name in ("supervised", "pairwise_ppo"))
MODEL = "model.init_args"
WRONG = {
    "misspelt": (SUPERVISED, f"{MODEL}.model.lorra", "1", f"{MODEL}.model.lorra of .*did you mean {MODEL}.model.lora"),
    "of the trainer": (PPO, "trainer.max_stepps", "3", "trainer.max_stepps; did you mean trainer.max_steps"),
    "at the top": (PPO, "rundir", "x", "unrecognized setting rundir; did you mean run_dir"),
    "of TRL": (PPO, f"{MODEL}.num_ppo_epochs", "1", "in prl it is model.init_args.update.epochs"),
    "of transformers": (PPO, "per_device_train_batch_size", "1", "in prl it is data.init_args.batch_size"),
    "no such class": (PPO, f"{MODEL}.reward.class_path", "prl.judge.GenerativeJuge", "did you mean prl.judge.Generat"),
    "no such stage": (PPO, "model", "SupervisedModul", "no class SupervisedModul; did you mean SupervisedModule"),
    "no such package": (PPO, "model", "nowhere.Mine", "no class nowhere.Mine .*No module named 'nowhere'"),
    "a module in this folder": (
        PPO,
        "model",
        "mine.Mine",
        "no class mine.Mine .*; it lies in this folder.* PYTHONPATH=.",
    ),
    "no number": (PPO, f"{MODEL}.update.minibatches", "x", f"{MODEL}.update.minibatches is 'x'; expected int"),
    "no choice": (SUPERVISED, f"{MODEL}.optimization.schedule", "round", "expected one of constant, linear, cosine"),
    "of TRL, there": (PPO, f"{MODEL}.objective.beta", "1", "objective.*; in prl it is model.init_args.kl.coef [^,]*$"),
    "a slip of a name of TRL": (SUPERVISED, f"{MODEL}.optimization.warmup_steps", "1", "in prl it is .*warmup"),
    "another optimizer": (SUPERVISED, "optimizer", "SGD", "in prl it is model.init_args.optimization"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_one_line(case: str, capsys, monkeypatch, tmp_path) -> None:
    from prl.cli.entry import main

    monkeypatch.setattr("sys.argv", ["prl"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").touch()
    config, setting, value, pattern = WRONG[case]
    with pytest.raises(SystemExit) as ending:
        main(["fit", "--config", config, f"--{setting}", value])
    assert ending.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert told[1] == "(all settings: prl fit --help)"
    assert re.search(pattern, told[0].removeprefix("error: ")), told[0]


def test_the_help_does_not_advertise_what_does_not_work(capsys: pytest.CaptureFixture) -> None:
    """Lightning would take `--optimizer`, and every stage builds its own over its own parameter groups."""
    from prl.cli.entry import main

    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    assert "--optimizer" not in capsys.readouterr().out


def test_a_nested_setting_takes_null_and_every_setting_that_is_named_exists(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of other libraries are answered with settings of prl; a renamed setting would make that a lie."""
    from prl.cli.entry import main

    monkeypatch.setattr("sys.argv", ["prl"])
    lora = [f"--{MODEL}.policy.lora.rank", "4", f"--{MODEL}.policy.lora", "null"]
    for config, options in ((PPO, lora), (SUPERVISED, [])):
        with pytest.raises(SystemExit):
            main(["fit", "--config", config, *options, "--print_config"])
    printed = capsys.readouterr().out
    assert "lora: null" in printed
    assert "rank: 4" not in printed
    for told in ELSEWHERE.values():
        for name in re.findall(r"(?:model|data)\.init_args\.[\w.]+|trainer\.\w+|checkpoint\.\w+", told):
            if name != f"{MODEL}.objective":  # whose settings are those of its class
                assert f" {name.rpartition('.')[2]}:" in printed, told
