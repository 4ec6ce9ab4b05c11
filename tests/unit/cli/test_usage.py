"""What a wrong setting is told: the setting, what was found, and what may be meant, in one line."""

import re

import pytest

from prl.cli.other_names import ELSEWHERE
from prl.cli.usage import explained
from prl.objectives.preference import PreferenceObjective
from prl.objectives.reward import RewardObjective
from prl.rewards import RewardSource
from tests.integration.runs import CONFIGS

SUPERVISED, PPO, PREFERENCE, BRADLEY_TERRY = (
    str(CONFIGS / "quickstart" / f"{name}.yaml")
    for name in ("supervised", "pairwise_ppo", "preference", "bradley_terry")
)
MODEL = "model.init_args"


class NoLoss(PreferenceObjective):
    """Lacks the loss."""


class Typed(PreferenceObjective):
    """Needs a beta, and has a default that is not DPO's."""

    def __init__(self, beta: float, label_smoothing: float = 0.25) -> None: ...

    def loss(self, batch):
        raise NotImplementedError


class Focal(RewardObjective):
    """Is of another kind."""

    loss = Typed.loss


class NoScore(RewardSource):
    """Lacks the score, where no null is allowed beside the class."""


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
    "of TRL, there": (PPO, f"{MODEL}.objective.beta", "1", "objective.*; in prl it is model.init_args.kl.coef$"),
    "a slip of a name of TRL": (SUPERVISED, f"{MODEL}.optimization.warmup_steps", "1", "in prl it is .*warmup"),
    "of a class that is not named": (
        PPO,
        f"{MODEL}.anchors.count",
        "2",
        f"^{MODEL}.anchors: name the class first, such as --{MODEL}.anchors ReferenceSamples$",
    ),
    "an unfinished class": (
        PREFERENCE,
        f"{MODEL}.objective",
        f"{__name__}.NoLoss",
        r"objective: \S+NoLoss lacks loss$",
    ),
    "an unfinished reward": (PPO, f"{MODEL}.reward", f"{__name__}.NoScore", r"reward: \S+NoScore lacks score$"),
    "another kind": (
        PREFERENCE,
        f"{MODEL}.objective",
        f"{__name__}.Focal",
        rf"^{MODEL}.objective: \S+.Focal is no PreferenceObjective$",
    ),
    "a class without what it needs": (
        PREFERENCE,
        f"{MODEL}.objective",
        f"{__name__}.Typed",
        f"^{MODEL}.objective: Typed needs beta: --{MODEL}.objective.beta VALUE$",
    ),
    "another module": (
        PREFERENCE,
        "model",
        "PairwisePPOModule",
        "^model: PairwisePPOModule needs reward: --model.reward",
    ),
    "of what a data module inherits": (PPO, "data.batchsize", "4", r"did you mean data.init_args.batch_size\?$"),
    "a beginning": (PPO, "trainer.max_step", "4", r"did you mean trainer.max_steps\?$"),
    "a beginning of an option": (PPO, "conf", "x.yaml", r"unrecognized setting conf; did you mean config\?$"),
    "a beginning within": (PPO, f"{MODEL}.update.epoch", "4", rf"did you mean {MODEL}.update.epochs\?$"),
    "of TRL, a beginning": (PPO, "seed", "7", "in prl it is seed_everything$"),
    "of TRL, inside": (PREFERENCE, "model.ref_model", "x", f"in prl it is {MODEL}.reference$"),
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
    printed = ""
    adapted, other = [f"--{MODEL}.model.lora.rank", "3"], [f"--{MODEL}.objective", f"{__name__}.Typed"]
    for config, options in (
        (PPO, lora),
        (SUPERVISED, adapted),
        (PREFERENCE, ["--model.objective.beta", "0.3"]),
        (PREFERENCE, [*other, f"--{MODEL}.objective.beta", "0.7"]),
    ):
        with pytest.raises(SystemExit):
            main(["fit", "--config", config, *options, "--print_config"])
        printed += capsys.readouterr().out
    assert "lora: null" in printed
    assert "rank: 4" not in printed
    assert {"beta: 0.3", "beta: 0.7", "label_smoothing: 0.0", "label_smoothing: 0.25"} <= set(
        map(str.strip, printed.splitlines())
    )
    for told in ELSEWHERE.values():
        for name in re.findall(r"(?:model|data)\.init_args\.[\w.]+|trainer\.\w+|checkpoint\.\w+", told):
            assert f" {name.rpartition('.')[2]}:" in printed, told


def _told(name: str, *given: str) -> str:
    return explained(f"unrecognized arguments: --{name} 1", list(given))


def test_every_name_of_the_page_for_users_of_trl_is_answered() -> None:
    import lightning_modules  # noqa: F401 - what the modules have is asked

    page = (CONFIGS.parent / "docs" / "coming_from_trl.md").read_text().partition("## Arguments of every trainer")[2]
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    names = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert {"r", "loss_type", "center_rewards_coefficient"} <= names
    for name in sorted(names):
        assert re.search("; (in prl it is |prl has none)", told := _told(name)), told
        assert "()" not in told, f"no module has it: {told}"


@pytest.mark.parametrize(
    ("name", "config", "meant"),
    [
        ("num_train_epochs", PPO, f"in prl it is {MODEL}.iterations"),
        ("num_train_epochs", PREFERENCE, "in prl it is trainer.max_steps, or trainer.max_epochs"),
        ("gradient_accumulation_steps", PPO, f"in prl it is {MODEL}.update.microbatch_size"),
        ("gradient_accumulation_steps", SUPERVISED, "in prl it is trainer.accumulate_grad_batches"),
        ("ref_model", PREFERENCE, f"in prl it is {MODEL}.reference"),
        ("beta", PREFERENCE, f"in prl it is beta of {MODEL}.objective"),
        (
            "beta",
            SUPERVISED,
            f"PairwisePPOModule has it ({MODEL}.kl.coef), BradleyTerryRewardModule, GenerativeRewardModule, "
            "PairwisePPOModule, PreferenceModule and ReasoningRewardModule have it "
            f"(beta of {MODEL}.objective), SupervisedModule has not",
        ),
        *(
            (name, config, f"PairwisePPOModule has it ({place}), {module} has not")
            for name, place in (
                ("num_generations", f"{MODEL}.sampling.per_prompt"),
                ("max_completion_length", f"{MODEL}.sampling.max_new_tokens"),
                ("temperature", f"{MODEL}.sampling.temperature"),
                ("num_iterations", f"{MODEL}.update.epochs"),
                ("kl_coef", f"{MODEL}.kl.coef"),
                ("epsilon", f"clip_range of {MODEL}.objective"),
            )
            for config, module in (
                (PREFERENCE, "PreferenceModule"),
                (BRADLEY_TERRY, "BradleyTerryRewardModule"),
                (SUPERVISED, "SupervisedModule"),
            )
        ),
    ],
)
def test_a_name_of_trl_is_answered_for_the_module_that_is_chosen(name: str, config: str, meant: str) -> None:
    import lightning_modules  # noqa: F401

    assert _told(name, "--config", config) == f"unrecognized setting {name}; {meant}"
    if config == PREFERENCE and name == "num_train_epochs":  # the last word counts
        assert "iterations" in _told(name, "--config", config, "--model=PairwisePPOModule")


def test_help_of_a_class_names_the_program(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from prl.cli.entry import main

    monkeypatch.setattr("sys.argv", ["/somewhere/__main__.py"])
    with pytest.raises(SystemExit):
        main(["fit", "--config", PPO, "--model.reward.help", "GenerativeJudge"])
    assert capsys.readouterr().out.startswith("usage: prl ")
