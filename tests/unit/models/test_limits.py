"""A model that lacks tokens or positions is refused by name, in every role, before its weights are read."""

from argparse import Namespace
from typing import Any

import pytest
from tokenizers.normalizers import Lowercase
from transformers import AutoConfig

from lightning_modules.bradley_terry import BradleyTerryRewardModule
from lightning_modules.estimates import plan_memory
from lightning_modules.generative_reward import GenerativeRewardModule
from lightning_modules.pairwise_ppo import PairwisePPOModule
from lightning_modules.supervised import SupervisedModule
from prl.anchors.writing import Sampler as AnchorSampler
from prl.config import CriticSettings, LoRA, ModelSource, Sampling
from prl.data.rows.records import AnchoredPrompt
from prl.judge import JudgeTemplate
from prl.judge.bradley_terry import BradleyTerryJudge, save_bradley_terry
from prl.judge.encoding import ComparisonEncoder
from prl.judge.files import save_judge
from prl.judge.generative import GenerativeJudge
from prl.models.limits import check_fits, check_same_ids, most_positions
from prl.models.loading import load_causal_lm, load_scalar_classifier, save_model
from prl.rewards import RuleReward
from tests.helpers.tiny import tiny_tokenizer, write_tiny_model
from tests.helpers.tokenizers import byte_pair_tokenizer

TEMPLATE = JudgeTemplate("{{ prompt }}\n1:{{ response_a }}\n2:{{ response_b }}\n?", chat=False)
POSITIONS = 512


@pytest.fixture(scope="module")
def padded(tiny_folder, tmp_path_factory) -> str:
    """Make a model whose tokenizer got a token that the embeddings have no row for."""
    folder = write_tiny_model(tmp_path_factory.mktemp("padded") / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    return str(folder)


def ppo(policy: str, **fields: Any) -> PairwisePPOModule:
    rule = RuleReward("tests.unit.models.test_limits.length")
    return PairwisePPOModule(ModelSource(path=policy), rule, **fields)


def length(prompt: Any, response: str, extra: Any) -> float:
    return float(len(response))


STAGES = {
    "supervised": lambda path, n: SupervisedModule(ModelSource(path=path), max_length=n + 1),
    "judge": lambda path, n: GenerativeRewardModule(ModelSource(path=path), TEMPLATE, max_length=n),
    "bradley_terry": lambda path, n: BradleyTerryRewardModule(ModelSource(path=path), max_length=n),
    "ppo": lambda path, n: ppo(path, sampling=Sampling(max_new_tokens=12), max_prompt_length=n - 12),
}


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_refuses_what_its_model_cannot_read(name, tiny_folder, padded) -> None:
    STAGES[name](str(tiny_folder), POSITIONS).build_encoder()
    longer = STAGES[name](str(tiny_folder), POSITIONS + 1)
    words = f"{tiny_folder} has {POSITIONS} positions, but .* asks for {POSITIONS + 1}"
    for refuse in (longer.build_encoder, lambda: plan_memory(longer, 2)):
        with pytest.raises(ValueError, match=words):
            refuse()
    size = len(tiny_tokenizer())
    with pytest.raises(
        ValueError, match=rf"{padded} has embeddings for {size} .* has {size + 1} \(too many: \[PAD\]\)"
    ):
        STAGES[name](padded, 64).build_encoder()


def test_critic_and_reference_read_what_the_policy_writes(tiny_folder, tmp_path) -> None:
    small = str(write_tiny_model(tmp_path / "small", vocab_size=len(tiny_tokenizer()) - 2))
    short = str(write_tiny_model(tmp_path / "short", max_position_embeddings=32))
    for role in ("critic", "reference"):
        for path, words in ((small, "has embeddings for"), (short, "has 32 positions")):
            source = ModelSource(path=path)
            given = source if role == "reference" else CriticSettings(model=source)
            module = ppo(str(tiny_folder), max_prompt_length=64, **{role: given})
            with pytest.raises(ValueError, match=f"the {role} {path} {words}"):
                module.build_encoder()
    # A critic on the policy has no model of its own, whatever the policy's source would say of one.
    ppo(str(tiny_folder), max_prompt_length=64, critic=CriticSettings("shared")).build_encoder()


@pytest.mark.parametrize("positions", [160, 159])
def test_a_judge_must_be_able_to_read_its_own_max_length(positions, tmp_path) -> None:
    base = ModelSource(path=str(write_tiny_model(tmp_path / "base", max_position_embeddings=positions)))
    tokenizer = tiny_tokenizer()
    save_judge(
        tmp_path / "generative", load_causal_lm(base), tokenizer, ComparisonEncoder(tokenizer, TEMPLATE, max_length=160)
    )
    save_bradley_terry(tmp_path / "scalar", load_scalar_classifier(base), tokenizer, 160)
    adapted = load_causal_lm(ModelSource(path=base.path, lora=LoRA(rank=2)))
    encoder = ComparisonEncoder(tokenizer, TEMPLATE, max_length=160)
    save_judge(tmp_path / "adapters", adapted, tokenizer, encoder, merge=False)
    for judge in (
        GenerativeJudge(str(tmp_path / "generative")),
        BradleyTerryJudge(str(tmp_path / "scalar")),
        GenerativeJudge(str(tmp_path / "adapters")),
    ):
        if positions >= 160:
            judge.load()
            continue
        with pytest.raises(ValueError, match=r"the judge .* has 159 positions, but max_length in its prl_judge\.json"):
            judge.load()
        assert judge.model is None


def test_anchors_are_sampled_within_the_positions(tiny_folder, padded) -> None:
    prompts = AnchoredPrompt.parse({"prompt": "a b c"})
    options = Namespace(policy=str(tiny_folder), dtype="float32", max_prompt_length=1024, max_new_tokens=64)
    options.chat_template_kwargs = None
    options.samples, options.prompts, options.seed, options.keep_thoughts = 1, "prompts.jsonl", 0, False
    AnchorSampler(options, Sampling(), prompts)  # the longest prompt allowed is longer than the model; none is
    with pytest.raises(ValueError, match="the policy .* has 512 positions, but the longest prompt plus"):
        AnchorSampler(options, Sampling(max_new_tokens=512), prompts)
    with pytest.raises(ValueError, match="the policy .* has embeddings for"):
        AnchorSampler(Namespace(**{**vars(options), "policy": padded}), Sampling(), prompts)


def test_random_weights_of_a_config_are_held_against_the_tokenizer(tiny_folder) -> None:
    fields = {"model_type": "llama", "vocab_size": 10}
    with pytest.raises(ValueError, match="the model that is made from a config has embeddings for 10 tokens"):
        check_fits(
            ModelSource(config=fields, tokenizer=str(tiny_folder)), tiny_tokenizer(), 1, role="model", setting="x"
        )


def rope(kind: str, factor: float, **fields: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, "factor": factor, **fields}}


