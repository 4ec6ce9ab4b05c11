"""Models that transformers wrote, without any file of prl's, in the place of a reward model or judge."""

import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from prl.config import JudgeGate
from prl.judge import BradleyTerryJudge, ComparisonEncoder, GenerativeJudge, Judge, JudgeTemplate
from prl.judge.files import save_judge
from prl.judge.gate import check_judge
from prl.judge.passport import describe_judge
from prl.rewards import MultiHead, ScalarReward
from prl.rewards.folder import JUDGE_FILE, read_judge_file
from prl.rewards.plain_model import LONGEST
from tests.helpers.tiny import tiny_model, tiny_tokenizer

SIZES = {"max_position_embeddings": 2048}
PROMPTS, FIRST, SECOND = ["reverse dcab", "sort cab"], ["abcd", "abc"], ["bacd", "cab"]


def written(folder: Path, model: object) -> Path:
    model.save_pretrained(folder)  # type: ignore[attr-defined]
    tiny_tokenizer().save_pretrained(folder)
    return folder


def classifier(folder: Path, labels: int = 1) -> Path:
    return written(folder, tiny_model(2, AutoModelForSequenceClassification, num_labels=labels, **SIZES))


def turns(prompt: str, response: str | None = None) -> list[dict[str, str]]:
    answer = [] if response is None else [{"role": "assistant", "content": response}]
    return [{"role": "user", "content": prompt}, *answer]


@torch.no_grad()
def test_a_classifier_rewards_as_by_plain_transformers(tmp_path, caplog) -> None:
    folder = classifier(tmp_path / "rm")
    reward = ScalarReward(str(folder))
    with caplog.at_level(logging.WARNING):
        reward.load()
    assert [
        "has no prl_judge.json" in r.getMessage() and "up to 2048 tokens" in r.getMessage() for r in caplog.records
    ] == [True]
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = [tokenizer.apply_chat_template(turns(*each), tokenize=False) for each in zip(PROMPTS, FIRST, strict=True)]
    by_hand = [model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits.item() for text in texts]
    found = reward.rewards([turns(prompt) for prompt in PROMPTS], FIRST)
    torch.testing.assert_close(found, torch.tensor(by_hand))
    judge = BradleyTerryJudge(str(folder))
    judge.load()
    other = reward.rewards([turns(prompt) for prompt in PROMPTS], SECOND)
    compared = judge.compare([turns(prompt) for prompt in PROMPTS], FIRST, SECOND)
    torch.testing.assert_close(compared.win_logit, found - other)


def test_a_language_model_judges_as_one_with_the_default_template_does(tmp_path) -> None:
    plain = written(tmp_path / "lm", tiny_model(1, **SIZES))
    ours, tokenizer = tmp_path / "judge", tiny_tokenizer()
    save_judge(ours, tiny_model(1, **SIZES), tokenizer, ComparisonEncoder(tokenizer, JudgeTemplate(), 2048))
    found, expected = (Judge.from_pretrained(each).compare(PROMPTS, FIRST, SECOND) for each in (plain, ours))
    assert torch.equal(found.margin_ab, expected.margin_ab)
    assert torch.equal(found.margin_ba, expected.margin_ba)
    told, known = describe_judge(plain), describe_judge(ours)
    assert told["template_fingerprint"] == known["template_fingerprint"]


@pytest.mark.parametrize(
    "template", [None, {"text": "{{ prompt }}1{{ response_a }}2{{ response_b }}", "verdicts": ["x", "y"]}]
)
def test_a_file_written_by_hand_sets_length_and_template(tmp_path, template) -> None:
    folder = written(tmp_path / "lm", tiny_model(1, **SIZES))
    more = {} if template is None else {"template": template}
    (folder / JUDGE_FILE).write_text(json.dumps({"kind": "generative", "max_length": 700, **more}))
    judge = GenerativeJudge.from_pretrained(str(folder))
    assert judge.encoder is not None
    assert judge.encoder.max_length == 700
    assert judge.encoder.template.verdicts == (("A", "B") if template is None else ("x", "y"))


