"""Token guides: the figures of RTO, what the tokens get beside the response, and who reads which ids."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM

from lightning_modules import PairwisePPOModule
from prl.advantages.base import TokenRewards
from prl.advantages.gae import GAE
from prl.config import KLPenalty, ModelSource, Sampling
from prl.models.loading import on_meta_device
from prl.models.offload import Offload
from prl.rewards import ImplicitReward, RuleReward, TokenGuide, WeightedReward
from prl.rewards.base import RewardSource, load_frozen
from prl.rewards.shapers import Ceiling
from prl.rewards.shapers.base import shape
from prl.rewards.token_guide import guidance
from prl.rl.experience import build_experience
from prl.rl.judging import Judging
from prl.rl.sharding import Sharding
from prl.types import PromptBatch, Rollout, Scores
from tests.helpers.records import ragged_mask
from tests.helpers.tiny import tiny_tokenizer, write_tiny_model

GUIDE = torch.tensor([[-0.9, -1.5, -0.3]], dtype=torch.float64)
REFERENCE = torch.tensor([[-1.4, -1.0, -0.35]], dtype=torch.float64)
POLICY = torch.tensor([[-1.0, -1.1, -0.2]], dtype=torch.float64)


def test_the_figures_of_three_tokens() -> None:
    dense = guidance(GUIDE - REFERENCE, 0.05, 0.05)
    mask = torch.ones(1, 3, dtype=torch.bool)
    found = TokenRewards(torch.tensor([1.3]), dense, POLICY, REFERENCE, mask, 0.01, "k1").per_token()
    assert found[0].tolist() == pytest.approx([0.021000, -0.024000, 1.301000], abs=1e-6)


def test_the_scale_comes_before_the_clip() -> None:
    ratio = torch.tensor([[3.0, -3.0, 0.5]])
    assert guidance(ratio, 0.05, 0.05)[0].tolist() == pytest.approx([0.05, -0.05, 0.025])
    assert guidance(ratio, 0.05, None)[0].tolist() == pytest.approx([0.15, -0.15, 0.025])


@given(said=st.lists(st.tuples(st.floats(-20, 0), st.floats(-20, 0)), min_size=1, max_size=8), scale=st.floats(0, 2))
def test_without_a_clip_the_tokens_add_up_to_the_log_ratio_of_the_response(said: Any, scale: float) -> None:
    guide, reference = torch.tensor(said, dtype=torch.float64).T
    dense = guidance((guide - reference)[None], scale, None)
    torch.testing.assert_close(dense.sum(), scale * (guide.sum() - reference.sum()))
    assert guidance((guide - reference)[None], scale, 0.05).abs().max() <= 0.05


# ---- the source


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("policies")
    return {name: str(write_tiny_model(root / name, seed)) for name, seed in (("guide", 1), ("reference", 2))}


def length(prompt: Any, response: str, row: dict[str, Any]) -> float:
    return float("nan") if response == "nan" else float(len(response))


def rollout() -> Rollout:
    """Three responses of random tokens, of different lengths, to prompts of different lengths."""
    random = torch.Generator().manual_seed(5)
    prompts = ragged_mask([2, 4, 3], 4).flip(1)
    mask = ragged_mask([3, 6, 1], 6)
    ids = [torch.randint(4, 20, each.shape, generator=random) for each in (prompts, mask)]
    batch = PromptBatch(ids[0] * prompts, prompts, [()] * 3, [()] * 3)
    return Rollout(batch, ids[1] * mask, mask, torch.ones(3, dtype=torch.bool), ["abc", "a", "nan"], 6)


def loaded(folders: dict[str, str], reward: RewardSource | None = None, **settings: Any) -> TokenGuide:
    given = {"guide": folders["guide"], "reference": folders["reference"], **settings}
    source = TokenGuide(reward or RuleReward(length), **given)
    for leaf in source.leaves():
        leaf.attach_tokenizer(tiny_tokenizer(), 16)
    load_frozen(source, torch.nn.Linear(1, 1), None)
    return source


def log_ratio(folders: dict[str, str], rows: Rollout) -> Tensor:
    """By transformers alone, a response at a time: [B, T]."""
    said = []
    for name in ("guide", "reference"):
        model = AutoModelForCausalLM.from_pretrained(folders[name]).eval()
        found = torch.zeros(rows.response_ids.shape)
        for row in range(len(rows)):
            prompt = rows.prompt_ids[row][rows.prompt_mask[row]]
            response = rows.response_ids[row][rows.response_mask[row]]
            with torch.no_grad():
                logits = model(input_ids=torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
            found[row, : len(response)] = logits.log_softmax(-1).gather(1, response[:, None])[:, 0]
        said.append(found)
    return said[0] - said[1]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_tokens_get_the_clipped_log_ratio_and_responses_the_other_reward(
    batch_size: int, folders: dict[str, str]
) -> None:
    rows = rollout()
    found = loaded(folders, scale=0.3, clip=0.4, batch_size=batch_size).score(rows)
    expected = (0.3 * log_ratio(folders, rows)).clamp(-0.4, 0.4)
    assert found.token_rewards is not None
    torch.testing.assert_close(found.token_rewards, expected, atol=1e-5, rtol=0)
    assert (expected[rows.response_mask].abs() < 0.4).any()
    assert (expected.abs() == 0.4).any()
    assert found.rewards[:2].tolist() == [3.0, 1.0]
    assert found.failed.tolist() == [False, False, True]  # as the other source says
    torch.testing.assert_close(found.components["token_guide"], found.token_rewards.sum(1))


def test_log_probabilities_are_those_at_a_temperature_of_one(folders: dict[str, str]) -> None:
    """Whatever the run samples at, the tokens add up to the implicit reward of DPO."""
    rows = rollout()
    found = loaded(folders, scale=0.1, clip=None).score(rows).token_rewards
    torch.testing.assert_close(found.sum(1), 0.1 * log_ratio(folders, rows).sum(1), atol=1e-5, rtol=0)  # type: ignore[union-attr]


def test_a_guide_that_is_the_reference_says_nothing(folders: dict[str, str]) -> None:
    found = loaded(folders, guide=folders["reference"]).score(rollout())
    assert found.token_rewards is not None
    assert torch.equal(found.token_rewards, torch.zeros(3, 6))


def test_a_scale_of_zero_is_plain_ppo_to_the_bit(folders: dict[str, str]) -> None:
    rows, plain = rollout(), RuleReward(length)
    old, ref, values = (torch.randn(3, 6).masked_fill(~rows.response_mask, 0) for _ in range(3))

    def learnt(source: RewardSource) -> Any:
        scores = source.score(rows)
        return build_experience(
            *(rows.without(scores.failed), scores, torch.ones(3)),
            **{"old_logprobs": old, "ref_logprobs": ref, "values": values, "microbatches": []},
            estimator=GAE(),
            kl=KLPenalty(),
            kl_coef=0.01,
        )

    without, with_none, with_some = (learnt(each) for each in (plain, loaded(folders, scale=0), loaded(folders)))
    assert loaded(folders, scale=0).score(rows).token_rewards is None
    for name in ("rewards", "advantages", "returns"):
        assert torch.equal(getattr(without, name), getattr(with_none, name))
    assert torch.equal(without.rewards, with_some.rewards)
    assert not torch.equal(without.returns, with_some.returns)


class Dense(RewardSource):
    """Rewards tokens by itself."""

    def score(self, rollout: Rollout) -> Scores:
        return Scores(torch.ones(len(rollout)), token_rewards=rollout.response_mask * 2.0)


def test_dense_rewards_of_the_other_source_are_kept(folders: dict[str, str]) -> None:
    rows = rollout()
    alone, both = loaded(folders).score(rows).token_rewards, loaded(folders, Dense()).score(rows)
    assert alone is not None
    assert both.token_rewards is not None
    torch.testing.assert_close(both.token_rewards, alone + 2.0 * rows.response_mask)
    torch.testing.assert_close(both.components["token_guide"], alone.sum(1))


def test_shapers_change_the_reward_of_the_response_alone(folders: dict[str, str]) -> None:
    rows = rollout()
    scores = loaded(folders).score(rows)
    shaped = shape(scores, rows, [Ceiling(2.5, floor=2.0)])
    assert shaped.rewards[:2].tolist() == [2.5, 2.0]
    assert shaped.token_rewards is scores.token_rewards


def test_a_log_ratio_that_is_not_finite_leaves_the_response_without_a_reward(folders: dict[str, str]) -> None:
    source = loaded(folders)
    with torch.no_grad():
        source.guide.get_input_embeddings().weight[5] = torch.inf  # a damaged row
    rows = rollout()
    rows.response_ids[0, 1], rows.response_ids[1] = 5, 6
    found = source.score(rows)
    assert found.failed.tolist() == [True, False, True]
    assert found.token_rewards is not None
    assert torch.equal(found.token_rewards[0], torch.zeros(6))
    assert found.token_rewards.isfinite().all()


def test_models_are_frozen_and_of_their_own_type_and_move_with_the_source(folders: dict[str, str]) -> None:
    source = loaded(folders, dtype="bfloat16")
    models = source.guide, source.reference
    assert {each.dtype for model in models for each in model.parameters()} == {torch.bfloat16}
    assert not any(each.requires_grad or model.training for model in models for each in model.parameters())
    assert {each for model in models for each in model.parameters()} <= set(source.parameters())
    assert source.model_sources() == {
        name: ModelSource(path=folders[name], dtype="bfloat16") for name in ("guide", "reference")
    }
    first = source.guide
    source.load()
    assert source.guide is first
    judging = Judging(
        *(source, None),
        with_thoughts=True,
        tokenizer=tiny_tokenizer(),
        offload=Offload(True),
        sharding=Sharding(),
    )
    with torch.autocast("cpu", torch.float16):  # the models compute in their own type
        found = judging.score(rollout())
    assert torch.equal(found.token_rewards, source.score(rollout()).token_rewards)  # type: ignore[arg-type]
    assert found.failed.tolist() == [False, False, True]
    alone = judging.score(rollout(), per_token=False)  # as validations do
    assert alone.token_rewards is None
    assert torch.equal(alone.rewards.nan_to_num(), found.rewards.nan_to_num())


def test_both_models_are_whole_on_each_process_where_judges_are_read_in_shards(folders: dict[str, str]) -> None:
    paths = {"path": folders["guide"], "reference": folders["reference"]}
    with on_meta_device():
        sources = loaded(folders), ImplicitReward(**paths)
        sources[1].load()
    for source in sources:
        assert not any(each.is_meta for each in source.parameters())
        assert len(list(source.parameters())) > 0


# ---- mistakes


def settings(folders: dict[str, str], **more: Any) -> PairwisePPOModule:
    source = TokenGuide(RuleReward(length), **{**folders, **more})
    policy = ModelSource(path=folders["reference"])
    return PairwisePPOModule(policy, source, max_prompt_length=500, sampling=Sampling(max_new_tokens=12))


def test_other_token_ids_are_refused_before_a_model_is_read(folders: dict[str, str], tmp_path: Path) -> None:
    settings(folders).build_encoder()
    other = write_tiny_model(tmp_path / "other", 3)
    file = other / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(content))
    for role in ("guide", "reference"):
        with pytest.raises(ValueError, match=rf"TokenGuide\.{role}: the tokenizer in .*other gives other token ids"):
            settings(folders, **{role: str(other)}).build_encoder()
    short = write_tiny_model(tmp_path / "short", 3, max_position_embeddings=64)
    with pytest.raises(ValueError, match="the guide .*short has 64 positions, but max_prompt_length plus"):
        settings(folders, guide=str(short)).build_encoder()


def test_a_resume_knows_the_files_of_both_models(folders: dict[str, str]) -> None:
    module = settings(folders)
    assert {f"model.reward.2.{role}/model.safetensors" for role in folders} <= module.inputs().keys()
    assert module.frozen_names() == {name for name, _ in module.named_parameters(remove_duplicate=False)}


def test_it_needs_the_ids_of_a_policy_and_is_no_part_of_a_sum(folders: dict[str, str]) -> None:
    with pytest.raises(
        ValueError, match=r"TokenGuide reads the token ids of the policy in training.*TokenGuide\.reward"
    ):
        TokenGuide(RuleReward(length), **folders).load()
    guide = TokenGuide(RuleReward(length), **folders)
    assert list(guide.leaves()) == [guide.reward, guide]
    with pytest.raises(ValueError, match=r"sources\.two has TokenGuide.*put the sum into TokenGuide\.reward"):
        WeightedReward({"one": RuleReward(length), "two": guide}, {"one": 1.0, "two": 1.0})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"scale": -0.1}, "TokenGuide.scale is -0.1; expected a finite number of at least 0"),
        ({"scale": float("inf")}, "TokenGuide.scale is inf"),
        ({"clip": 0.0}, "TokenGuide.clip is 0.0; expected a number above 0, or null for no limit"),
        ({"clip": float("nan")}, "TokenGuide.clip is nan"),
        ({"batch_size": 0}, "TokenGuide.batch_size is 0; expected at least 1"),
    ],
)
def test_bad_settings_are_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TokenGuide(RuleReward(length), "guide", "reference", **given)
