"""Responses behind one copy of their prompt: the numbers and gradients of plain rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prl.config import LoRA, ModelSource
from prl.models.actor_critic import Sharing, evaluate, evaluate_critic, evaluate_frozen
from prl.models.adapters import adapter_parameters
from prl.models.critic import AdapterCritic, Critic, ValueHead
from prl.models.loading import load_causal_lm
from prl.models.prefix_sharing.prompt_attention import install
from prl.models.prefix_sharing.rollouts import PromptSharing
from prl.models.prefix_sharing.tree_attention import PrefixSharingError
from prl.types import PromptBatch, Rollout
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.tiny import tiny_model

PROMPTS = [[5, 6, 7, 8, 9], [9, 8], [11]]
ROWS = [
    (0, [5, 6, 7], "ooo"),
    (0, [5, 6, 7], "ooo"),  # equal to the one before
    (1, [8], "o"),
    (2, [4, 4], "oo"),  # alone with its prompt
    (1, [3, 4, 5, 6, 7, 8], "oooooo"),
    (0, [5, 6], ".."),  # does not count
    (0, [7], "o"),
    (1, [6, 7, 5, 5, 9], "o..o."),  # an environment's turns
    (0, [3, 5, 8, 9], "..oo"),  # the beginning of another response
]
"""Prompt, tokens of the response, and which of them are the policy's own (o)."""


def rollout(rows: Sequence[tuple[int, list[int], str]] = ROWS, prompts: Sequence[list[int]] = PROMPTS) -> Rollout:
    texts = [prompts[number] for number, _, _ in rows]
    width, behind = max(map(len, texts)), max(len(ids) for _, ids, _ in rows)
    prompt_ids, ids = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), behind, dtype=torch.long)
    prompt_mask, context, own = prompt_ids.bool(), ids.bool(), ids.bool()
    for row, (prompt, (_, response, marks)) in enumerate(zip(texts, rows, strict=True)):
        prompt_ids[row, width - len(prompt) :], prompt_mask[row, width - len(prompt) :] = torch.tensor(prompt), True
        ids[row, : len(response)], context[row, : len(response)] = torch.tensor(response), True
        own[row, : len(response)] = torch.tensor([mark == "o" for mark in marks])
    nothing: Any = [()] * len(rows)
    group = torch.tensor([number for number, _, _ in rows])
    batch = PromptBatch(prompt_ids, prompt_mask, nothing, nothing, group=group)
    made = Rollout(batch, ids, own, own[:, 0], [""] * len(rows), behind, context_mask=context)
    return made.without(~own.any(1))


@pytest.fixture(params=["none", "own", "shared", "adapter"])
def models(request: pytest.FixtureRequest, tiny_folder: Path) -> tuple[Any, Any]:
    """Make a policy, and a critic of each kind whose head says something, in double precision."""
    kind, critic = request.param, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind != "adapter":
            policy = tiny_model(1, num_key_value_heads=1).double()
        else:
            policy = load_causal_lm(ModelSource(path=str(tiny_folder), lora=LoRA(rank=2))).double()
        if kind == "own":
            critic = Critic(tiny_model(3).model)
        elif kind != "none":
            critic = AdapterCritic(policy) if kind == "adapter" else ValueHead(policy.config.hidden_size)
        if kind == "adapter":
            for name, parameter in policy.named_parameters():
                if "lora_" in name:
                    parameter.data.normal_(std=0.3)
            assert adapter_parameters(policy, AdapterCritic.NAME)
        if critic is not None:
            torch.nn.init.normal_((critic if kind == "shared" else critic.head).weight)
            critic = critic.double()
    return policy.double(), critic


