"""A reward model of pictures: what it learns from pairs, its folder, and what it gives a policy."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from lightning_modules import ImageRewardModule
from prl.cli.app import run_stage
from prl.config import ModelSource
from prl.diffusion.rewards import LearnedImageReward, NoisyLatentReward, RewardDifference, WeightedImageRewards, WinRate
from prl.diffusion.rewards.clip_scorer import ClipScorer
from prl.diffusion.rewards.conv_scorer import ConvScorer
from prl.diffusion.rewards.scorers import load_scorer
from prl.models.location import ModelNotFoundError
from tests.helpers.pictures import (
    PROMPTS,
    Brightness,
    _text_config,
    tokenizer,
    write_pictures,
    write_stable_diffusion_3,
)
from tests.integration.runs import CONFIGS, Interrupt, InterruptedRun, callback, differences, state_of
from tests.integration.test_tensorboard import events, scalars

MODEL = "--model.init_args."


def clip(heads: tuple[str, ...] = ()) -> ClipScorer:
    torch.manual_seed(0)
    vision = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 8, "patch_size": 4, "projection_dim": 8}
    settings: dict[str, Any] = {"vision_config": vision, "text_config": _text_config().to_dict(), "projection_dim": 8}
    return ClipScorer(CLIPModel(CLIPConfig(**settings)), tokenizer(), heads)


def conv(heads: tuple[str, ...] = ("quality",)) -> ConvScorer:
    torch.manual_seed(0)
    return ConvScorer(tokenizer(), image_size=8, width=8, heads=heads)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rewards")
    write_pictures(folder / "data")
    clip().save(folder / "clip")
    conv().save(folder / "conv")
    for split in ("train", "validation"):  # labels of two heads, with ties
        path = folder / "data" / f"pairs.{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        labels = [
            {"looks_preference": (1, 0.5, 0)[n % 3], "text_preference": (0.5, 1)[n % 2]} for n in range(len(rows))
        ]
        lines = [json.dumps(row | label) + "\n" for row, label in zip(rows, labels, strict=True)]
        (folder / "data" / f"labelled.{split}.jsonl").write_text("".join(lines))
    return folder


def arguments(home: Path, run: Path, model: str, *overrides: str, rows: str = "pairs") -> list[str]:
    args = ["fit", "--config", str(CONFIGS / "images" / "reward.yaml"), "--run_dir", str(run)]
    for split in ("train", "validation"):
        args += [f"--data.init_args.{split}.path", str(home / "data" / f"{rows}.{split}.jsonl")]
    args += ["--data.init_args.batch_size", "4", "--data.init_args.validation_batch_size", "5"]
    args += ["--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1", "--trainer.max_steps", "4"]
    args += [
        "--trainer.val_check_interval",
        "2",
        "--checkpoint.every_n_batches",
        "2",
        f"{MODEL}optimization.warmup",
        "0",
    ]
    return [*args, f"{MODEL}model.path", str(home / model), *overrides]


@pytest.mark.parametrize("model", ["conv", pytest.param("clip", marks=pytest.mark.slow)])
def test_a_stopped_run_ends_like_a_whole_one_and_its_folder_scores_alike(model, home, tmp_path) -> None:
    run_stage(arguments(home, tmp_path / "whole", model))
    with pytest.raises(InterruptedRun):
        run_stage(arguments(home, tmp_path / "cut", model, callback(Interrupt, batch=3)))
    cli = run_stage(arguments(home, tmp_path / "cut", model, "--ckpt_path", "last"))
    assert differences(state_of(tmp_path / "cut"), state_of(tmp_path / "whole")) == []
    images = torch.rand(3, 3, 8, 8) * 2 - 1
    expected = cli.model.model.eval()(images, list(PROMPTS[:3]))[:, 0]
    torch.testing.assert_close(LearnedImageReward(str(tmp_path / "cut" / "model")).score(images, PROMPTS[:3]), expected)
    assert {"train/loss", "val/accuracy", "val/loss"} <= scalars(events(tmp_path / "whole")).keys()


@pytest.mark.slow
def test_a_reward_of_noisy_latents_guides_predictions_of_the_pipeline_that_it_was_trained_for(home, tmp_path) -> None:
    """Through the command line alone, on the latents of an autoencoder."""
    pytest.importorskip("diffusers")
    pipeline = write_stable_diffusion_3(tmp_path / "pipeline")
    torch.manual_seed(0)
    ConvScorer(tokenizer(), image_size=4, channels=4, width=8).save(tmp_path / "scorer")
    noisy = (f"{MODEL}noisy.pipeline", str(pipeline))
    run_stage(arguments(home, tmp_path / "run", str(tmp_path / "scorer"), *noisy))
    found = scalars(events(tmp_path / "run"))
    assert {"val/accuracy", "val/accuracy_by_time/clean", "val/accuracy_by_time/noise"} <= found.keys()
    assert "NoisyLatentReward(FOLDER)" in (tmp_path / "run" / "model" / "README.md").read_text()
    reward = NoisyLatentReward(str(tmp_path / "run" / "model"))
    assert reward.score(torch.randn(2, 4, 4, 4), PROMPTS[:2], torch.tensor([0.2, 0.7])).shape == (2,)
    made = [predicted(home, pipeline, tmp_path / str(weight), reward.path, weight) for weight in (0.0, 5.0)]
    assert len(made[0]) == 8
    assert made[0] != made[1]


def predicted(home: Path, pipeline: Path, run: Path, path: str, weight: float) -> list[float]:
    """Score pictures that a run of no step makes with guidance."""
    guide = {"class_path": "prl.diffusion.guides.RewardGuide", "init_args": {"path": path, "weight": weight}}
    rows = [f"--data.init_args.{split}.path" for split in ("train", "validation")]
    args = ["fit", "--config", str(CONFIGS / "images" / "base.yaml"), "--run_dir", str(run)]
    for row, split in zip(rows, ("train", "validation"), strict=True):
        args += [row, str(home / "data" / f"captioned.{split}.jsonl")]
    args += ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "0", f"{MODEL}optimization.learning_rate", "0"]
    args += [f"{MODEL}model.path", str(pipeline), f"{MODEL}reward", "tests.helpers.pictures.Brightness"]
    args += [
        "--trainer.enable_progress_bar",
        "false",
        f"{MODEL}sampling.steps",
        "3",
        "--data.init_args.batch_size",
        "4",
    ]
    args += [f"{MODEL}sampling.guide", json.dumps(guide)]
    run_stage(args)
    run_stage(["predict", *args[1:], "--ckpt_path", "last"])
    (file,) = run.rglob("predictions*.jsonl")
    return [json.loads(line)["reward"] for line in file.read_text().splitlines()]


def test_several_heads_with_ties_each_learn_their_label(home, tmp_path) -> None:
    """VideoReward: three outcomes, a label for each head, weights chosen when it is used."""
    own = (f"{MODEL}heads", "[looks, text]", f"{MODEL}objective", "prl.objectives.reward.BradleyTerryTies")
    run_stage(arguments(home, tmp_path, "conv", *own, rows="labelled"))
    assert {"val/accuracy/looks", "val/accuracy/text"} <= scalars(events(tmp_path)).keys()
    images, prompts = torch.rand(3, 3, 8, 8) * 2 - 1, PROMPTS[:3]
    both = load_scorer(str(tmp_path / "model")).eval()(images, prompts).detach()
    folder = str(tmp_path / "model")
    torch.testing.assert_close(LearnedImageReward(folder).score(images, prompts), both.sum(1))
    weighed = LearnedImageReward(folder, {"text": 2.0}).score(images, prompts)
    torch.testing.assert_close(weighed, 2 * both[:, 1])
    with pytest.raises(ValueError, match="weights names 'sound'; the heads of .* are looks, text"):
        LearnedImageReward(folder, {"sound": 1.0})


def test_a_row_without_a_heads_label_teaches_that_head_nothing(home) -> None:
    module: Any = ImageRewardModule(ModelSource(path=str(home / "conv")), heads=["looks", "text"])
    module.configure_model()
    margins = torch.randn(3, 2, requires_grad=True)
    targets = torch.tensor([[1.0, float("nan")], [0.5, 1.0], [0.0, float("nan")]])
    losses = module._losses(margins, targets)
    losses.sum().backward()
    assert (margins.grad[[0, 2], 1] == 0).all()
    assert (margins.grad[:, 0].abs() + margins.grad[1, 1].abs() > 0).all()
    alone = torch.nn.functional.softplus(-margins[0, 0])
    torch.testing.assert_close(losses[0], alone)


def test_a_label_that_is_no_probability_is_refused(home, tmp_path) -> None:
    rows = [json.loads(line) for line in (home / "data" / "labelled.train.jsonl").read_text().splitlines()]
    rows[2]["text_preference"] = 3
    (home / "data" / "wrong.train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "data" / "wrong.validation.jsonl").write_text((home / "data" / "labelled.validation.jsonl").read_text())
    with pytest.raises(ValueError, match="row 3, field 'text_preference'"):
        run_stage(arguments(home, tmp_path, "conv", f"{MODEL}heads", "[looks, text]", rows="wrong"))


def test_without_heads_clip_scores_by_similarity_whatever_the_size_of_pictures() -> None:
    scorer = clip().eval()
    images, prompts = torch.rand(2, 3, 16, 16) * 2 - 1, ["a red circle", "a blue square"]
    small = torch.nn.functional.interpolate(images, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(scorer(images, prompts), scorer(small, prompts))
    told = tokenizer()(prompts, padding="max_length", max_length=6, return_tensors="pt")
    pixels = ((small + 1) / 2 - scorer.mean) / scorer.std
    expected = scorer.clip(**told, pixel_values=pixels).logits_per_image.diagonal()
    torch.testing.assert_close(scorer(images, prompts)[:, 0], expected)


class TestWinRate:
    def scores(self, judge: Any, group: list[int], values: list[float], **settings: bool) -> Any:
        images = torch.tensor(values)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
        return WinRate(judge, **settings).scores(images, [f"p{n}" for n in group], torch.tensor(group))

    def test_a_total_order(self) -> None:
        found = self.scores(RewardDifference(Brightness()), [0] * 4, [0.4, -0.2, 0.1, -0.9])
        assert found.rewards.tolist() == pytest.approx([1, 1 / 3, 2 / 3, 0])

    def test_any_rising_function_of_the_rewards_gives_the_same(self) -> None:
        plain, moved = ([0.4, -0.2, 0.1, -0.9], [40.0, 0.1, 0.2, -7.0])
        assert torch.equal(
            self.scores(RewardDifference(Brightness()), [0] * 4, plain).rewards,
            self.scores(RewardDifference(Brightness()), [0] * 4, moved).rewards,
        )

    def test_ties_are_half_a_win_and_wins_add_up(self) -> None:
        found = self.scores(RewardDifference(Brightness()), [0] * 3, [0.5, 0.5, -1.0])
        assert found.rewards.tolist() == pytest.approx([0.75, 0.75, 0.0])
        assert float(found.rewards.sum()) * 2 == pytest.approx(3)  # G (G - 1) / 2 pairs

    def test_a_cycle_has_no_winner(self) -> None:
        class Cycle(torch.nn.Module):
            def compare(self, first, second, prompts):
                return torch.where((first - second).flatten(1)[:, 0] % 3 == 1, 1.0, -1.0)

        assert self.scores(Cycle(), [0] * 3, [0.0, 1.0, 2.0]).rewards.tolist() == pytest.approx([0.5] * 3)

    def test_pictures_of_different_prompts_are_never_compared(self) -> None:
        seen = []

        class Spy(RewardDifference):
            def compare(self, first, second, prompts):
                seen.extend(
                    zip(first.flatten(1)[:, 0].tolist(), second.flatten(1)[:, 0].tolist(), prompts, strict=True)
                )
                return super().compare(first, second, prompts)

        values = [0.1, 0.2, 0.3, 1.1, 1.2, 1.3]
        found = self.scores(Spy(Brightness()), [0, 0, 0, 1, 1, 1], values)
        assert {(int(a), int(b), prompt) for a, b, prompt in seen} == {(0, 0, "p0"), (1, 1, "p1")}
        assert len(seen) == 2 * 2 * 3  # both orders of three pairs of each prompt
        assert found.rewards.tolist() == pytest.approx([0, 0.5, 1] * 2)

    def test_a_bias_for_the_first_picture_cancels_in_both_orders(self) -> None:
        class Biased(RewardDifference):
            def compare(self, first, second, prompts):
                return super().compare(first, second, prompts) + 5.0

        values = [0.4, -0.2, 0.1]
        assert self.scores(Biased(Brightness()), [0] * 3, values).rewards.tolist() == pytest.approx([1, 0, 0.5])
        once = self.scores(Biased(Brightness()), [0] * 3, values, both_orders=False).rewards
        assert once.tolist() == pytest.approx([1, 0.5, 0])

    def test_a_comparison_that_failed_counts_for_neither_picture(self) -> None:
        class Failing(RewardDifference):
            def compare(self, first, second, prompts):
                found = super().compare(first, second, prompts)
                return torch.where((first < -0.5).flatten(1)[:, 0] | (second < -0.5).flatten(1)[:, 0], torch.nan, found)

        found = self.scores(Failing(Brightness()), [0] * 4, [0.4, -0.2, 0.1, -0.9]).rewards
        assert found[:3].tolist() == pytest.approx([1, 0, 0.5])
        assert bool(found[3].isnan())

    def test_it_mixes_with_rewards_of_single_pictures(self) -> None:
        images = torch.tensor([0.4, -0.2, 0.1])[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
        mixed = WeightedImageRewards(
            {"rate": WinRate(RewardDifference(Brightness())), "mean": Brightness()}, {"mean": 2.0}
        )
        assert mixed.compares
        found = mixed.scores(images, ["a"] * 3, torch.zeros(3, dtype=torch.long)).rewards
        assert found.tolist() == pytest.approx([1 + 0.8, 0 - 0.4, 0.5 + 0.2])

    def test_a_single_picture_has_no_rate(self) -> None:
        with pytest.raises(ValueError, match="at least two pictures of each prompt"):
            self.scores(RewardDifference(Brightness()), [0, 1], [0.1, 0.2])
        with pytest.raises(ValueError, match="a single one has no reward"):
            WinRate(RewardDifference(Brightness())).score(torch.zeros(1, 1, 2, 2), ["a"])


def test_a_weighted_sum_keeps_its_parts() -> None:
    both = WeightedImageRewards({"one": Brightness(), "two": Brightness()}, {"two": -3.0})
    images = torch.rand(4, 3, 2, 2)
    found = both.scores(images, ["a"] * 4, torch.arange(4))
    torch.testing.assert_close(found.rewards, -2 * images.flatten(1).mean(1))
    assert found.components.keys() == {"one", "two"}
    with pytest.raises(ValueError, match="names 'three'; expected some of one, two"):
        WeightedImageRewards({"one": Brightness(), "two": Brightness()}, {"three": 1.0})


def test_another_model_is_no_reward(tiny_folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="is a llama; expected a clip, or the folder of a ConvScorer"):
        LearnedImageReward(str(tiny_folder))
    with pytest.raises(ModelNotFoundError, match="nowhere does not exist"):
        load_scorer(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"pictures have shape \(3, 16, 16\); this reward model reads \(3, 8, 8\)"):
        conv()(torch.zeros(1, 3, 16, 16), ["a"])


def test_a_folder_without_a_model_is_named(tmp_path) -> None:
    with pytest.raises(ModelNotFoundError, match="holds no config.json of a CLIP model"):
        load_scorer(str(tmp_path))
