"""A reward model that calls tools: who writes what, when it ends, and that a score is always there."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prl.config import ModelSource
from prl.data.traces import call_text
from prl.models.language_scorer import load_language_scorer, read_rows
from prl.rewards import ToolReward
from prl.rewards.base import load_frozen
from prl.rewards.tool_reward import save_tool_reward
from prl.tools import Calculator
from prl.types import PromptBatch
from tests.helpers.records import answered
from tests.helpers.tiny import tiny_tokenizer, write_tiny_model, write_tiny_reward_model

PROMPT = ({"role": "user", "content": "12+30"},)
TOKENIZER = tiny_tokenizer()
BATCH = PromptBatch(torch.ones(1, 2).long(), torch.ones(1, 2).bool(), [PROMPT], [()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    base = write_tiny_model(tmp_path_factory.mktemp("base"), 3)
    torch.manual_seed(0)
    model = load_language_scorer(ModelSource(path=str(base)))
    torch.nn.init.normal_(model.score.weight, std=0.3)
    save_tool_reward(made := tmp_path_factory.mktemp("reward"), model, TOKENIZER, 400)
    return str(made)


def loaded(folder: str, *, says: list[str] | None = None, **settings: Any) -> Any:
    """Load a reward; with `says`, what its model writes next each time, in place of what it would."""
    reward: Any = ToolReward(folder, **{"tools": {"sum": Calculator()}, **settings})
    load_frozen(reward, torch.nn.Module(), None)
    if says is not None:
        reward.read = []

        def continued(rows: list[list[int]], most: int, device: Any) -> list[list[int]]:
            reward.read.append([TOKENIZER.decode(row) for row in rows])
            text = says[min(len(reward.read), len(says)) - 1]
            return [TOKENIZER(text)["input_ids"][:most] for _ in rows]

        reward._continued = continued
    return reward


def scored(reward: Any, text: str) -> float:
    """Score a whole row by the model alone."""
    parts = [TOKENIZER(part)["input_ids"] for part in text.split("<eos>")]
    ids = torch.tensor([sum(([*part, TOKENIZER.eos_token_id] for part in parts[:-1]), [])])
    return float(read_rows(reward.model, ids, torch.ones_like(ids).bool(), None).logits[0, 0])


def test_the_answer_of_a_tool_stands_behind_the_call_and_the_score_behind_all(folder: str) -> None:
    reward = loaded(folder, says=[call_text("sum", "12+30"), "equal"])
    trace = f"{call_text('sum', '12+30')} 42\nequal"
    assert reward.traces([PROMPT], ["42"]) == [trace]
    assert reward.read == [["12+30\n42<eos>"], [f"12+30\n42<eos>{call_text('sum', '12+30')} 42\n"]]
    reward.read.clear()
    scores = reward.score(answered(BATCH, ["42"]))
    assert scores.rewards.tolist() == pytest.approx([scored(reward, f"12+30\n42<eos>{trace}<eos>")], abs=1e-5)
    assert {name: each.tolist() for name, each in scores.components.items()} == {"tool_calls": [1], "failed_calls": [0]}


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (("sum", "1/0"), "Error: division by zero"),
        (("abacus", "1"), "Error: there is no tool 'abacus'; there are sum"),
        (("sum", ""), "Error: '' is no arithmetic"),
    ],
)
def test_behind_a_failed_call_there_is_a_score(folder: str, call: tuple[str, str], answer: str) -> None:
    reward = loaded(folder, says=[call_text(*call), "so what"])
    assert reward.traces([PROMPT], ["42"]) == [f"{call_text(*call)} {answer}\nso what"]
    reward.read.clear()
    scores = reward.score(answered(BATCH, ["42"]))
    assert torch.isfinite(scores.rewards).all()
    assert scores.components["failed_calls"].tolist() == [1]


def test_calls_and_tokens_have_an_end(folder: str) -> None:
    again = call_text("sum", "1+1")
    reward = loaded(folder, says=[again], max_calls=2)
    assert reward.traces([PROMPT], ["42"]) == [f"{again} 2\n{again} 2\n{again}"]
    for most in range(2, 120, 13):
        reward = loaded(folder, says=[again], max_trace_tokens=most, max_calls=9)
        (trace,) = reward.traces([PROMPT], ["42"])
        assert len(TOKENIZER(trace)["input_ids"]) == most - 1
        assert f"{again} 2\n{again} 2\n{again} 2\n".startswith(trace)
    reward = loaded(folder, says=[call_text("sum", "10**40"), ""], max_observation=5)
    assert reward.traces([PROMPT], ["42"]) == [f"{call_text('sum', '10**40')} 10000\n"]


def test_without_tokens_for_a_trace_it_is_a_plain_reward(folder: str) -> None:
    reward = loaded(folder, max_trace_tokens=0)
    assert reward.rewards([PROMPT], ["42"]).tolist() == pytest.approx([scored(reward, "12+30\n42<eos>")], abs=1e-5)


def test_a_call_that_the_response_writes_is_not_answered(folder: str) -> None:
    reward = loaded(folder, says=["fine"])
    text = f"{call_text('sum', '1+1')} 9"
    assert reward.traces([PROMPT], [text]) == ["fine"]
    assert reward.score(answered(BATCH, [text])).components["tool_calls"].tolist() == [0]


def test_the_model_writes_greedily_and_rows_do_not_mind_each_other(folder: str) -> None:
    reward = loaded(folder, max_trace_tokens=24)
    texts = ["42", "a longer response", "7"]
    alone = [reward.traces([PROMPT], [text])[0] for text in texts]
    assert reward.traces([PROMPT] * 3, texts) == alone
    assert all(0 < len(TOKENIZER(trace)["input_ids"]) <= 23 for trace in alone)
    rewards = reward.rewards([PROMPT] * 3, texts)
    for text, trace, value in zip(texts, alone, rewards.tolist(), strict=True):
        assert value == pytest.approx(scored(reward, f"12+30\n{text}<eos>{trace}<eos>"), abs=1e-4)


def test_what_was_written_is_cut_at_the_call_and_at_the_end(folder: str) -> None:
    reward, end = loaded(folder), TOKENIZER.eos_token_id
    ids = TOKENIZER(call_text("sum", "1"))["input_ids"]
    padding = [TOKENIZER.pad_token_id] * 3
    assert reward._up_to_end([*ids, *padding], end) == ids
    assert reward._up_to_end([*ids[:4], end, *padding], end) == ids[:4]
    assert reward._up_to_end(ids[:5], end) == ids[:5]


@pytest.mark.parametrize("name", ["max_calls", "max_trace_tokens", "max_observation", "batch_size"])
def test_settings_out_of_range(name: str, folder: str) -> None:
    with pytest.raises(ValueError, match=f"ToolReward.{name} is -1"):
        ToolReward(folder, **{name: -1})  # type: ignore[arg-type]


def test_folders_that_are_no_such_model(folder: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds a bradley_terry judge"):
        ToolReward(str(write_tiny_reward_model(tmp_path / "bt", 0))).load()
    with pytest.raises(ValueError, match="leaves no room for a response"):
        ToolReward(folder, max_trace_tokens=399).load()
