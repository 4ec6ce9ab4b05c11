"""Pictures of one subject or of two, with answers in words: what a judge of consistency learns from."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prl.models.quiet import quiet
from prl.models.unused import deepspeed_left_alone
from prl.quickstart.images.data import Split
from prl.quickstart.images.files import reference, to_uint8, write_arrays
from prl.quickstart.images.scenes import ALL, COLOURS, SHAPES, TEXTURES, random_look, render
from prl.system.outputs import write_text

SIDES = {"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES}
"""What makes a subject; its place, size and ground are free."""
ASKED = "same subject ?"
_WORDS = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "Yes", "No", ",", "both", "are", "and", "same", "subject", "?")
_CHAT = (
    "{% for m in messages %}<s> {% for c in m['content'] %}{{ '<image>' if c['type'] == 'image' else c['text'] }} "
    "{% endfor %}{{ '' if loop.last and m['role'] == 'assistant' else '</s> ' }}{% endfor %}"
    "{{ '<s>' if add_generation_prompt else '' }}"
)


def subjects(generator: Random, same: bool) -> tuple[dict[str, str], dict[str, str]]:
    """Draw a subject twice, or two that differ in one respect."""
    first = {side: generator.choice(values) for side, values in SIDES.items()}
    if same:
        return first, first
    side = generator.choice(list(SIDES))
    return first, {**first, side: generator.choice([each for each in SIDES[side] if each != first[side]])}


def picture(subject: dict[str, str], generator: Random) -> np.ndarray:
    """Render a subject at a random place: [3, 16, 16] from -1 to 1."""
    scene = replace(generator.choice(ALL), shape=subject["shape"], colour=subject["colour"])
    return render(scene, random_look(generator, subject["texture"]))


def write_consistency(folder: Path, split: Split, count: int, seed: int) -> Path:
    """Write pairs of pictures, half of them of one subject: rows of `prompt`, `images` and `answer`."""
    generator = Random(f"{seed}/consistency.{split}")
    rows, pictures = [], []
    for number in range(count):
        pair = subjects(generator, same=number % 2 == 0)
        said = [" ".join(subject[side] for side in ("colour", "texture", "shape")) for subject in pair]
        answer = f"Yes, both are {said[0]}" if pair[0] == pair[1] else f"No, {said[0]} and {said[1]}"
        names = [reference(f"consistency.{split}", 2 * number + n) for n in range(2)]
        rows.append({"prompt": f"a {pair[0]['colour']} {pair[0]['shape']}", "images": names, "answer": answer})
        pictures += [picture(subject, generator) for subject in pair]
    write_arrays(folder, f"consistency.{split}", to_uint8(np.stack(pictures)))
    path = folder / f"consistency.{split}.jsonl"
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_vision_language(folder: Path, seed: int, width: int = 96, layers: int = 3) -> None:
    """Write a small Llava with random weights, which reads pictures of 16 x 16 as 16 tokens each."""
    with quiet(), deepspeed_left_alone():
        from transformers import (
            CLIPImageProcessorPil,
            CLIPVisionConfig,
            LlamaConfig,
            LlavaConfig,
            LlavaForConditionalGeneration,
            LlavaProcessor,
        )
    words = {word: n for n, word in enumerate((*_WORDS, *(each for values in SIDES.values() for each in values)))}
    found = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    marks: dict[str, Any] = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    marks["extra_special_tokens"] = {"image_token": "<image>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=found, **marks)
    sizes: dict[str, Any] = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": width // 32}
    vision = CLIPVisionConfig(**sizes, num_hidden_layers=layers, image_size=16, patch_size=4)
    text: dict[str, Any] = {"num_key_value_heads": width // 32, "vocab_size": len(words), "pad_token_id": 0}
    read: dict[str, Any] = {"vision_feature_layer": -1, "vision_feature_select_strategy": "default"}
    read |= {"image_token_index": words["<image>"], "image_seq_length": 16}
    language = LlamaConfig(**sizes, **text, num_hidden_layers=layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=language, **read))
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"height": 16, "width": 16}, do_center_crop=False),
        tokenizer=tokenizer,
        chat_template=_CHAT,
        **{"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    )
    with quiet():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