def gradients(policy: Any, critic: Any, sharing: Sharing, made: Rollout) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return what is computed of a rollout, and the gradient of a loss of all of it."""
    found = [
        each
        for each in evaluate(policy, critic, made, temperature=0.7, with_entropy=True, sharing=sharing)
        if each is not None
    ]
    weights = torch.rand(made.response_ids.shape, generator=torch.Generator().manual_seed(1))
    sum((each * weights).sum() * (n + 1) for n, each in enumerate(found)).backward()  # type: ignore[union-attr]
    modules = torch.nn.ModuleList([policy] if critic is None else [policy, critic])
    grads = {name: each.grad.clone() for name, each in modules.named_parameters() if each.grad is not None}
    modules.zero_grad()
    return [each.detach() for each in found], grads


def test_numbers_and_gradients_are_those_of_plain_rows(models: tuple[Any, Any]) -> None:
    policy, critic = models
    made, sharing = rollout(), Sharing.of("on")
    expected, plain = gradients(policy, critic, Sharing.of("off"), made)
    found, shared = gradients(policy, critic, sharing, made)
    assert sharing.policy.tokens.computed < sharing.policy.tokens.plain
    assert len(found) == (2 if critic is None else 3)
    for one, other in zip(found, expected, strict=True):
        assert not one[~made.response_mask].any()
        assert_same_numbers(one, other)
    assert shared.keys() == plain.keys()
    for name, gradient in plain.items():
        # Heads compute in float32, whose rounding is relative to the whole gradient.
        assert torch.linalg.vector_norm(shared[name] - gradient) <= 1e-6 * torch.linalg.vector_norm(gradient), name
    if critic is not None:
        values = evaluate_critic(policy, critic, made, sharing)
        assert_same_numbers(values, expected[1])
    frozen = evaluate_frozen(policy, made, temperature=0.7, sharing=sharing.policy)
    assert torch.equal(frozen, found[0])


def test_the_same_micro_batch_gives_the_same_bits() -> None:
    policy, sharing = tiny_model(1).train(), Sharing.of("on")
    with torch.no_grad():
        before, _, _ = evaluate(policy, None, rollout(), temperature=0.7, sharing=sharing)
    now, _, _ = evaluate(policy, None, rollout(), temperature=0.7, sharing=sharing)
    assert torch.equal(now.detach(), before)


ONE, TRIED = tiny_model(1).double(), Sharing.of("on")


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_rollout_reads_alike(data: st.DataObject) -> None:
    tokens = st.integers(5, 9)
    prompts = data.draw(st.lists(st.lists(tokens, min_size=1, max_size=4), min_size=1, max_size=3))
    response = st.lists(st.tuples(tokens, st.sampled_from("oo.")), min_size=1, max_size=5)
    drawn = data.draw(
        st.lists(st.tuples(st.integers(0, len(prompts) - 1), response), min_size=1, max_size=7).filter(
            lambda rows: any(mark == "o" for _, some in rows for _, mark in some)
        )
    )
    rows = [(number, [each for each, _ in some], "".join(mark for _, mark in some)) for number, some in drawn]
    made = rollout(rows, prompts)
    expected, _, _ = evaluate(ONE, None, made, temperature=1.0)
    found, _, _ = evaluate(ONE, None, made, temperature=1.0, sharing=TRIED)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_each_token_is_computed_once_up_to_the_last_that_is_needed() -> None:
    sharing = PromptSharing("on")
    row = sharing.row(tiny_model(1), rollout())
    assert row is not None
    prompts = [5, 6, 7, 8, 9, 9, 8, 11]
    responses = [5, 6, 5, 6, 3, 5, 8, 3, 4, 5, 6, 7, 6, 7, 5, 4]  # [7] and [8] need their prompts alone
    assert row.input_ids[0].tolist() == prompts + responses
    assert row.position_ids[0].tolist() == [*range(5), *range(2), 0, 5, 6, 5, 6, 5, 6, 7, 2, 3, 4, 5, 6, 2, 3, 4, 1]
    assert sharing.tokens.computed == len(prompts + responses)
    assert sharing.tokens.plain == sum(len(PROMPTS[n]) + (len(ids) if "o" in marks else 0) for n, ids, marks in ROWS)


def test_prompts_of_their_own_are_read_plainly_to_the_bit() -> None:
    rows = [(0, [5, 6], "oo"), (1, [7, 8, 9], "ooo"), (2, [5], "o")]
    sharing, policy = Sharing.of("on"), tiny_model(1)
    found, _, _ = evaluate(policy, None, rollout(rows), temperature=1.0, sharing=sharing)
    expected, _, _ = evaluate(policy, None, rollout(rows), temperature=1.0)
    assert torch.equal(found, expected)
    assert sharing.policy.tokens.cached_token_fraction == 0


@pytest.mark.parametrize("marks", [".", "o"])
def test_one_token_responses_and_those_that_do_not_count(marks: str) -> None:
    """Neither leaves a token behind the prompt."""
    made, policy = rollout([(0, [5], marks), (0, [6], marks)]), tiny_model(1)
    found, _, _ = evaluate(policy, None, made, temperature=1.0, sharing=Sharing.of("on"))
    expected, _, _ = evaluate(policy, None, made, temperature=1.0)
    assert_same_numbers(found, expected)
    assert bool(found.any()) == (marks == "o")


def test_a_model_that_caps_its_logits_reads_alike() -> None:
    policy = tiny_model(1)
    expected = evaluate(policy, None, rollout(), temperature=2.0, with_entropy=True)
    policy._prl_head_is_last = False
    found = evaluate(policy, None, rollout(), temperature=2.0, with_entropy=True, sharing=Sharing.of("on"))
    for one, other in ((found[0], expected[0]), (found[2], expected[2])):
        assert one is not None
        assert other is not None
        assert_same_numbers(one, other)


def test_layers_that_run_again_see_the_same_blocks(tiny_folder: Path) -> None:
    found = []
    for checkpointing in (False, True):
        source = ModelSource(path=str(tiny_folder), gradient_checkpointing=checkpointing)
        found.append(gradients(load_causal_lm(source).train(), None, Sharing.of("on"), rollout())[1])
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.equal(found[1][name], gradient), name


FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 512},
    "qwen3": {},
    "gemma3_text": {"head_dim": 8, "sliding_window": 64},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_read_alike(family: str) -> None:
    policy, sharing = tiny_model(1, model_type=family, **FAMILIES[family]), Sharing.of("on")
    found, _, _ = evaluate(policy, None, rollout(), temperature=1.0, sharing=sharing)
    expected, _, _ = evaluate(policy, None, rollout(), temperature=1.0)
    assert sharing.policy.tokens.computed < sharing.policy.tokens.plain
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_mixed_precision_gives_the_same_bits_in_scoring_and_update() -> None:
    policy, sharing = tiny_model(1), Sharing.of("on")
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            before, _, _ = evaluate(policy, None, rollout(), temperature=1.0, sharing=sharing)
        now, _, _ = evaluate(policy, None, rollout(), temperature=1.0, sharing=sharing)
    assert torch.equal(now.detach(), before)
    now.sum().backward()


# ---- when


def test_auto_shares_where_it_is_less_work() -> None:
    model = tiny_model(1, hidden_size=64)
    long, short = [(0, [5] * 30, "o" * 30)] * 2, [(0, [5, 6], "oo")] * 2
    for mode, rows, expected in (("auto", long, False), ("on", long, True), ("auto", short, True)):
        assert (
            PromptSharing(mode).row(model, rollout(rows, [[5]] if rows is long else PROMPTS)) is not None
        ) == expected


def test_a_window_that_a_row_does_not_fit_into_is_read_plainly() -> None:
    model = tiny_model(1, model_type="mistral", sliding_window=6)
    fits, beyond = [(0, [5], "o")] * 2, [(0, [5, 6], "oo")] * 2
    sharing = PromptSharing("on")
    assert sharing.row(model, rollout(fits)) is not None
    assert sharing.row(model, rollout(beyond)) is None


class Deaf(torch.nn.Module):
    """A language model that does not pass on what it does not know."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.get_input_embeddings, self.get_output_embeddings = (
            model.get_input_embeddings,
            model.get_output_embeddings,
        )

    def forward(self, prompt_blocks: Any = None, **inputs: Any) -> Any:
        return self.model(**inputs)


def test_a_model_that_cannot_is_read_plainly_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    eager = tiny_model(1)
    eager.set_attn_implementation("eager")
    for model, words in ((eager, "takes no blocks"), (Deaf(tiny_model(1)), "does not read responses behind one")):
        assert PromptSharing("auto").row(model, rollout()) is None
        assert words in caplog.text
        with pytest.raises(PrefixSharingError, match=r"update\.packed is on, but"):
            PromptSharing("on").row(model, rollout())


def test_other_passes_go_through_unchanged() -> None:
    model, ids = tiny_model(1), torch.arange(5, 14)[None]
    before = model(ids).logits
    install()
    install()
    assert torch.equal(model(ids).logits, before)
