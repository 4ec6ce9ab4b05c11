"""Responses that a policy revises: each revision sees the prompt as it was and the response before."""

from pathlib import Path

import pytest

import prl.rollouts.prompts
from prl.config import ModelSource, Sampling
from prl.data import AnchoredPrompt
from prl.data.encoding import PromptEncoder
from prl.pairs.revising import RevisingSampler
from prl.rollouts.prompts import PromptSampler
from tests.helpers.tiny import write_tiny_model

TEMPLATE = "{prompt} {response} x"
SETTINGS = {"name": "", "max_prompt_length": 16, "seed": 3}


def prompts(*texts: str) -> list[AnchoredPrompt]:
    return [AnchoredPrompt([{"role": "user", "content": text}]) for text in texts]


def test_each_revision_is_asked_with_the_response_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, records = ModelSource(path=str(write_tiny_model(tmp_path))), prompts("ab", "copy {response}")
    sampler = PromptSampler(source, Sampling(4, per_prompt=2), records, **SETTINGS)
    asked, answered, draws = [], [], []
    generate, draw = prl.rollouts.prompts.generate, PromptSampler.draw

    def watched(model, tokenizer, batch, *rest, **named):
        rows = zip(batch.prompt_ids.tolist(), batch.prompt_mask.tolist(), strict=True)
        asked.append([tokenizer.decode([each for each, is_own in zip(*row, strict=True) if is_own]) for row in rows])
        rollout = generate(model, tokenizer, batch, *rest, **named)
        answered.append(rollout.texts)
        return rollout

    monkeypatch.setattr(prl.rollouts.prompts, "generate", watched)
    monkeypatch.setattr(PromptSampler, "draw", lambda self, *given: draws.append(given[1]) or draw(self, *given))
    revised = RevisingSampler(sampler, source, 2, TEMPLATE).sample(0, 2)
    assert len(asked) == len(set(draws)) == 3
    plain = [record.prompt[0]["content"] for record in records for _ in range(2)]
    for prompts_of, responses in zip(asked[1:], answered, strict=False):
        for prompt, response, words in zip(plain, responses, prompts_of, strict=True):
            # What the model reads is what the template makes of the question and this very response.
            quoted = f"{prompt} {response.strip()} x"
            assert words == alone(sampler, quoted), words
    # The judge sees the last responses behind the question itself.
    assert [text.strip() for text in answered[-1]] == revised.texts
    assert [each[0]["content"] for each in revised.batch.prompts] == plain
    assert revised.group.tolist() == [0, 0, 1, 1]
    # Without revisions nothing is asked again, and draws are those of the sampler.
    assert RevisingSampler(sampler, source, 0, TEMPLATE).sample(0, 2).texts == sampler.sample(0, 2).texts


def alone(sampler: PromptSampler, text: str) -> str:
    encoder = PromptEncoder(sampler.tokenizer, 64, needs_anchors=False)
    return sampler.tokenizer.decode(encoder.encode(prompts(text)[0])["ids"])


@pytest.mark.parametrize(
    ("revisions", "template", "message"),
    [
        (-1, TEMPLATE, "revisions is -1; expected 0 or more"),
        (1, "{response} x", "revision_prompt is '{response} x'; expected a text with {prompt} and {response}"),
        (1, f"{TEMPLATE} {'x' * 600}", "the longest prompt, revision_prompt and twice max_new_tokens"),
    ],
)
def test_revisions_that_cannot_be_asked_for_are_refused(revisions, template, message, tmp_path: Path) -> None:
    source = ModelSource(path=str(write_tiny_model(tmp_path)))
    sampler = PromptSampler(source, Sampling(4), prompts("ab"), **SETTINGS)
    with pytest.raises(ValueError, match=".*") as refused:
        RevisingSampler(sampler, source, revisions, template)
    assert message in str(refused.value)
