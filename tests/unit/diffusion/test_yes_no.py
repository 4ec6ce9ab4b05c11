"""Judges that answer Yes or No: their loss, what they read, and how pictures are scored."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prl.config import LoRA, ModelSource
from prl.diffusion.rewards import ConsistencyReward, VisionJudge, WinRate
from prl.diffusion.rewards.vision_language import load_vision_language
from prl.diffusion.rewards.yes_no import yes_no_loss
from prl.models.location import ModelNotFoundError
from tests.helpers.pictures import ANSWERS, write_class_conditional, write_vision_language

QUESTIONS = ["a red circle ?", "the same ?", "?", "a red circle the same ?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vision_language(tmp_path_factory.mktemp("judge"))


def read(folder: Path) -> Any:
    return load_vision_language(ModelSource(path=str(folder)))


def pictures(count: int = 4) -> list[list[Tensor]]:
    """Pairs of pictures whose pixels are whole bytes."""
    draw = torch.Generator().manual_seed(1)
    return list(torch.randint(0, 256, (count, 2, 3, 8, 8), generator=draw) / 127.5 - 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("alpha", "expected"), [(0.1, 1.82), (0.25, 1.55), (1.0, 0.2)])
def test_the_loss_of_the_paper(alpha, expected) -> None:
    losses = torch.tensor([[0.2, 1.0, 2.0, 3.0, 9.0], [0.7, 9.0, 9.0, 9.0, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[True] * 4 + [False], [True] + [False] * 4])
    found = yes_no_loss(losses, mask, alpha)
    torch.testing.assert_close(found, torch.tensor([expected, 0.7], dtype=torch.float64), atol=1e-6, rtol=0)


def test_verdicts_are_those_of_transformers(folder) -> None:
    """Each question alone, by the processor and the model themselves."""
    judge, shown = read(folder), pictures()
    found = judge.log_odds(shown, QUESTIONS)
    tokenizer = judge.processor.tokenizer
    for row, (pair, question) in enumerate(zip(shown, QUESTIONS, strict=True)):
        text = f"<s><image> <image> {question} </s><s>"
        raw = [((each + 1) * 127.5).round().byte() for each in pair]
        inputs = judge.processor(text=[text], images=raw, return_tensors="pt", add_special_tokens=False)
        last = judge.model(**inputs).logits[0, -1]
        yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "No"))
        torch.testing.assert_close(found[row], last[yes] - last[no], atol=1e-5, rtol=1e-4)
    turned = judge.log_odds([[second, first] for first, second in shown], QUESTIONS)
    assert not torch.allclose(turned, found, atol=1e-5)


def test_losses_of_answers_are_those_of_transformers(folder) -> None:
    judge, shown = read(folder), pictures()
    losses, mask = judge.answer_losses(shown, QUESTIONS, ANSWERS)
    assert mask.sum(1).tolist() == [1, 6, 1, 5]
    assert (losses[~mask] == 0).all()
    for row, (pair, question, answer) in enumerate(zip(shown, QUESTIONS, ANSWERS, strict=True)):
        text = f"<s><image> <image> {question} </s><s>{answer}"
        raw = [((each + 1) * 127.5).round().byte() for each in pair]
        inputs = judge.processor(text=[text], images=raw, return_tensors="pt", add_special_tokens=False)
        labels = inputs["input_ids"].clone()
        labels[:, : -int(mask[row].sum())] = -100
        expected = judge.model(**inputs, labels=labels).loss
        torch.testing.assert_close(losses[row].sum() / mask[row].sum(), expected, atol=1e-5, rtol=1e-4)


class Counting:
    """Says the brightness of the first picture less that of the second, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def log_odds(self, shown: Any, questions: list[str]) -> Tensor:
        self.asked += questions
        return torch.stack([first.mean() - second.mean() for first, second in shown])


