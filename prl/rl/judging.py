"""Judges of a run: on their device only while they judge, and over answers without thoughts."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from prl.data.thoughts import CLOSE, opens_thoughts, without_thoughts
from prl.distributed import global_sum
from prl.judge.base import PairwiseJudge
from prl.models.adapters import AdapterOnBase
from prl.models.collective import CollectiveForward
from prl.models.offload import Offload
from prl.models.policy import in_own_type
from prl.rewards.base import RewardSource, against_anchors
from prl.rl.sharding import Sharding
from prl.types import Conversation, Critique, Rollout, Scores
from prl.verdict import Verdict


class Judging:
    """The reward source, and a held-out judge that never gives rewards.

    Args:
        reward: the reward source of the run.
        heldout: held-out judge of validations; None for none.
        with_thoughts: have judges and rules read the thoughts in front of an answer too.
        tokenizer: the policy's tokenizer; its chat template decides whether a response begins within thoughts.
        offload: keeps models off their device while they are idle.
        sharding: how weights are sharded over processes.
        phase: measures a phase of a batch by its name, where one judges inside another.
    """

    def __init__(
        self,
        reward: RewardSource,
        heldout: PairwiseJudge | None,
        *,
        with_thoughts: bool,
        tokenizer: Any,
        offload: Offload,
        sharding: Sharding,
        phase: Callable[[str], AbstractContextManager[Any]] = nullcontext,
        own_anchors: bool = False,
    ) -> None:
        self.reward, self.heldout, self.with_thoughts = reward, heldout, with_thoughts
        self._tokenizer, self._offload, self._sharding = tokenizer, offload, sharding
        self._phase, self._own_anchors = phase, own_anchors

    @contextmanager
    def at_work(self, judge: RewardSource) -> Iterator[None]:
        """Keep a judge on its device and in its own type until all processes have finished judging."""
        device = self._sharding.device
        with self._offload.on_device(judge, device), in_own_type(device):
            yield
            self._finish(judge)

    def score(self, rollout: Rollout, *, per_token: bool = True) -> Scores:
        """Reward each response, against its anchors.

        Args:
            rollout: the responses.
            per_token: have the source say what it says of single tokens, which only an update reads.

        Raises:
            ValueError: when no response on any rank got a reward, though some should have.
        """
        source = self.reward if per_token else self.reward.per_response()
        with self.at_work(source):
            scores = source.score(self.answers(rollout)).to(self._sharding.device)
        rewarded, lost = global_sum(torch.stack([(~scores.failed).sum(), scores.lost.sum()])).tolist()
        if lost and not rewarded:
            raise ValueError(
                f"none of the {len(rollout)} responses could be rewarded; the last failure: "
                f"{self.reward.failure() or 'the reward is not a number, as of a model whose weights are damaged'}"
            )
        return scores

    def critique(self, rollout: Rollout) -> list[Critique]:
        """Ask the reward what each response lacks, while the rollout goes on."""
        with self._phase("judge"), self.at_work(self.reward):
            return self.reward.critique(self.answers(rollout))

    def compare_heldout(self, rollout: Rollout) -> Verdict:
        """Compare each response with each of its anchors under the held-out judge, which must be set."""
        assert self.heldout is not None
        with self.at_work(self.heldout):
            return against_anchors(self.heldout.compare, self.answers(rollout))[0]

    def second_opinion(self, prompts: list[Conversation], a: list[str], b: list[str]) -> Verdict:
        """Compare in both orders under the held-out judge where the run has one, else under the reward's judge.

        Raises:
            ValueError: when the reward does not come from comparisons.
        """
        if not self.with_thoughts:
            a, b = ([self._anchor_answer(text) for text in texts] for texts in (a, b))
        # A judge may be around another one, which it has among its leaves.
        judges = [source for source in (self.reward, *self.reward.leaves()) if isinstance(source, PairwiseJudge)]
        for judge in filter(None, (self.heldout, *judges)):
            with self.at_work(judge):
                return judge.compare(prompts, a, b)
        raise ValueError("an AnchorBank asks a judge about each new anchor, and this run has rules only; add a judge")

    def answers(self, rollout: Rollout) -> Rollout:
        """Remove thoughts from anchors and responses, unless judges read them (`judge_thoughts`)."""
        if self.with_thoughts:
            return rollout
        anchors = [tuple(map(self._anchor_answer, some)) for some in rollout.batch.anchors]
        texts = [without_thoughts(text, opened=self._opens) for text in rollout.texts]
        return replace(rollout.anchored(anchors), texts=texts)

    def answer(self, text: str) -> str:
        """Remove the thoughts from one response of the policy, unless judges read them."""
        return text if self.with_thoughts else without_thoughts(text, opened=self._opens)

    def _anchor_answer(self, text: str) -> str:
        # An anchor of a file may have come without its thoughts, whatever the policy's prompts end with. One that a
        # policy wrote is read as a response is, so that a response is always the equal of itself.
        return without_thoughts(text, opened=self._opens and (self._own_anchors or CLOSE in text))

    @cached_property
    def _opens(self) -> bool:
        return opens_thoughts(self._tokenizer)

    def _finish(self, judge: RewardSource) -> None:
        """Join the forward passes of other processes until all have finished judging."""
        for source in judge.leaves():
            model = getattr(source, "model", None)
            if isinstance(model, CollectiveForward):
                model.finish()
                self._sharding.reshard_frozen(model)


def shard_judge(judge: RewardSource, sharding: Sharding, precision: Any, *, cut: bool) -> None:
    """Keep processes in step where a judge has sharded weights.

    Args:
        judge: a loaded judge.
        sharding: how weights are sharded; where none are, the judge does not change.
        precision: `trainer.precision`.
        cut: shard the judge's own models; those on the policy's base model are sharded already.

    Raises:
        ValueError: when the strategy would convert a judge to another type.
    """
    _check_type(judge, sharding, str(precision), cut=cut and sharding.cuts_weights)
    if not sharding.cuts_weights:
        return
    for source in judge.leaves():
        each: Any = source
        model: Any = getattr(each, "model", None)
        on_base = isinstance(model, AdapterOnBase)
        if cut and getattr(each, "reasoning", None) is not None:
            raise ValueError(
                f"the judge in {source.folder} reasons, and a thought is sampled from whole weights; set "
                "resources.shard_judges: false"
            )
        if on_base or (model is not None and cut):
            each.model = CollectiveForward(model if on_base else sharding.shard(model), sharding.device)
            if getattr(each, "prefixes", None) is not None:
                each.prefixes.model = each.model


def _check_type(judge: RewardSource, sharding: Sharding, precision: str, *, cut: bool) -> None:
    """Refuse judges whose weights DeepSpeed would convert: in shards, or on the policy's base. Raises ValueError."""
    if not (sharding.keeps_float32_copies and precision.startswith("bf16")):
        return
    for source in judge.leaves():
        on_base = isinstance(getattr(source, "model", None), AdapterOnBase)
        if (on_base or cut) and source.dtype not in (None, "bfloat16"):
            where = "on the policy's base model" if on_base else "in shards"
            way = "share_base_model" if on_base else "resources.shard_judges"
            raise ValueError(
                f"the judge in {source.folder} is to work in {source.dtype} {where}, which DeepSpeed converts to "
                f"bfloat16 with trainer.precision {precision}; set dtype: bfloat16 for the judge"
                f"{' and the policy' if on_base else ''}, or {way}: false, or trainer.precision: 32-true"
            )