LIMITS: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "learned": ("gpt2", {"n_positions": 64}, 64),
    "opt": ("opt", {"max_position_embeddings": 64}, 64),
    "rotary": ("llama", {"max_position_embeddings": 64}, 64),
    "linear": ("llama", {"max_position_embeddings": 64, **rope("linear", 4.0)}, 256),
    "dynamic": ("llama", {"max_position_embeddings": 64, **rope("dynamic", 2.0)}, 128),
    "yarn": ("qwen2", {"max_position_embeddings": 64, **rope("yarn", 4.0, original_max_position_embeddings=64)}, 256),
    # Llama 3.1: the config says the longer one already.
    "llama3": (
        "llama",
        {
            "max_position_embeddings": 131072,
            **rope("llama3", 8.0, original_max_position_embeddings=8192, low_freq_factor=1.0, high_freq_factor=4.0),
        },
        131072,
    ),
    "gemma3": ("gemma3_text", {"max_position_embeddings": 4096}, 4096),  # scaling apart for each kind of layer
    "alibi": ("bloom", {}, None),
    "falcon with alibi": ("falcon", {"alibi": True}, None),
    "no positions": ("mamba", {}, None),
}


@pytest.mark.parametrize("name", LIMITS)
def test_positions_of_a_config(name) -> None:
    family, fields, limit = LIMITS[name]
    assert most_positions(AutoConfig.for_model(**{"model_type": family, **fields})) == limit


def test_adapters_have_the_limits_of_their_base(tiny_folder, tmp_path) -> None:
    model = load_causal_lm(ModelSource(path=str(tiny_folder), lora=LoRA(rank=2)))
    save_model(model, tiny_tokenizer(), tmp_path, merge=False)
    check_fits(ModelSource(path=str(tmp_path)), tiny_tokenizer(), POSITIONS, role="model", setting="x")
    with pytest.raises(ValueError, match=f"has {POSITIONS} positions"):
        check_fits(ModelSource(path=str(tmp_path)), tiny_tokenizer(), POSITIONS + 1, role="model", setting="x")


def test_a_special_token_that_nothing_writes_is_none_too_many(tmp_path) -> None:
    """Gemma 3's tokenizer has one for images, beyond the embeddings of its models of text."""
    folder = write_tiny_model(tmp_path / "model")
    source = ModelSource(path=str(folder))
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    check_fits(source, tokenizer, 1, role="model", setting="x")
    tokenizer.chat_template = "<image>" + tokenizer.chat_template
    with pytest.raises(ValueError, match="too many: <image>"):
        check_fits(source, tokenizer, 1, role="model", setting="x")


def test_token_ids_have_to_mean_the_same_to_a_model_that_reads_them(tiny_folder, tmp_path) -> None:
    source, own = ModelSource(path=str(tiny_folder)), tiny_tokenizer()
    check_same_ids(source, own, setting="guides.guide")
    own.add_special_tokens({"pad_token": "[PAD]"})  # which is never read
    check_same_ids(source, own, setting="guides.guide")
    own.add_tokens(["word"])
    found = f"other token ids than the policy's .'word' is {len(own) - 1} in the policy's and unknown there., so this"
    with pytest.raises(ValueError, match=f"guides.guide: the tokenizer in {tiny_folder} gives {found}"):
        check_same_ids(source, own, setting="guides.guide")
    own.save_pretrained(tmp_path / "tokenizer")
    check_same_ids(ModelSource(path=str(tiny_folder), tokenizer=str(tmp_path / "tokenizer")), own, setting="x")


def test_tokenizers_of_one_vocabulary_may_split_text_otherwise(tmp_path) -> None:
    lower = byte_pair_tokenizer()
    lower.backend_tokenizer.normalizer = Lowercase()
    lower.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="guides.guide: .* .it splits text otherwise."):
        check_same_ids(ModelSource(path=str(tmp_path)), byte_pair_tokenizer(), setting="guides.guide")
    check_same_ids(ModelSource(path=str(tmp_path)), lower, setting="guides.guide")
