"""Every overlay in configs/methods trains as its header says, and goes on exactly after it was cut off.

A new method is found by its overlay; nothing is added here.
"""

import json
import re
from importlib import import_module
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import yaml

from tests.helpers.server import listening
from tests.integration.prompts_of_methods import OWN_PROMPTS
from tests.integration.runs import CONFIGS, Home, differences, last_checkpoint
from tests.integration.test_tensorboard import events, scalars
from tests.unit.judge.test_thought_process_judge import Handler

OVERLAYS = sorted((CONFIGS / "methods").glob("*.yaml"))
MODEL = "--model.init_args."
QUICK = ("par", "p3o", "multi_turn", "oreo", "spo", "tgdpo", "tree_po", "barfi", "themis", "reasoning_judge")
"""Overlays that the quick suite resumes: one for each kind of place in the loop, of row, and of state."""
FEWER_PROMPTS = ("--data.init_args.batch_size", "4")


def stage_of(overlay: Path) -> str:
    """Read from the command in an overlay's header which config it goes on top of."""
    command = " ".join(re.findall(r"^# +(prl fit .*)$", overlay.read_text(), re.MULTILINE))
    assert f"--config configs/methods/{overlay.name}" in command
    return re.findall(r"--config configs/quickstart/(\w+)\.yaml", command)[0]


def objective_of(overlay: Path) -> Any:
    """Make the objective that an overlay names."""
    settings = yaml.safe_load(overlay.read_text())["model"]["init_args"]["objective"]
    module, _, name = settings["class_path"].rpartition(".")
    return getattr(import_module(module), name)(**settings.get("init_args", {}))


def what_it_reads(overlay: Path, home: Home, folder: Path) -> list[str]:
    """Give a preference objective the columns, further responses and guides that it declares."""
    objective, given = objective_of(overlay), []
    if guides := {name: {"path": str(home.judge)} for name in objective.guides}:
        given += [f"{MODEL}guides", json.dumps(guides)]
    if objective.revisions:  # their prompts quote a response
        given += [f"{MODEL}max_length", "128"]
    folder.mkdir(exist_ok=True)
    for split in ("train", "validation") if objective.views[2:] or objective.columns or objective.lists else ():
        rows = [json.loads(line) for line in home.data(f"pairs.{split}").read_text().splitlines()]
        for number, row in enumerate(rows):
            row |= dict.fromkeys(objective.views[2:], row["chosen"][::-1])
            row |= {name: (number + place) % 7 / 7 for place, name in enumerate(objective.columns)}
            row |= {name: number % count for name, count in objective.classes.items()}
            for name, columns in objective.lists.items():
                row[name] = [row["chosen"], row["rejected"], *(row["chosen"][:end] for end in range(1, 1 + number % 3))]
                row |= {each: [(number + 3 * n) % 5 - 4.0 for n in range(len(row[name]))] for each in columns}
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        given += [f"--data.init_args.{split}.path", str(folder / f"{split}.jsonl")]
    return given


