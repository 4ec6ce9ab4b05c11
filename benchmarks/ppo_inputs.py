"""Models, prompts and anchors made for a benchmark of PPO; imports nothing of prl until something is made."""

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TEMPLATE = "{{ prompt }}\n{{ response_a }}\n{{ response_b }}\n"
"""The quickstart's judge prompt, for tokens that are single characters."""
WORDS = (
    "the",
    "of",
    "water",
    "people",
    "when",
    "three",
    "long",
    "little",
    "words",
    "before",
    "house",
    "again",
    "I",
    "and",
)


@dataclass(frozen=True)
class Work:
    """Sizes of an iteration."""

    prompts: int = 64
    per_prompt: int = 1
    prompt_tokens: int = 32
    response_tokens: int = 48
    epochs: int = 4
    minibatches: int = 2
    vocabulary: int = 98
    hidden: int = 128
    inner: int = 376
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 4
    tied: bool = False

    @property
    def rows(self) -> int:
        """Responses of an iteration."""
        return self.prompts * self.per_prompt

    @property
    def steps(self) -> int:
        """Optimizer steps of an iteration."""
        return self.epochs * self.minibatches


SIZES = {
    "tiny": Work(prompts=4, prompt_tokens=12, response_tokens=6, epochs=2, hidden=32, inner=48, layers=2, heads=2,
                 key_value_heads=2),
    "small": Work(),
    "smollm2": Work(prompts=8, prompt_tokens=80, response_tokens=64, epochs=1, minibatches=1, vocabulary=49152,
                    hidden=576, inner=1536, layers=30, heads=9, key_value_heads=3, tied=True),
}  # fmt: skip
"""`small` has 0.87 million weights, `smollm2` the shape of SmolLM2-135M."""


def write_model(work: Work, folder: Path) -> None:
    """Write a random Llama whose tokens are characters, and which never samples its end or padding token.

    One number of every hidden state is the same large one, because no layer writes to it; the language head turns it
    into a low logit of these two tokens. Untied weights only, since a tied head is the embedding.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    from prl.quickstart.tokenizer import build_tokenizer

    set_seed(0)
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=max(work.vocabulary, len(tokenizer)),
        hidden_size=work.hidden,
        intermediate_size=work.inner,
        num_hidden_layers=work.layers,
        num_attention_heads=work.heads,
        num_key_value_heads=work.key_value_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=work.tied,
        initializer_range=0.02 if work.tied else 0.1,  # wide, so that a judge of few responses tells them apart
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    if not work.tied:
        with torch.no_grad():
            model.model.embed_tokens.weight[:, 0] = 1
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight[0], layer.mlp.down_proj.weight[0] = 0, 0
            model.lm_head.weight[[tokenizer.pad_token_id, tokenizer.eos_token_id], 0] = -10
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(work: Work, model: Path, iterations: int, path: Path) -> int:
    """Write prompts of random words or letters with an anchor each, and their token ids; return the longest prompt.

    Prompts of a character tokenizer are exactly `prompt_tokens` long, others about that.
    """
    from prl.config import ModelSource
    from prl.data.chat import encode_chat
    from prl.models.loading import load_tokenizer

    tokenizer, draw = load_tokenizer(ModelSource(path=str(model))), random.Random(0)
    single = len(tokenizer) < 256

    def text(tokens: int) -> str:
        if single:
            return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=tokens))
        return " ".join(draw.choices(WORDS, k=tokens))

    around = len(encode_chat(tokenizer, [{"role": "user", "content": ""}]))
    lines, longest = [], 0
    for _ in range(work.prompts * iterations):
        size = work.prompt_tokens if single else round(work.prompt_tokens * draw.uniform(0.9, 1.1))
        prompt = [{"role": "user", "content": text(max(1, size - around))}]
        ids = encode_chat(tokenizer, prompt)
        longest = max(longest, len(ids))
        lines.append(json.dumps({"prompt": prompt, "anchor": text(work.response_tokens), "input_ids": ids}))
    path.write_text("\n".join(lines) + "\n")
    return longest


def prepare(work: Work, model: str | None, folder: Path, iterations: int) -> dict[str, Any]:
    """Write model and rows where they are not given, and return what workers are told."""
    from prl.config import ModelSource
    from prl.models.loading import load_tokenizer

    where = Path(model or folder / "model")
    if model is None:
        write_model(work, where)
    rows = folder / "rows.jsonl"
    longest = write_rows(work, where, iterations + 1, rows)
    characters = len(load_tokenizer(ModelSource(path=str(where)))) < 256
    around = 3 if characters else 128  # of the judge's template; words may take more than a token each
    length = around + longest + 2 * work.response_tokens * (1 if characters else 3)
    return {
        **{"model": where, "rows": rows, "work": json.dumps(asdict(work)), "iterations": iterations},
        **{"mib": mib_of(work), "prompt_length": longest, "judge_length": length, "characters": int(characters)},
    }


def mib_of(work: Work) -> int:
    """Choose the MiB that rates are measured on; a tiny model is a test, and its rates mean nothing."""
    return 4 if work.hidden <= 32 else 256
