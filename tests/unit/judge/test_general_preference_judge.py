"""The judge of embeddings: what it reads, what its folder says, and the stage that trains it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from lightning_modules import BradleyTerryRewardModule, GenerativeRewardModule
from lightning_modules.estimates import plan_memory
from prl.config import ModelSource
from prl.data.rows.row_errors import RowError
from prl.judge import BradleyTerryJudge, GeneralPreferenceJudge, load_judge
from prl.judge.general_preference import save_general_preference
from prl.judge.passport import describe_judge
from prl.models.loading import load_scalar_classifier
from prl.models.model_card import write_card
from prl.objectives.reward import BradleyTerry, GeneralPreference, PairBatch, RewardObjective
from prl.objectives.skew_symmetric import SkewSymmetric
from prl.rewards import ScalarReward
from prl.rewards.base import load_frozen
from prl.rewards.folder import JUDGE_FILE, outputs_of, read_judge_file
from tests.helpers.records import answered
from tests.helpers.tiny import tiny_model, tiny_tokenizer
from tests.unit.lightning_modules.test_reward_objectives import PAIRS, PROMPT, SOURCE, batch_of, made
from tests.unit.rewards.test_ensemble import prompts

OTHER = ({"role": "user", "content": "copy abc, and then some more"},)
BOTH = [SkewSymmetric(4, 0.5), SkewSymmetric(6, 2.0, normalize=True, prompt_head=True)]


def written(folder: Path, operator: SkewSymmetric, seed: int = 2) -> Path:
    model = tiny_model(seed, AutoModelForSequenceClassification, num_labels=operator.outputs)
    torch.nn.init.normal_(model.score.weight, std=0.3)
    save_general_preference(folder, model, tiny_tokenizer(), 96, operator=operator)
    return folder


@pytest.fixture(scope="module", params=BOTH, ids=["plain", "prompt head"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("gpm"), request.param)


def loaded(folder: Path, **settings: Any) -> Any:
    judge = GeneralPreferenceJudge(str(folder), **settings)
    judge.load()
    return judge


def last_outputs(judge: Any, prompt: Any, response: str | None) -> torch.Tensor:
    """Compute the outputs at the last token of a text that is read alone, by hand: [H]."""
    row = judge.encoder.encode_response(prompt, response or "")
    ids = row["ids"] if response is not None else row["ids"][: -row["num_response"]]
    hidden = judge.model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    return judge.model.score(hidden)


def test_a_margin_is_that_of_two_embeddings_and_the_blocks_of_the_prompt(folder: Path) -> None:
    judge = loaded(folder)
    operator = judge.operator
    with torch.no_grad():
        found = judge.margins([(PROMPT, "abc", "b"), (OTHER, "abc", "a" * 30)])
        for place, (prompt, u, v) in enumerate([(PROMPT, "abc", "b"), (OTHER, "abc", "a" * 30)]):
            first, second = (last_outputs(judge, prompt, text)[: operator.dim].double() for text in (u, v))
            if operator.normalize:
                first, second = first / first.norm(), second / second.norm()
            scores = [
                first[2 * m] * second[2 * m + 1] - first[2 * m + 1] * second[2 * m] for m in range(operator.dim // 2)
            ]
            if operator.prompt_head:
                said = last_outputs(judge, prompt, None)[operator.dim :].double() / 4  # sqrt of 16 hidden numbers
                scores = [3 * weight * score for weight, score in zip(said.softmax(0), scores, strict=True)]
            assert found[place].item() == pytest.approx(float(sum(scores)) / operator.tau, abs=1e-4)


def test_padding_and_batch_mates_change_nothing_and_orders_agree(folder: Path) -> None:
    texts = ["abc", "b", "a" * 40, "ddca"]
    comparisons = [(p, u, v) for p in (PROMPT, OTHER) for u in texts for v in texts]
    together, alone = loaded(folder).margins(comparisons), loaded(folder, batch_size=1).margins(comparisons)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    square = together.view(2, 4, 4)
    assert torch.equal(square, -square.transpose(1, 2))
    assert not torch.equal(square[0], square[1])


def test_every_response_is_read_once_and_every_prompt_once_more(folder: Path) -> None:
    judge = loaded(folder)
    rows, read = [], judge._read
    judge._read = lambda some, device: (rows.extend(tuple(row["ids"]) for row in some), read(some, device))[1]
    texts = [f"{a}{b}" for a in "abcd" for b in "abcd"]
    pairs = [(u, v) for u in texts for v in texts if u < v]
    judge.compare([PROMPT] * len(pairs), [u for u, _ in pairs], [v for _, v in pairs])
    assert len(rows) == len(set(rows)) == 16 + judge.operator.prompt_head


def test_as_a_reward_it_is_the_probability_to_beat_the_anchors(folder: Path) -> None:
    judge = loaded(folder)
    load_frozen(judge, torch.nn.Linear(1, 1), None)
    batch = prompts(("b", "abc"), ("ab",))
    found = judge.score(answered(batch, [" abc ", "ba"]))
    margins = judge.margins([(batch.prompts[0], "abc", "b"), (batch.prompts[1], "ba", "ab")])
    assert found.rewards.tolist() == pytest.approx(
        [(float(margins[0].sigmoid()) + 0.5) / 2, float(margins[1].sigmoid())], abs=1e-6
    )
    assert judge.needs_anchors
    assert found.verdict is not None
    assert found.verdict.order_gap.max() < 1e-6


def test_a_folder_is_read_and_written_again(folder: Path, tmp_path: Path) -> None:
    judge: Any = load_judge(folder)
    assert isinstance(judge, GeneralPreferenceJudge)
    judge.save_pretrained(tmp_path)
    assert read_judge_file(tmp_path) == read_judge_file(folder)
    assert outputs_of(read_judge_file(folder)) == judge.model.config.num_labels
    comparisons = [(PROMPT, "abc", "b"), (OTHER, "b", "dca")]
    assert torch.equal(loaded(tmp_path).margins(comparisons), judge.margins(comparisons))
    described = describe_judge(folder)
    assert described["preference"] == read_judge_file(folder)["preference"]
    settings = {"model": {"class_path": "x.BradleyTerryRewardModule", "init_args": {"model": {"path": "base"}}}}
    write_card(tmp_path, "general_preference", settings)
    told = (tmp_path / "README.md").read_text()
    assert f"logits[0, :{judge.operator.dim}]" in told
    assert f"sigmoid(score / {judge.operator.tau})" in told
    assert ("before each block is weighed" in told) == judge.operator.prompt_head
    with pytest.raises(
        ValueError, match="holds a general preference judge, not a Bradley-Terry one; name the class Gen"
    ):
        ScalarReward(str(folder)).load()


DAMAGE: dict[str, Any] = {
    "preference is missing": None,
    "preference is": {"dim": 4},
    "preference.dim and tau are": {"dim": "4"},
    "preference.normalize is": {"normalize": 1},
    "GeneralPreference.dim is 5": {"dim": 5},
    "GeneralPreference.tau is 0": {"tau": 0},
}


@pytest.mark.parametrize("words", DAMAGE)
def test_a_damaged_folder_is_named(words: str, tmp_path: Path) -> None:
    good = {"dim": 4, "tau": 0.5, "normalize": False, "prompt_head": False}
    change = DAMAGE[words]
    wrong = change if change is None or words == "preference is" else {**good, **change}
    file = {"kind": "general_preference", "max_length": 9, "preference": wrong}
    (tmp_path / JUDGE_FILE).write_text(json.dumps({name: each for name, each in file.items() if each is not None}))
    with pytest.raises(ValueError, match=f"{JUDGE_FILE} is damaged .{words}"):
        read_judge_file(tmp_path)


def test_a_bradley_terry_folder_is_no_general_preference(tmp_path: Path) -> None:
    from prl.judge.bradley_terry import save_bradley_terry

    save_bradley_terry(tmp_path, tiny_model(0, AutoModelForSequenceClassification, num_labels=1), tiny_tokenizer(), 64)
    with pytest.raises(
        ValueError, match="holds a Bradley-Terry judge, not a general preference one; name the class Sc"
    ):
        loaded(tmp_path)
    assert isinstance(load_judge(tmp_path), BradleyTerryJudge)


# ---- the stage


@pytest.mark.parametrize("prompt_head", [False, True])
def test_what_is_trained_is_what_is_exported(prompt_head: bool, tiny_folder: Any, tmp_path: Path) -> None:
    module = made(BradleyTerryRewardModule, tiny_folder, GeneralPreference(4, 0.7, prompt_head=prompt_head))
    assert module.model.score.weight.std() < 0.1  # 1 / 17, where the model's own is 0.3
    torch.nn.init.normal_(module.model.score.weight, std=0.3)
    batch = batch_of(module)
    assert batch["input_ids"].shape[0] == (6 if prompt_head else 4)
    verdict = module.verdict(batch)
    assert torch.equal(verdict.margin_ab, -verdict.margin_ba)
    module.export(tmp_path)
    margins = loaded(tmp_path).margins([(pair.prompt, pair.chosen, pair.rejected) for pair in PAIRS])
    torch.testing.assert_close(margins, verdict.margin_ab.detach(), atol=1e-5, rtol=1e-5)
    losses = [-torch.nn.functional.logsigmoid(sign * margins) for sign in (1, -1)]
    targets = batch["targets"]
    each = targets * losses[0] + (1 - targets) * losses[1]
    expected = (each[0] + 2 * each[1]) / 3  # weights of the pairs
    loss = module.training_step(batch, 0)
    assert loss.item() == pytest.approx(float(expected), abs=1e-5)
    loss.backward()
    moves = module.model.score.weight.grad.abs().sum(1)
    assert len(moves) == (6 if prompt_head else 4)
    assert (moves > 0).all()


def test_a_new_head_begins_small_and_a_trained_one_is_kept(tiny_folder: Any, folder: Path) -> None:
    torch.manual_seed(0)
    source = ModelSource(path=str(tiny_folder))
    wide = load_scalar_classifier(source, heads=4000)
    small = load_scalar_classifier(source, heads=4000, small_head=True)
    assert small.score.weight.std().item() == pytest.approx(1 / 17, rel=0.02)
    assert small.score.bias is None
    assert wide.score.weight.std().item() > 0.2
    assert torch.equal(small.model.embed_tokens.weight, wide.model.embed_tokens.weight)
    fresh = ModelSource(config={**LLAMA_CONFIG}, tokenizer=str(tiny_folder))
    assert load_scalar_classifier(fresh, heads=4000, small_head=True).score.weight.std().item() == pytest.approx(
        1 / 17, rel=0.02
    )
    again = ModelSource(path=str(folder))
    heads = outputs_of(read_judge_file(folder))
    kept = load_scalar_classifier(again, heads=heads, small_head=True)
    assert torch.equal(kept.score.weight, loaded(folder).model.score.weight)


LLAMA_CONFIG = {
    **{"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.3},
}


def test_prompts_by_themselves_are_cut_like_prompts_and_change_the_hash_of_rows(tiny_folder: Any) -> None:
    plain, read = (
        made(BradleyTerryRewardModule, tiny_folder, GeneralPreference(prompt_head=head)).build_encoder()
        for head in (False, True)
    )
    other = made(BradleyTerryRewardModule, tiny_folder, BradleyTerry()).build_encoder()
    assert plain.fingerprint == other.fingerprint != read.fingerprint
    row = read.encode(PAIRS[0])
    assert row["chosen"][: len(row["alone"])] == row["alone"]
    assert "alone" not in plain.encode(PAIRS[0])
    read.max_length, counted = 12, read.counts.truncated_fraction
    short = read.encode_alone(({"role": "user", "content": "abcdefgh" * 9},))
    assert len(short) == 11
    assert read.counts.truncated_fraction == counted
    read.tokenizer.chat_template = None
    with pytest.raises(RowError, match="no token"):
        read.encode_alone(({"role": "user", "content": ""},))


class Both(GeneralPreference):
    """Declares rewards beside its embeddings."""

    head_weights = (1.0,)


def test_embeddings_are_of_scalar_models(tiny_folder: Any) -> None:
    refused: list[tuple[Any, RewardObjective, str]] = [
        (
            GenerativeRewardModule,
            GeneralPreference(),
            "GeneralPreference compares embeddings .*BradleyTerryRewardModule",
        ),
        (BradleyTerryRewardModule, Both(), "Both names both an operator and head_weights"),
    ]
    for stage, objective, words in refused:
        with pytest.raises(ValueError, match=words):
            stage(SOURCE, objective=objective)
    with pytest.raises(ValueError, match="prompt_blocks"):
        PairBatch(torch.ones(1, 2), torch.ones(1, 2).bool(), torch.ones(2), prompt_blocks=torch.ones(3, 2))


def test_memory_counts_the_prompts(tiny_folder: Any) -> None:
    plans = [
        plan_memory(BradleyTerryRewardModule(ModelSource(path=str(tiny_folder)), objective=each, max_length=64), 8)
        for each in (GeneralPreference(), GeneralPreference(prompt_head=True))
    ]
    assert plans[1].working["train"] > 1.3 * plans[0].working["train"]