def scored(overlay: Path, home: Home, folder: Path) -> list[str]:
    """Give an objective of reward models the columns that it reads."""
    objective, given = objective_of(overlay), []
    folder.mkdir(exist_ok=True)
    for split in ("train", "validation"):
        rows = [json.loads(line) for line in home.data(f"pairs.{split}").read_text().splitlines()]
        for number, row in enumerate(rows):
            names = (*objective.columns, *objective.optional_columns)
            row |= {name: (number + place) % 7 / 7 for place, name in enumerate(names)}
            if objective.needs_traces:
                call = {"action": "length", "input": row["chosen"], "observation": str(len(row["chosen"]))}
                row |= {"chosen_trace": [call, {"text": "good"}], "rejected_trace": [{"text": "bad"}]}
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        given += [f"--data.init_args.{split}.path", str(folder / f"{split}.jsonl")]
    if objective.look_ahead:
        samples = [{"prompt": row["prompt"], "responses": [row["chosen"], row["rejected"], "ab"]} for row in rows]
        (folder / "unlabelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
        given += [f"{MODEL}unlabelled.path", str(folder / "unlabelled.jsonl")]
    return given


def with_columns(overlay: Path, home: Home, folder: Path) -> list[str]:
    """Give an advantage estimator the columns of the prompts that it reads."""
    named = yaml.safe_load(overlay.read_text())["model"]["init_args"].get("advantage", {})
    module, _, name = named.get("class_path", "prl.advantages.GAE").rpartition(".")
    if not (columns := getattr(import_module(module), name).columns):
        return []
    folder.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in home.data("prompts.train").read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {each: (number + place) % 7 / 7 for place, each in enumerate(columns)}
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--data.init_args.train.path", str(folder / "prompts.jsonl")]


def settings_of(overlay: Path, home: Home, folder: Path) -> list[str]:
    """Make the run tiny, with the models of the test in place of those of the quickstart."""
    text, own = overlay.read_text(), folder / overlay.name
    models = {
        "quickstart/judge": home.judge,
        "quickstart/bradley_terry": home.bradley_terry,
        "quickstart/preference": home.judge,
        "quickstart/supervised": home.policy,
        "dpa/reward": home.multi_head,
    }
    for run, model in models.items():
        text = text.replace(f"runs/{run}/model", str(model))
    own.write_text(text)
    given = ["--config", str(own), "--data.init_args.batch_size", "8"]
    if "paths:" in text:  # several members
        members = [str(folder / f"member{number}") for number in range(2)]
        for member in members:
            copytree(home.bradley_terry, member, dirs_exist_ok=True)
        given += [f"{MODEL}reward.init_args.paths", json.dumps(members)]
    elif stage_of(overlay) == "pairwise_ppo" and "reward" not in yaml.safe_load(text)["model"]["init_args"]:
        given += [f"{MODEL}reward.init_args.path", str(home.judge)]
    return given


def room_for_prompts(overlay: Path) -> list[str]:
    """Give micro-batches room for all responses to a prompt, where the objective compares them, and few prompts."""
    settings = yaml.safe_load(overlay.read_text())["model"]["init_args"]
    if "objective" not in settings or objective_of(overlay).min_per_prompt == 1:
        return []
    per_prompt = settings["sampling"]["per_prompt"]
    given = [f"{MODEL}update.microbatch_size", str(per_prompt)]
    # Four prompts with several responses each are enough of an iteration, unless their kinds take turns.
    return given if per_prompt < 4 or "SelfReferee" in overlay.read_text() else [*given, *FEWER_PROMPTS]


def tiny(overlay: Path, home: Home, run: Path, *more: str) -> None:
    arguments = home.arguments(stage_of(overlay), run)
    if "critic: null" in overlay.read_text():  # the overrides of the base are behind the overlay
        place = arguments.index(f"{MODEL}critic.warmup")
        del arguments[place : place + 2]
    if stage_of(overlay) == "pairwise_ppo":
        place = arguments.index(f"{MODEL}reward.init_args.path")
        del arguments[place : place + 2]
        arguments += with_columns(overlay, home, run.parent / "rows")
        for marker, prepare in OWN_PROMPTS.items():
            if marker in overlay.read_text():
                arguments += prepare(home, run.parent / "rows")
        arguments += room_for_prompts(overlay)
    if stage_of(overlay) == "preference":
        arguments += what_it_reads(overlay, home, run.parent / "rows")
    if stage_of(overlay) == "bradley_terry":
        arguments += scored(overlay, home, run.parent / "rows")
    from prl.cli.app import run_stage

    run_stage([*arguments[:3], *settings_of(overlay, home, run.parent), *arguments[3:], *more])


@pytest.mark.parametrize(
    "overlay",
    [pytest.param(each, id=each.stem, marks=[] if each.stem in QUICK else pytest.mark.slow) for each in OVERLAYS],
)
def test_a_method_trains_and_is_resumed_exactly(overlay: Path, home: Home, tmp_path: Path) -> None:
    once = ("--trainer.val_check_interval", "4")  # validated at the end
    tiny(overlay, home, tmp_path / "whole", *once)
    halfway = tmp_path / "whole" / "checkpoints" / "batch-000002.ckpt"  # all that a kill behind it would leave
    tiny(overlay, home, tmp_path / "cut", "--ckpt_path", str(halfway), *once)
    whole, cut = last_checkpoint(tmp_path / "whole"), last_checkpoint(tmp_path / "cut")
    for part in ("state_dict", "optimizer_states", "run_state"):
        assert differences(whole[part], cut[part]) == []
    if "critic: null" in overlay.read_text():
        assert not [name for name in whole["state_dict"] if name.startswith("critic")]


OFFLINE = [each for each in OVERLAYS if stage_of(each) != "pairwise_ppo" and each.stem not in QUICK]


@pytest.mark.parametrize("overlay", OFFLINE, ids=lambda overlay: overlay.stem)
def test_a_method_without_rollouts_trains_and_validates(overlay: Path, home: Home, tmp_path: Path) -> None:
    tiny(overlay, home, tmp_path / "run", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2")
    found = scalars(events(tmp_path / "run"))
    assert [step for step, _ in found["train/loss"]] == [0, 1]
    assert any(tag.startswith("val/") for tag in found)


def test_there_are_methods() -> None:
    assert {"grpo", "dpo", *QUICK} <= {path.stem for path in OVERLAYS}


def test_the_recipe_of_unpacking_starts_at_the_policy_that_sampled(home: Home, tmp_path: Path) -> None:
    """The first step of the first iteration: every ratio is one, nothing is clipped, and policy and reference agree."""
    one_step = (f"{MODEL}update.minibatches", "1", f"{MODEL}update.epochs", "1")
    tiny(CONFIGS / "methods" / "unpacking_ppo.yaml", home, tmp_path / "run", *one_step)
    found = {tag: points[0][1] for tag, points in scalars(events(tmp_path / "run")).items()}
    assert found["policy/first_ratio"] == pytest.approx(1.0, abs=1e-6)  # a mean over tokens
    for name in ("policy/approx_kl", "policy/clip_frac_low", "policy/clip_frac_high", "kl/k1"):
        assert found[name] == 0.0, name


def test_a_judge_behind_a_server_marks_steps_in_training_alone(home: Home, tmp_path: Path) -> None:
    outcome = {"class_path": "GenerativeJudge", "init_args": {"path": str(home.judge)}}
    with listening(Handler) as server:
        settings = {"reward": outcome, "base_url": f"{server.root}/v1", "model": "m", "separator": "a"}
        reward = json.dumps({"class_path": "ThoughtProcessJudge", "init_args": settings})
        tiny(CONFIGS / "methods" / "tp_grpo.yaml", home, tmp_path / "run", f"{MODEL}reward", reward)
    assert len(server.seen) == 1 + 4 * 8 * 8  # a trial, and each rollout of four iterations
    found = scalars(events(tmp_path / "run"))
    assert [value for _, value in found["rewards/steps_unmarked/mean"]] == [0.0] * 4
    assert all(0 < value <= 1 for _, value in found["rewards/steps_right/mean"])
