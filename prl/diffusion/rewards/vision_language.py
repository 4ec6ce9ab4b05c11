"""A vision-language model that answers a question about pictures with Yes or No."""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prl.config import ModelSource
from prl.models.adapters import is_adapted, merge_adapters
from prl.models.dropout import disable_dropout, own_dropout
from prl.models.loading import add_lora
from prl.models.location import ModelNotFoundError, is_hub_id
from prl.models.quiet import quiet, without_bars
from prl.models.unused import deepspeed_left_alone
from prl.system.outputs import write_text

QUESTION = "question.json"
"""File, in the folder of a trained judge, with the question that it learnt to answer."""


class VisionLanguageModel(nn.Module):
    """A model of transformers that reads pictures and a question by its own chat template.

    Args:
        model: the model, as of `AutoModelForImageTextToText`.
        processor: its processor.

    Raises:
        ValueError: for a processor without a chat template, or a tokenizer that begins Yes and No with one token.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model, self.processor = model, processor
        if not getattr(processor, "chat_template", None):
            raise ValueError("the processor of this model has no chat template, so it cannot be asked")
        asked = [self._tokens(_chat([None], "?", answer)) for answer in ("Yes", "No")]
        first = len(self._tokens(_chat([None], "?")))
        if any(len(tokens) <= first for tokens in asked) or asked[0][first] == asked[1][first]:
            raise ValueError("the tokenizer of this model begins Yes and No with one token")
        self.yes, self.no = (tokens[first] for tokens in asked)

    def log_odds(self, pictures: Sequence[Sequence[Tensor]], questions: Sequence[str]) -> Tensor:
        """Compute the log-odds of Yes against No as the first token of an answer: [N] float32.

        Args:
            pictures: of each question, its pictures [C, H, W] from -1 to 1, in the order in which they are shown.
            questions: N texts.
        """
        _, logits, ends = self._read([_chat(shown, text) for shown, text in zip(pictures, questions, strict=True)])
        found = logits[torch.arange(len(ends), device=ends.device), ends].float()
        return found[:, self.yes] - found[:, self.no]

    def answer_losses(
        self, pictures: Sequence[Sequence[Tensor]], questions: Sequence[str], answers: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Compute -log p of each token of answers, and which of the places are tokens: [N, T] each.

        Args:
            pictures: as of `log_odds`.
            questions: N texts.
            answers: N texts; their ends are not counted.
        """
        rows = list(zip(pictures, questions, answers, strict=True))
        ids, logits, ends = self._read([_chat(*row) for row in rows])
        counts = [len(self._tokens(_chat(*row))) - len(self._tokens(_chat(*row[:2]))) for row in rows]
        places = torch.arange(max(counts), device=ends.device)
        lengths = torch.tensor(counts, device=ends.device)[:, None]
        mask = places < lengths
        at = (ends[:, None] - lengths + places).where(mask, torch.zeros_like(ends)[:, None])
        targets = ids.gather(1, at + 1)
        logprobs = logits.gather(1, at[..., None].expand(-1, -1, logits.shape[-1])).float().log_softmax(-1)
        return -logprobs.gather(2, targets[..., None])[..., 0].masked_fill(~mask, 0.0), mask

    def save(self, folder: Path, question: str) -> None:
        """Write model, processor and question. Adapters are put into the weights of the copy that is written."""
        whole = merge_adapters(deepcopy(self.model)) if is_adapted(self.model) else self.model
        with quiet(), without_bars(), deepspeed_left_alone(), own_dropout(whole):
            whole.save_pretrained(folder)
            self.processor.save_pretrained(folder)
        write_text(folder / QUESTION, json.dumps({"question": question}, ensure_ascii=False) + "\n")

    # ---- tokens

    def _tokens(self, chat: list[dict[str, Any]]) -> list[int]:
        """Tokenize the text of a chat, in which a picture is one mark."""
        text = self.processor.apply_chat_template(chat, tokenize=False, **_ending(chat))
        return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _read(self, chats: list[list[dict[str, Any]]]) -> tuple[Tensor, Tensor, Tensor]:
        """Read chats in one pass: tokens [N, T], logits [N, T, V], and the place of the last token of each [N]."""
        with quiet():
            batch = self.processor.apply_chat_template(
                chats, tokenize=True, return_dict=True, return_tensors="pt", padding=True, **_ending(chats[0])
            )
        own = next(self.model.parameters())
        given = {name: each.to(own.device) for name, each in batch.items()}
        given = {name: each.to(own.dtype) if each.is_floating_point() else each for name, each in given.items()}
        ends = given["attention_mask"].cumsum(1).argmax(1)
        return given["input_ids"], self.model(**given, use_cache=False).logits, ends


def _chat(pictures: Sequence[Tensor | None], question: str, answer: str | None = None) -> list[dict[str, Any]]:
    """Build a chat of a question about pictures, and the begin of its answer."""
    shown = [{"type": "image", "image": None if each is None else _image(each)} for each in pictures]
    chat: list[dict[str, Any]] = [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}]
    if answer is not None:
        chat.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return chat


def _ending(chat: list[dict[str, Any]]) -> dict[str, bool]:
    """Say where the template stops: before an answer, or behind the last word of one."""
    answered = chat[-1]["role"] == "assistant"
    return {"add_generation_prompt": not answered, "continue_final_message": answered}


def _image(picture: Tensor) -> Any:
    """Turn numbers from -1 to 1 into a picture of pillow, which every processor reads. Raises ValueError for a clip."""
    from PIL import Image

    if picture.dim() != 3 or len(picture) not in (1, 3):
        raise ValueError(
            f"a picture has shape {list(picture.shape)}; a judge of pictures and text reads [C, H, W] with 1 or 3 "
            "channels, and no clips"
        )
    pixels = ((picture.detach().float() + 1) * 127.5).round().clamp(0, 255).byte().movedim(0, -1)
    return Image.fromarray(pixels.expand(-1, -1, 3).cpu().numpy())


def load_vision_language(source: ModelSource) -> VisionLanguageModel:
    """Read a model and its processor; with `lora` adapters are added.

    Raises:
        ModelNotFoundError: for a folder that is not there, or holds no model.
        ValueError: for a model that reads no pictures.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    for name in ("config", "tokenizer", "chat_template_kwargs", "chat_template_date"):
        if getattr(source, name) is not None:
            raise ValueError(f"model.{name} is not read for models of pictures and text; leave it out")
    if source.trust_remote_code:
        raise ValueError("model.trust_remote_code: no code of a model's folder is run; leave it out")
    assert source.path is not None
    folder = Path(source.path).expanduser()
    if not folder.exists() and not is_hub_id(source.path):
        raise ModelNotFoundError(f"model folder {source.path} does not exist; give another folder or a hub id")
    where = str(folder) if folder.exists() else source.path
    try:
        with quiet(), without_bars(), deepspeed_left_alone():
            processor = AutoProcessor.from_pretrained(where)
            settings = {"dtype": getattr(torch, source.dtype), "attn_implementation": source.attn_implementation}
            model = AutoModelForImageTextToText.from_pretrained(where, **settings)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"model {source.path} cannot be read as one of pictures and text: {reason}") from error
    disable_dropout(model)
    if source.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return VisionLanguageModel(add_lora(model, source.lora) if source.lora else model, processor)


def question_of(path: str) -> str | None:
    """Return the question that the judge of a folder learnt to answer; None where there is none."""
    file = Path(path).expanduser() / QUESTION
    return json.loads(file.read_text())["question"] if file.is_file() else None
