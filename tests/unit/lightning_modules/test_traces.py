"""Reward models that learn to call tools: rows with traces, what of them is learnt, and plain Bradley-Terry without."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from lightning_modules import BradleyTerryRewardModule, GenerativeRewardModule
from prl.config import ModelSource
from prl.data import PreferencePair
from prl.data.rows.row_errors import RowError
from prl.data.tokens import TooLongError
from prl.data.traces import encode_trace
from prl.models.language_scorer import load_language_scorer, read_rows
from prl.models.policy import model_inputs
from prl.objectives.reward import BradleyTerry, RewardObjective, ToolAugmented
from prl.rewards import ToolReward
from prl.rewards.folder import read_judge_file
from tests.helpers.reward import Ratings
from tests.helpers.tiny import tiny_tokenizer

PROMPT = ({"role": "user", "content": "12+30"},)
CALL = {"action": "sum", "input": "12+30", "observation": "42"}
TRACES = {
    "chosen_trace": [{"text": "Look.\n"}, CALL, {"text": "equal"}],
    "rejected_trace": [CALL, {"text": "not equal"}],
}
PAIRS = [
    PreferencePair(PROMPT, "42", "43", extra=TRACES),
    PreferencePair(PROMPT, "40+2", "4", 0.8, 2.0, extra={"chosen_trace": [], "rejected_trace": [{"text": "too low"}]}),
]
BARE = [
    PreferencePair(PROMPT, "42", "43", extra={"chosen_trace": [], "rejected_trace": []}),
    PreferencePair(PROMPT, "40+2", "4", 0.8, 2.0, extra={"chosen_trace": [], "rejected_trace": []}),
]


def made(folder: Any, objective: RewardObjective, **settings: Any) -> Any:
    torch.manual_seed(0)
    given = {"max_length": 200, "on_too_long": "error", **settings}
    module: Any = BradleyTerryRewardModule(ModelSource(path=str(folder)), objective=objective, **given)
    module.configure_model()
    module.log = lambda *_, **__: None  # there is no trainer
    return module


def batch_of(module: Any, pairs: list[PreferencePair]) -> dict[str, Any]:
    encoder = module.build_encoder()
    return encoder.collate([encoder.encode(pair) for pair in pairs])


# ---- rows


def test_a_row_is_response_trace_and_both_ends_and_answers_of_tools_are_not_learnt(tiny_folder: Any) -> None:
    module = made(tiny_folder, ToolAugmented())
    tokenizer, batch = tiny_tokenizer(), batch_of(module, PAIRS)
    whole = tokenizer.decode(batch["input_ids"][0][batch["attention_mask"][0]])
    call = "Action: sum\nAction Input: 12+30\nObservation:"
    assert whole == f"12+30\n42<eos>Look.\n{call} 42\nequal<eos>"
    assert tokenizer.decode(batch["input_ids"][0][batch["learnt"][0]]) == f"Look.\n{call}equal<eos>"
    assert tokenizer.decode(batch["input_ids"][2][batch["learnt"][2]]) == f"{call}not equal<eos>"
    assert not batch["learnt"][1].any()
    learns = batch_of(made(tiny_folder, ToolAugmented(learns_observations=True)), PAIRS)
    assert tokenizer.decode(learns["input_ids"][0][learns["learnt"][0]]) == f"Look.\n{call} 42\nequal<eos>"


def test_rows_without_traces_are_those_of_bradley_terry(tiny_folder: Any) -> None:
    found = batch_of(made(tiny_folder, ToolAugmented()), BARE)
    plain = batch_of(made(tiny_folder, BradleyTerry()), BARE)
    assert all(torch.equal(found[name], each) for name, each in plain.items())
    assert not found["learnt"].any()


def test_settings_that_decide_rows_are_hashed(tiny_folder: Any) -> None:
    objectives = [BradleyTerry(), ToolAugmented(), ToolAugmented(learns_observations=True)]
    assert len({made(tiny_folder, each).build_encoder().fingerprint for each in objectives}) == 3


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        (None, "missing column"),
        ("text", "no trace"),
        ([{"text": 1}], r"chosen_trace\[0\]"),
        ([{"text": "a"}, {"action": "sum"}], r"chosen_trace\[1\]"),
        ([{**CALL, "text": "both"}], r"chosen_trace\[0\]"),
        (["a"], r"chosen_trace\[0\]"),
        ([{**CALL, "input": "1\n2"}], "several lines"),
    ],
)
def test_traces_that_are_none(trace: Any, words: str, tiny_folder: Any) -> None:
    encoder = made(tiny_folder, ToolAugmented()).build_encoder()
    extra = {"chosen_trace": trace, "rejected_trace": []}
    with pytest.raises(RowError) as error:
        encoder.encode(PreferencePair(PROMPT, "42", "43", extra=extra))
    assert any(__import__("re").search(words, str(each)) for each in (error.value, vars(error.value)))


def test_keys_that_are_null_are_not_there(tiny_folder: Any) -> None:
    """As in a file whose column has one type."""
    filled = [{"text": None, **CALL}, {"text": "equal", "action": None, "input": None, "observation": None}]
    pair = PreferencePair(PROMPT, "42", "43", extra={"chosen_trace": filled, "rejected_trace": []})
    encoder = made(tiny_folder, ToolAugmented()).build_encoder()
    assert encoder.encode(pair)["chosen"][-len("equal") - 1 :] == [*tiny_tokenizer()("equal")["input_ids"], 1]


def test_a_trace_is_never_cut(tiny_folder: Any) -> None:
    _, learnt = encode_trace(tiny_tokenizer(), TRACES["chosen_trace"])
    length = len(learnt) + 1 + 9  # the end of sequence of the trace, and room for nine tokens
    long = PreferencePair(PROMPT, "4" * 30, "5" * 30, extra=TRACES)
    row = made(tiny_folder, ToolAugmented(), max_length=length, on_too_long="truncate").build_encoder().encode(long)
    assert len(row["chosen"]) == length
    assert sum(row["chosen_learnt"]) == sum(learnt) + 1
    encoder = made(tiny_folder, ToolAugmented(), max_length=40, on_too_long="truncate").build_encoder()
    with pytest.raises(TooLongError, match="traces are not cut"):
        encoder.encode(long)
    assert made(tiny_folder, ToolAugmented(), max_length=40, on_too_long="skip").build_encoder().encode(long) is None


# ---- what is learnt


def test_the_loss_is_cross_entropy_of_what_is_written_and_bradley_terry(tiny_folder: Any) -> None:
    module = made(tiny_folder, ToolAugmented(language_coef=0.7, ranking_coef=0.4))
    batch = batch_of(module, PAIRS)
    inputs = model_inputs(batch["input_ids"], batch["attention_mask"])
    logits = module.model.language(**inputs).logits[:, :-1]
    nll = []
    for row, ids, learnt in zip(logits, batch["input_ids"][:, 1:], batch["learnt"][:, 1:], strict=True):
        nll.append(cross_entropy(row[learnt], ids[learnt]) if learnt.any() else torch.zeros(()))
    margins = module.verdict(batch).margin_ab
    losses = []
    for n, target in enumerate([1.0, 0.8]):
        sides = [-torch.nn.functional.logsigmoid(sign * margins[n]) for sign in (1, -1)]
        losses.append(0.7 * (nll[n] + nll[n + 2]) / 2 + 0.4 * (target * sides[0] + (1 - target) * sides[1]))
    expected = (losses[0] + 2 * losses[1]) / 3
    assert module.training_step(batch, 0).item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("learns_observations", [False, True])
def test_answers_of_tools_get_no_gradient(learns_observations: bool, tiny_folder: Any) -> None:
    """The state before a token is what its likelihood depends on last: no other loss reads it there."""
    module = made(tiny_folder, ToolAugmented(learns_observations=learns_observations))
    batch = batch_of(module, PAIRS[:1])
    caught: list[torch.Tensor] = []
    head = module.model.language.get_output_embeddings()
    norm = module.model.language.model.norm
    hook = norm.register_forward_hook(lambda _, __, output: (output.retain_grad(), caught.append(output))[0])
    found = read_rows(module.model, batch["input_ids"], batch["attention_mask"], batch["learnt"])
    hook.remove()
    found.nll.sum().backward()
    gradient = caught[0].grad[:, :-1].abs().sum(-1) > 0
    assert torch.equal(gradient, batch["learnt"][:, 1:])
    text = tiny_tokenizer().decode(batch["input_ids"][0, 1:][~gradient[0] & batch["attention_mask"][0, 1:]])
    assert (" 42\n" in text) == (not learns_observations)
    assert head.weight.grad is not None


def test_without_text_and_traces_a_step_is_that_of_bradley_terry_to_the_last_bit(tiny_folder: Any) -> None:
    plain = made(tiny_folder, BradleyTerry())
    other = made(tiny_folder, ToolAugmented(language_coef=0.0, ranking_coef=1.0))
    with torch.no_grad():
        other.model.score.weight.copy_(plain.model.score.weight)
    losses = [module.training_step(batch_of(module, BARE), 0) for module in (plain, other)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    gradients = [dict(module.model.named_parameters()) for module in (plain, other)]
    for name, weight in gradients[0].items():
        twin = gradients[1]["score.weight" if name == "score.weight" else f"language.{name}"]
        assert torch.equal(weight.grad, twin.grad), name
    assert (
        gradients[1]["language.lm_head.weight"].grad is None or not gradients[1]["language.lm_head.weight"].grad.any()
    )


def test_the_folder_reads_a_given_trace_as_training_did(tiny_folder: Any, tmp_path: Any) -> None:
    module = made(tiny_folder, ToolAugmented())
    module.export(tmp_path / "reward")
    assert read_judge_file(tmp_path / "reward") == {"kind": "tool_reward", "max_length": 200}
    again = load_language_scorer(ModelSource(path=str(tmp_path / "reward")), new_head=False)
    batch = batch_of(module, PAIRS)
    rows = batch["input_ids"], batch["attention_mask"], batch["learnt"]
    for one, two in zip(read_rows(module.model, *rows), read_rows(again, *rows), strict=True):
        torch.testing.assert_close(one, two)
    with pytest.raises(ValueError, match="no reward model that calls tools"):
        load_language_scorer(ModelSource(path=str(tiny_folder)), new_head=False)
    assert ToolReward(str(tmp_path / "reward")).model_source() is not None


def test_who_cannot_serve_it_says_so(tiny_folder: Any) -> None:
    with pytest.raises(ValueError, match="ToolAugmented reads traces"):
        GenerativeRewardModule(ModelSource(path=str(tiny_folder)), objective=ToolAugmented())
    objective = Ratings()
    objective.needs_traces = True
    with pytest.raises(ValueError, match="behind which there is one score"):
        BradleyTerryRewardModule(ModelSource(path=str(tiny_folder)), objective=objective)