def test_a_language_model_of_another_name_is_one(tmp_path) -> None:
    sizes = {"model_type": "gpt2", "n_embd": 16, "n_head": 2, "n_layer": 1, "max_position_embeddings": 1024}
    folder = written(tmp_path / "gpt2", tiny_model(1, **sizes))
    assert read_judge_file(folder) == {"kind": "generative", "max_length": 1024}


def test_a_gguf_file_is_a_language_model_whatever_its_config_is_called(tmp_path, monkeypatch) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr("prl.rewards.plain_model.read_config", lambda source: tiny_model(1, **SIZES).config)
    assert read_judge_file(file) == {"kind": "generative", "max_length": 2048}
    with pytest.raises(ValueError, match="judge folder .*gone.gguf does not exist"):
        read_judge_file(tmp_path / "gone.gguf")


def test_a_model_for_long_texts_is_not_given_all_of_its_length(tmp_path) -> None:
    long = written(tmp_path / "lm", tiny_model(1, AutoModelForCausalLM, max_position_embeddings=1 << 20))
    assert read_judge_file(long) == {"kind": "generative", "max_length": LONGEST}


def test_a_judge_of_prl_that_lost_its_settings_is_not_taken_for_another_model(tmp_path) -> None:
    tokenizer, own = tiny_tokenizer(), JudgeTemplate(verdicts=("C", "D"))
    save_judge(tmp_path, tiny_model(1, **SIZES), tokenizer, ComparisonEncoder(tokenizer, own, 2048))
    settings = json.loads((tmp_path / JUDGE_FILE).read_text())
    for names in (("verdict_ids",), ("template", "verdict_ids")):
        lost = {name: settings[name] for name in settings if name not in names}
        (tmp_path / JUDGE_FILE).write_text(json.dumps(lost))
        with pytest.raises(ValueError, match="is damaged"):
            GenerativeJudge.from_pretrained(str(tmp_path))
    (tmp_path / JUDGE_FILE).unlink()
    with pytest.raises(ValueError, match=r"prl_judge.json does not exist, but judge_template.jinja .* copy the file"):
        GenerativeJudge.from_pretrained(str(tmp_path))


def test_several_labels_are_weighed_by_multi_head(tmp_path) -> None:
    folder = classifier(tmp_path / "three", 3)
    reward = MultiHead(str(folder), weights={"LABEL_0": 2.0, "LABEL_2": -1.0})
    reward.load()
    prompts = [turns(prompt) for prompt in PROMPTS]
    heads = reward.values(prompts, FIRST)
    torch.testing.assert_close(reward.rewards(prompts, FIRST), 2 * heads[:, 0] - heads[:, 2])


def test_an_encoder_is_refused_with_the_reason_unless_a_chat_template_says_how_it_reads(tmp_path) -> None:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "num_labels": 1, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="an encoder that reads in both directions"):
        read_judge_file(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert read_judge_file(tmp_path)["kind"] == "bradley_terry"


def test_what_is_no_reward_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(ValueError, match=r'classifier with 3 labels \(LABEL_0.*MultiHead.*"head_weights": \[a number'):
        ScalarReward(str(classifier(tmp_path / "three", 3))).load()
    with pytest.raises(ValueError, match="holds a generative judge, not a Bradley-Terry one"):
        ScalarReward(str(written(tmp_path / "lm", tiny_model(1, **SIZES)))).load()
    with pytest.raises(ValueError, match="holds a bradley_terry judge, not a generative one"):
        GenerativeJudge(str(classifier(tmp_path / "rm"))).load()


def test_the_gate_says_that_nothing_is_known_of_it_and_that_training_goes_on(tmp_path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        check_judge(ScalarReward(str(classifier(tmp_path / "rm"))), JudgeGate())
    told = [record.getMessage() for record in caplog.records]
    assert any("there is no rm_passport.json" in each for each in told)
    assert "training goes on all the same" in told[-1]
