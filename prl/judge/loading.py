"""Loading of a judge of any kind from its folder."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch

from prl.config import DTYPES
from prl.data.rows.records import AnchoredPrompt, RowError
from prl.judge.base import PairwiseJudge
from prl.judge.bradley_terry import BradleyTerryJudge
from prl.judge.general_preference import GeneralPreferenceJudge
from prl.judge.generative import GenerativeJudge
from prl.judge.implicit import ImplicitJudge
from prl.judge.passport import adopt_passport, read_passport
from prl.judge.training_record import read_training, write_training
from prl.models.model_card import copy_card
from prl.rewards.folder import JUDGE_FILE, judge_folder, judge_kind, read_judge_file
from prl.types import Conversation
from prl.verdict import Verdict

log = logging.getLogger(__name__)

_KINDS: dict[str, Callable[..., PairwiseJudge]] = {
    "generative": GenerativeJudge,
    "bradley_terry": BradleyTerryJudge,
    "general_preference": GeneralPreferenceJudge,
}

Text = str | Sequence[dict[str, str]]
"""A text, or a list of messages with role and content."""


def judge_in(
    folder: str | Path, dtype: str = "float32", reference: str | Path | None = None, **options: Any
) -> PairwiseJudge:
    """Make the judge in a folder or under a hub id, of the kind that its settings name; its weights are not read yet.

    Args:
        folder: written by training, `prl export` or `save_pretrained`.
        dtype: float32, bfloat16 or float16.
        reference: reference of a policy that was trained on pairs: then its implicit reward is the judge.
        options: `max_batch_tokens`, `template`, `max_length` and `reasoning` of a generative judge, `batch_size` of one
            that reads responses by themselves; of an implicit one all settings of `ImplicitJudge`.

    Raises:
        ValueError: when the folder holds no judge, or one of an unknown kind.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    if reference is not None:
        return ImplicitJudge(str(folder), str(reference), dtype=dtype, **options)
    local = judge_folder(folder)
    kind = read_judge_file(local)["kind"]
    if kind not in _KINDS:
        raise ValueError(f"{Path(local) / JUDGE_FILE} names the kind {kind!r}; expected one of {', '.join(_KINDS)}")
    if kind != "generative" and (odd := options.keys() & {"template", "max_length", "reasoning"}):
        raise ValueError(f"{sorted(odd)[0]} is of a generative judge, and {folder} holds a {kind} one; leave it out")
    return _KINDS[kind](local, dtype=dtype, **options)


def load_judge(folder: str | Path, dtype: str = "float32", **options: Any) -> PairwiseJudge:
    """Load the judge in a folder or under a hub id, ready to compare; arguments and errors as of `judge_in`."""
    judge = judge_in(folder, dtype, **options)
    judge.load()
    return judge


class Judge:
    """A trained judge for use from Python: text or messages in, verdicts out.

    Args:
        model: a loaded judge; `from_pretrained` loads one.
    """

    def __init__(self, model: PairwiseJudge) -> None:
        self.model = model
        self._told_of_cuts = False

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "float32",
        **options: Any,
    ) -> Self:
        """Load a judge; its folder decides its kind.

        Args:
            path: folder that training, `prl export` or `save_pretrained` wrote, or the id of one on the hub.
            device: device of the model; None is the first GPU, else the CPU.
            dtype: float32, bfloat16 or float16.
            options: as of `judge_in`; with `reference` the implicit reward of a policy is the judge.

        Raises:
            ValueError: when there is no judge.
        """
        model = load_judge(path, str(dtype).removeprefix("torch."), **options)
        return cls(model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the judge as a folder that transformers loads too, adapters merged, with a card.

        The passport and the card of its source folder are copied where they still hold.

        Raises:
            ValueError: for a judge that has no files, or a file in the place of the folder.
        """
        source = self.model.folder
        # Read first: both folders may be one.
        passport, training = (None, None) if source is None else (read_passport(source), read_training(source))
        self.model.save_pretrained(folder)
        copy_card(source, folder, judge_kind(folder))
        if training is not None:
            write_training(folder, training)
        adopt_passport(folder, passport)

    def compare(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]) -> Verdict:
        """Judge every pair of responses in both orders, in batches of like lengths.

        White space around a response is stripped, as in training. Texts longer than the judge's `max_length` are
        truncated as in training, with a warning the first time.

        Args:
            prompts: N texts of the user, or lists of messages that end with the turn to answer.
            a: N responses, each a text or a list with one assistant message.
            b: N responses to compare them with.

        Returns:
            On the CPU, [N] each: `win_prob` that a is better, debiased over both orders; its log-odds `win_logit` (the
            margin); `order_gap`, how far the two orders disagree, in [0, 1].

        Raises:
            ValueError: when the lists differ in length, or one of their entries is no text.
        """
        for name, texts in (("prompts", prompts), ("a", a), ("b", b)):
            if isinstance(texts, str):
                raise ValueError(f"{name} is one text; expected a list of texts, one for each comparison")
        verdict = self.model.compare(
            [_prompt(text, f"prompts[{i}]") for i, text in enumerate(prompts)],
            [_response(text, f"a[{i}]") for i, text in enumerate(a)],
            [_response(text, f"b[{i}]") for i, text in enumerate(b)],
        )
        if (share := self.model.truncated_fraction()) and not self._told_of_cuts:
            log.warning("%.1f %% of what the judge has read was longer than its max_length and was cut", 100 * share)
            self._told_of_cuts = True
        return verdict.to("cpu")


def _prompt(text: Text, where: str) -> Conversation:
    try:
        (record,) = AnchoredPrompt.parse({"prompt": text if isinstance(text, str) else list(text)})
    except (RowError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None
    return record.prompt


def _response(text: Text, where: str) -> str:
    if isinstance(text, str):
        return text.strip()
    try:
        (message,) = text
        if message["role"] == "assistant":
            return message["content"].strip()
    except (TypeError, ValueError, KeyError, AttributeError):
        pass
    raise ValueError(f"{where} is {str(text)[:60]!r}; expected a text or a list with one assistant message")
