"""Tiny pipelines with random weights, and files of random pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from prl.diffusion.rewards import ImageReward


class Brightness(ImageReward):
    """The mean of a picture, in place of any part of the quickstart's check."""

    def __init__(self, of: str = "all") -> None:
        super().__init__()
        self.of = of

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(images) == len(prompts)
        return images.flatten(1).mean(1)


WORDS = ("<pad>", "<s>", "</s>", "<unk>", "a", "red", "blue", "circle", "square")
PROMPTS = ("a red circle", "a blue circle", "a red square", "a blue square")


def tokenizer() -> PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate(WORDS)}
    found = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=found, model_max_length=6, **marks)


def _text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        **{"vocab_size": len(WORDS), "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "max_position_embeddings": 6, "projection_dim": 8},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    )


def _vae(latent_channels: int, shift: float | None = None) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        shift_factor=shift,
        **{"in_channels": 3, "out_channels": 3, "latent_channels": latent_channels, "sample_size": 8},
        **{"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4},
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )


def write_stable_diffusion(folder: Path, seed: int = 0) -> Path:
    """Latents of 4 x 4 with 4 channels, pictures of 8 x 8."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        **{"sample_size": 4, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16)},
        **{"layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 4},
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    StableDiffusionPipeline(
        **{"vae": _vae(4), "text_encoder": CLIPTextModel(_text_config()), "tokenizer": tokenizer(), "unet": unet},
        **{
            "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False),
            "safety_checker": None,
            "feature_extractor": None,
        },
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def write_stable_diffusion_3(folder: Path, seed: int = 0, *, latent: bool = True) -> Path:
    """Latents of 4 x 4 with 4 channels and pictures of 8 x 8, or pixels of 8 x 8."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(seed)
    channels, size = (4, 4) if latent else (3, 8)
    transformer = SD3Transformer2DModel(
        **{"sample_size": size, "patch_size": 2, "in_channels": channels, "out_channels": channels},
        **{"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 16},
        **{"caption_projection_dim": 16, "pooled_projection_dim": 16, "pos_embed_max_size": 4},
    )
    encoder = CLIPTextModelWithProjection(_text_config())
    torch.nn.init.normal_(encoder.text_model.embeddings.token_embedding.weight)
    # At the start its last layer is zero, and all pictures would be equal.
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.2)
    StableDiffusion3Pipeline(
        **{"transformer": transformer, "scheduler": FlowMatchEulerDiscreteScheduler()},
        **{"vae": _vae(4, 0.1) if latent else None, "text_encoder": encoder, "tokenizer": tokenizer()},
        **{"text_encoder_2": encoder, "tokenizer_2": tokenizer(), "text_encoder_3": None, "tokenizer_3": None},
    ).save_pretrained(folder)
    return folder


def write_class_conditional(folder: Path, seed: int = 0, classes: int = 5) -> Path:
    """Pictures of 8 x 8 with one channel; the last class stands for no prompt."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(seed)
    unet = UNet2DModel(
        **{"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16)},
        **{"layers_per_block": 1, "norm_num_groups": 4, "num_class_embeds": classes, "attention_head_dim": 4},
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(folder)
    return folder


def write_wan(folder: Path, seed: int = 0, *, latent: bool = True) -> Path:
    """Clips of 5 frames of 8 x 8, whose latents are 3 frames of 4 x 4 with 4 channels, or clips as they are."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(seed)
    channels = 4 if latent else 3
    transformer = WanTransformer3DModel(
        **{"patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": channels},
        **{"out_channels": channels, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2},
        rope_max_seq_len=32,
    )
    vae = AutoencoderKLWan(
        **{"base_dim": 4, "z_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [True]},
        **{"latents_mean": [0.1, -0.2, 0.0, 0.3], "latents_std": [1.5, 0.5, 1.0, 2.0]},
        **{"scale_factor_temporal": 2, "scale_factor_spatial": 2},
    )
    encoder = UMT5EncoderModel(
        UMT5Config(
            **{"vocab_size": len(WORDS), "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
            **{"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0},
        )
    )
    torch.nn.init.normal_(encoder.shared.weight)
    WanPipeline(
        **{"tokenizer": tokenizer(), "text_encoder": encoder, "vae": vae if latent else None},
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=transformer,
    ).save_pretrained(folder)
    return folder


ANSWERS = ("Yes", "Yes, the same red circle", "No", "No, a blue square")
CHAT = (
    "{% for m in messages %}<s>{% for c in m['content'] %}{{ '<image>' if c['type'] == 'image' else c['text'] }} "
    "{% endfor %}{{ '' if loop.last and m['role'] == 'assistant' else '</s>' }}{% endfor %}"
    "{{ '<s>' if add_generation_prompt else '' }}"
)


def write_vision_language(folder: Path, seed: int = 0, size: int = 8) -> Path:
    """Write a Llava of one token for each part of 4 x 4 pixels, with a tokenizer of whole words."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    words = {word: n for n, word in enumerate((*WORDS, "<image>", "Yes", "No", ",", "the", "same", "?"))}
    found = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    words_of = PreTrainedTokenizerFast(tokenizer_object=found, extra_special_tokens={"image_token": "<image>"}, **marks)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=size, patch_size=4),
        text_config=LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=len(words), pad_token_id=0),
        **{"image_token_index": words["<image>"], "image_seq_length": (size // 4) ** 2},
        **{"vision_feature_layer": -1, "vision_feature_select_strategy": "default"},
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"height": size, "width": size}, do_center_crop=False),
        tokenizer=words_of,
        chat_template=CHAT,
        **{"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ).save_pretrained(folder)
    return folder


def write_pictures(folder: Path, count: int = 24, seed: int = 0, channels: int = 3, frames: int = 0) -> Path:
    """Write `pairs`, `captioned` and `prompts` rows for training and validation, of pictures or clips of 8 x 8."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = (2 * count, *[frames] * (frames > 0), 8, 8, channels)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    np.save(folder / "pictures.npy", pixels)
    texts = PROMPTS if channels == 3 else tuple("0123")
    for split, rows in (("train", count), ("validation", count // 3)):
        kinds: dict[str, list[dict[str, Any]]] = {"pairs": [], "captioned": [], "prompts": []}
        for row in range(rows):
            prompt = {"prompt": texts[row % len(texts)]}
            sides = {"chosen": f"pictures.npy#{2 * row}", "rejected": f"pictures.npy#{2 * row + 1}"}
            several = [f"pictures.npy#{(2 * row + place) % len(pixels)}" for place in range(2 + row % 2)]
            listed = {"responses": several, "rewards": [1.0, 0.0, 0.5][: len(several)], "margin": 0.5 + row % 3}
            kinds["pairs"].append({**prompt, **sides, **listed, "user": f"user {row % 2}"})
            kinds["captioned"].append({**prompt, "image": sides["chosen"], "reward": row % 3 / 2})
            kinds["prompts"].append(prompt)
        for kind, lines in kinds.items():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"{kind}.{split}.jsonl").write_text(text)
    return folder