def test_a_picture_is_scored_by_all_pairs_of_its_figures(folder) -> None:
    reward = ConsistencyReward(str(folder), question="the same {prompt} {x} ?")
    model: Any = Counting()
    object.__setattr__(reward, "model", model)
    del reward._modules["model"]
    tones = torch.tensor([[0.1, 0.9], [0.4, -0.5]])
    image = tones.repeat_interleave(4, 0).repeat_interleave(4, 1).expand(1, 3, 8, 8)
    found = reward.score(image, ["a circle"])
    a, b, c, d = tones.flatten().tolist()
    gaps = torch.tensor([a - b, a - c, a - d, b - c, b - d, c - d])
    torch.testing.assert_close(found, gaps.sigmoid().mean()[None])
    assert model.asked == ["the same a circle {x} ?"] * 6  # four figures have six pairs
    with pytest.raises(ValueError, match="pictures of 8x9 have no grid of 2 x 2 equal figures"):
        reward.score(torch.zeros(1, 3, 8, 9), ["a circle"])


def test_a_vision_language_model_judges_pairs_of_a_prompt(folder) -> None:
    judge = VisionJudge(str(folder), question="{prompt} ?")
    images = torch.stack([picture for pair in pictures(2) for picture in pair])
    texts = ["a red circle", "a blue square"]
    direct = judge.model.log_odds([[images[0], images[1]]], ["a red circle ?"])
    torch.testing.assert_close(judge.compare(images[:1], images[1:2], texts[:1]), direct)
    group = torch.tensor([0, 0, 1, 1])
    found = WinRate(judge).scores(images, [texts[0]] * 2 + [texts[1]] * 2, group)
    torch.testing.assert_close(found.rewards.view(2, 2).sum(1), torch.ones(2))


def test_grey_pictures_are_read_and_clips_refused(folder) -> None:
    judge = read(folder)
    grey = [[each[:1] for each in pair] for pair in pictures()]
    coloured = [[each[:1].expand(3, -1, -1) for each in pair] for pair in pictures()]
    torch.testing.assert_close(judge.log_odds(grey, QUESTIONS), judge.log_odds(coloured, QUESTIONS))
    with pytest.raises(ValueError, match=r"has shape \[3, 5, 8, 8\]; a judge of pictures and text reads"):
        judge.log_odds([[torch.zeros(3, 5, 8, 8)]], ["?"])


def test_batches_change_nothing(folder) -> None:
    images = torch.stack([torch.cat(tuple(pair), -1) for pair in pictures()])
    whole, parts = (ConsistencyReward(str(folder), rows=1, question="{prompt} ?", batch_size=size) for size in (64, 3))
    texts = ["a red circle", "a blue square"] * 2
    torch.testing.assert_close(whole.score(images, texts), parts.score(images, texts))
    with pytest.raises(ValueError, match="VisionJudge.batch_size is 0"):
        VisionJudge(str(folder), "?", batch_size=0)


def test_settings_that_are_not_read_are_refused(folder) -> None:
    for name, value in (("tokenizer", "x"), ("chat_template_kwargs", {"a": 1})):
        with pytest.raises(ValueError, match=f"model.{name} is not read"):
            load_vision_language(ModelSource(path=str(folder), **{name: value}))


def test_adapters_are_trained_and_merged(folder, tmp_path) -> None:
    judge = load_vision_language(ModelSource(path=str(folder), lora=LoRA(rank=2, target_modules=["q_proj"])))
    torch.manual_seed(0)
    for parameter in judge.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    found = judge.log_odds(pictures(), QUESTIONS)
    judge.save(tmp_path, "the same ?")
    torch.testing.assert_close(read(tmp_path).log_odds(pictures(), QUESTIONS), found, atol=1e-5, rtol=1e-4)
    assert ConsistencyReward(str(tmp_path)).question == "the same ?"


def test_what_cannot_be_asked_is_refused(folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="ConsistencyReward.question is null"):
        ConsistencyReward(str(folder))
    with pytest.raises(ValueError, match="a grid of 1 x 1; expected two figures"):
        ConsistencyReward(str(folder), rows=1, columns=1, question="?")
    with pytest.raises(ModelNotFoundError, match="nowhere/at/all does not exist"):
        VisionJudge("nowhere/at/all", "?")
    with pytest.raises(ValueError, match="cannot be read as one of pictures and text"):
        VisionJudge(str(write_class_conditional(tmp_path)), "?")
    judge = read(folder)
    judge.processor.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        type(judge)(judge.model, judge.processor)
