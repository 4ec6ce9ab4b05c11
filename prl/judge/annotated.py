"""A judge on pairs that people have annotated."""

import numpy as np

from prl.data.rows.annotations import Annotations
from prl.evaluation.judge.people import Annotated, categories_of
from prl.judge.base import PairwiseJudge
from prl.types import Conversation


def judge_annotated(judge: PairwiseJudge, annotations: Annotations, tie_margin: float = 0.0) -> Annotated:
    """Judge all annotated pairs in both orders.

    Kappa depends on which response is called the first one, through the shares of the categories. It is the first one
    of the file, so that a file in which one column wins more often has that in its base rates. Where the order gives
    the labels away (`Annotations.order_tells`), it is drawn by a hash of the pair's content: otherwise every label
    would be the same, and agreement by chance complete.

    Args:
        judge: a loaded judge.
        annotations: what people say.
        tie_margin: largest log-odds, either way, that are a tie of the judge; with 0 exactly undecided ones are.

    Raises:
        ValueError: when the judge gives numbers that are not finite.
    """
    pairs, annotators, tells = annotations.pairs, annotations.annotators, annotations.order_tells()
    texts = [pair.responses for pair in pairs]
    logit = debiased_logits(judge, [pair.prompt for pair in pairs], [a for a, _ in texts], [b for _, b in texts])
    first = np.array([pair.drawn_first() if tells else pair.listed_first for pair in pairs])
    side = np.where(first == 0, 1.0, -1.0)
    number_of = {who: n for n, who in enumerate(annotators)}
    said = [(n, number_of[who], each - 0.5) for n, pair in enumerate(pairs) for who, each in pair.annotations.items()]
    pair_of, annotator_of, signed = (np.array(column) for column in zip(*said, strict=True))
    longer = np.array([len(a) - len(b) for a, b in texts], dtype=float)
    return Annotated(
        categories_of(side * logit, margin=tie_margin),
        pair_of,
        annotator_of,
        categories_of(side[pair_of] * signed),
        annotators,
        [pair.key for pair in pairs],
        categories_of(side * longer),
        [pair.source for pair in pairs],
    )


def debiased_logits(judge: PairwiseJudge, prompts: list[Conversation], a: list[str], b: list[str]) -> np.ndarray:
    """Compute the debiased log-odds that each `a` is better: [N] float64.

    Raises:
        ValueError: when the judge gives numbers that are not finite.
    """
    logits = judge.compare(prompts, a, b).win_logit.double().cpu().numpy()
    if broken := int((~np.isfinite(logits)).sum()):
        raise ValueError(f"{broken} of {len(logits)} margins are not finite numbers; the judge's weights are broken")
    return logits
