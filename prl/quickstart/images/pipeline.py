"""Tiny pipelines with random weights, on pixels: a Stable Diffusion 3 for pictures, and a Wan for clips."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from prl.diffusion.denoisers.base import save_pipeline
from prl.diffusion.rewards.conv_scorer import ConvScorer
from prl.models.quiet import quiet
from prl.models.unused import deepspeed_left_alone
from prl.quickstart.images.clips import CLIP_WORDS
from prl.quickstart.images.scenes import WORDS

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PROMPT_TOKENS = 10
"""Longest prompt with its ends."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer of the words of all prompts."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *sorted({*WORDS, *CLIP_WORDS})))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(mark, vocabulary[mark]) for mark in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names: dict[str, Any] = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=PROMPT_TOKENS, **names)


def write_pipeline(folder: Path, seed: int, width: int = 96, layers: int = 4) -> None:
    """Write the pipeline with random weights, the same for the same seed.

    Args:
        folder: made if need be.
        seed: seed of the weights.
        width: width of the transformer, a multiple of 16.
        layers: its layers.
    """
    with quiet(), deepspeed_left_alone():  # it warns of packages that pictures do not need
        from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    tokenizer = build_tokenizer()
    sizes = {
        **{"sample_size": 16, "patch_size": 4, "in_channels": 3, "out_channels": 3},
        **{"num_layers": layers, "attention_head_dim": 32, "num_attention_heads": width // 32},
        **{"joint_attention_dim": 2 * _WIDTH, "caption_projection_dim": width},
        **{"pooled_projection_dim": 2 * _WIDTH, "pos_embed_max_size": 4},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder: Any = CLIPTextModelWithProjection(_text_config(len(tokenizer)))
        # Words are told apart by embeddings that are not learnt, so these are not as small as CLIP's begin.
        nn.init.normal_(encoder.text_model.embeddings.token_embedding.weight)
        transformer = SD3Transformer2DModel(**sizes)
    parts = {"text_encoder": encoder, "tokenizer": tokenizer, "text_encoder_2": encoder, "tokenizer_2": tokenizer}
    absent = dict.fromkeys(("vae", "text_encoder_3", "tokenizer_3"))
    scheduler = FlowMatchEulerDiscreteScheduler()
    save_pipeline(StableDiffusion3Pipeline(transformer=transformer, scheduler=scheduler, **parts, **absent), folder)


def write_clip_pipeline(folder: Path, seed: int, width: int = 96, layers: int = 4) -> None:
    """Write the pipeline for clips with random weights, the same for the same seed.

    Args:
        folder: made if need be.
        seed: seed of the weights.
        width: width of the transformer, a multiple of 32.
        layers: its layers.
    """
    with quiet(), deepspeed_left_alone():
        from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

    tokenizer = build_tokenizer()
    texts: dict[str, Any] = {
        **{"vocab_size": len(tokenizer), "d_model": _WIDTH, "d_kv": _WIDTH // 2, "d_ff": 2 * _WIDTH},
        **{"num_layers": 2, "num_heads": 2, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0},
    }
    sizes: dict[str, Any] = {
        # A patch of several frames would have as many numbers as the transformer has channels, or more, and could not
        # say what its noise is.
        **{"patch_size": (1, 4, 4), "num_attention_heads": width // 32, "attention_head_dim": 32},
        **{"in_channels": 3, "out_channels": 3, "text_dim": _WIDTH, "freq_dim": 64, "ffn_dim": 4 * width},
        **{"num_layers": layers, "rope_max_seq_len": 32},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder: Any = UMT5EncoderModel(UMT5Config(**texts))
        nn.init.normal_(encoder.shared.weight)  # as above
        transformer = WanTransformer3DModel(**sizes)
    parts = {"tokenizer": tokenizer, "text_encoder": encoder, "vae": None, "transformer": transformer}
    save_pipeline(WanPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), **parts), folder)


def write_scorer(folder: Path, seed: int, frames: int = 1) -> None:
    """Write a small reward model with random weights, which is trained on pairs of pictures or clips of the world."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ConvScorer(build_tokenizer(), image_size=16, frames=frames).save(folder)


_WIDTH = 32
"""Width of the text encoder, which stands in the pipeline twice, as Stable Diffusion 3 has two."""


def _text_config(vocabulary: int) -> CLIPTextConfig:
    settings: dict[str, Any] = {
        **{"vocab_size": vocabulary, "hidden_size": _WIDTH, "intermediate_size": 2 * _WIDTH, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "max_position_embeddings": PROMPT_TOKENS, "projection_dim": _WIDTH},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    }
    return CLIPTextConfig(**settings)
