"""Every overlay in configs/methods/images trains as its header says, and goes on exactly after it was cut off.

A new method is found by its overlay; nothing is added here.
"""

import re
from pathlib import Path

import pytest

from prl.cli.app import run_stage
from prl.diffusion.rewards.conv_scorer import ConvScorer
from tests.helpers.pictures import tokenizer, write_pictures, write_stable_diffusion_3
from tests.integration.runs import CONFIGS, differences, last_checkpoint
from tests.integration.test_image_reward import arguments as reward_arguments
from tests.integration.test_image_runs import MODEL, arguments

pytest.importorskip("diffusers")

OVERLAYS = sorted((CONFIGS / "methods" / "images").glob("*.yaml"))
QUICK = ("rank_dpo", "adv_grpo", "seppo", "flow_nrg", "ppd")
"""One of each kind: lists, a reward that learns, pictures of an earlier self, a reward of noisy latents, users."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "data")
    write_stable_diffusion_3(folder / "flow", latent=False)
    ConvScorer(tokenizer(), image_size=8, width=8).save(folder / "scorer")
    return folder


def stage_of(overlay: Path) -> str:
    """Read from the command in an overlay's header which config it goes on top of."""
    command = " ".join(re.findall(r"^# +(prl fit .*)$", overlay.read_text(), re.MULTILINE))
    assert f"--config configs/methods/images/{overlay.name}" in command
    return re.findall(r"--config configs/images/(\w+)\.yaml", command)[0]


def tiny(overlay: Path, home: Path, run: Path, *more: str) -> None:
    """Make the run tiny, with a reward that reads any pictures."""
    own, text = run.parent / overlay.name, overlay.read_text()
    places = {
        "world/scorer": "scorer",
        "reward/model": "scorer",
        "world/references.jsonl": "data/captioned.train.jsonl",
        "base/model": "flow",
        "pairs/users.train.jsonl": "data/pairs.train.jsonl",
    }
    for place, mine in places.items():
        text = text.replace(f"runs/images/{place}", str(home / mine))
    text = text.replace("every: 30", "every: 1")  # so that a run of four batches has several snapshots
    own.write_text(text.replace("prl.quickstart.images.rewards.GoldReward", "tests.helpers.pictures.Brightness"))
    stage = stage_of(overlay)
    args = reward_arguments(home, run, "scorer") if stage == "reward" else arguments(home, stage, run)
    if "    reward:" in text and "HarmonicReward" not in text:  # which refuses brightness below 0
        place = args.index(f"{MODEL}reward")
        del args[place : place + 2]
    if "inversion_steps:" in text:
        args += [f"{MODEL}noise.inversion_steps", "2"]
    if "per_prompt: 2" in text:
        args += [f"{MODEL}sampling.per_prompt", "2"]
    if "CaptionedImageDataModule" in text:
        for split in ("train", "validation"):
            args += [f"--data.init_args.{split}.path", str(home / "data" / f"captioned.{split}.jsonl")]
    run_stage([*args[:3], "--config", str(own), *args[3:], *more])


@pytest.mark.parametrize(
    "overlay",
    [pytest.param(each, id=each.stem, marks=[] if each.stem in QUICK else pytest.mark.slow) for each in OVERLAYS],
)
def test_a_method_trains_and_is_resumed_exactly(overlay: Path, home: Path, tmp_path: Path) -> None:
    tiny(overlay, home, tmp_path / "whole")
    halfway = tmp_path / "whole" / "checkpoints" / "batch-000002.ckpt"  # all that a kill behind it would leave
    tiny(overlay, home, tmp_path / "cut", "--ckpt_path", str(halfway))
    whole, cut = last_checkpoint(tmp_path / "whole"), last_checkpoint(tmp_path / "cut")
    for part in ("state_dict", "optimizer_states", "run_state"):
        assert differences(whole[part], cut[part]) == []


def test_there_are_methods() -> None:
    assert set(QUICK) <= {path.stem for path in OVERLAYS}
