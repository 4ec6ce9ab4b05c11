"""Encoder of a judge that reasons: readings that leave its model positions for a thought and the closing."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from prl.config import ModelSource, Reasoning
from prl.judge.encoding import LEAST_ROOM, ComparisonEncoder
from prl.judge.template import JudgeTemplate, compile_template
from prl.models.limits import check_fits, most_positions
from prl.models.loading import read_config
from prl.rewards.plain_model import LONGEST


def reasoning_encoder(
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase,
    template: JudgeTemplate,
    length: int | None,
    settings: Reasoning,
    *,
    role: str,
    kind: type[ComparisonEncoder] = ComparisonEncoder,
    **more: Any,
) -> ComparisonEncoder:
    """Build the encoder of readings behind which a model has positions for a thought and its closing.

    Args:
        source: the model.
        tokenizer: the model's.
        template: prompt of a comparison.
        length: longest reading without the thought, tokens; what the model has room for, at most 4096, when None.
        settings: of the thoughts.
        role: of the model, for errors.
        kind: class of the encoder.
        more: its further arguments.

    Raises:
        ValueError: when the model lacks positions, or a verdict word is not one token behind the closing.
    """
    compiled = compile_template(template, tokenizer, settings.closing)
    behind = settings.max_tokens + len(compiled.end_of_thoughts) + len(compiled.closing)
    if length is None:
        positions = most_positions(read_config(source)) or LONGEST + behind
        length = min(LONGEST, positions - behind)
        if length < (needed := compiled.num_literal_tokens + LEAST_ROOM):
            raise ValueError(
                f"reasoning.max_tokens is {settings.max_tokens}; with its closing a thought takes {behind} of the "
                f"{positions} positions of the {role}, and the comparison in front of it needs {needed}: lower "
                f"reasoning.max_tokens by {needed - length} or more"
            )
    asked = "max_length, reasoning.max_tokens and the closing together"
    check_fits(source, tokenizer, length + behind, role=role, setting=asked)
    return kind(tokenizer, template, length, closing=settings.closing, **more)
