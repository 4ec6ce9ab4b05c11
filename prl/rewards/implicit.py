"""The reward that a policy trained on pairs implies: how much more probable it makes a response than its reference."""

from typing import Any

import torch
from torch import Tensor

from prl.config import ModelSource
from prl.data.encoding import TurnEncoder
from prl.data.tokens import right_pad
from prl.models.limits import check_fits, check_same_ids, most_positions
from prl.models.loading import freeze, load_causal_lm, load_tokenizer, on_meta_device, read_config
from prl.models.logprobs import completion_logprobs
from prl.models.policy import in_own_type
from prl.objectives.logistic import check_beta
from prl.objectives.preference.base import ScoredResponses
from prl.rewards.per_response import PerResponseReward
from prl.rewards.plain_model import LONGEST


def implicit_reward(responses: ScoredResponses, beta: float, per_token: bool = False) -> Tensor:
    """Compute beta times the log-ratio of each response (2305.18290, equation 5, without its constant): [N].

    Args:
        responses: log-probabilities of N responses under policy and reference.
        beta: scale; it changes no order.
        per_token: divide by the number of tokens, which changes orders.
    """
    rewards = beta * responses.log_ratio()
    return rewards / responses.lengths.clamp(min=1) if per_token else rewards


class ImplicitReward(PerResponseReward):
    """Reward beta * sum_t (log pi - log pi_ref) of a policy trained on pairs, as DPO defines it (2305.18290).

    It is known up to a number of the prompt, so it compares responses to one prompt only. Tokens are those of the
    policy's training: the response and the token that ends it, behind the prompt in the chat template. Both models are
    whole on each process, `resources.shard_judges` or not. How it generalises beside a reward model: 2409.03650.

    Args:
        path: folder or hub id of the policy.
        reference: folder or hub id of the reference of its training.
        beta: scale of the rewards; that of the training gives the probabilities that its loss fitted.
        per_token: divide by the number of tokens.
        max_length: longest prompt and response, tokens; longer ones are truncated. The model's positions, at most
            4096, when null.
        dtype: type of the weights at inference.
        batch_size: responses per forward pass.

    Raises:
        ValueError: for a beta that is not above 0.
    """

    def __init__(
        self,
        path: str,
        reference: str,
        beta: float = 0.1,
        per_token: bool = False,
        max_length: int | None = None,
        dtype: str = "float32",
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        check_beta(type(self).__name__, beta)
        self.path, self.reference_path, self.beta, self.per_token = path, reference, beta, per_token
        self.max_length, self.dtype, self.batch_size = max_length, dtype, batch_size
        self.policy: Any = None
        self.reference: Any = None

    def model_sources(self) -> dict[str, ModelSource]:
        """Return the sources of policy and reference."""
        paths = {"policy": self.path, "reference": self.reference_path}
        return {role: ModelSource(path=path, dtype=self.dtype) for role, path in paths.items()}  # type: ignore[arg-type]

    def longest(self) -> int:
        """Return the length in tokens at which prompt and response are truncated."""
        if self.max_length is not None:
            return self.max_length
        limits = (most_positions(read_config(source)) for source in self.model_sources().values())
        return min(limit or LONGEST for limit in (*limits, LONGEST))

    def load(self) -> None:
        """Load both models and the policy's tokenizer; safe to call twice.

        Raises:
            ValueError: when a model cannot read that length, or the two have different token ids.
        """
        if self.policy is not None:
            return
        sources = self.model_sources()
        tokenizer, length = load_tokenizer(sources["policy"]), self.longest()
        for role, source in sources.items():
            check_fits(source, tokenizer, length, role=role, setting="max_length")
        check_same_ids(sources["reference"], tokenizer, setting="reference")
        self.encoder = TurnEncoder(tokenizer, length, "truncate")
        with on_meta_device(False):  # other judges' weights may come from the first process, in shards
            self.policy, self.reference = (freeze(load_causal_lm(source)) for source in sources.values())

    def _read(self, rows: list[dict[str, Any]], device: torch.device) -> Tensor:
        assert self.encoder is not None
        ids, mask = right_pad([row["ids"] for row in rows], int(self.encoder.tokenizer.pad_token_id))
        starts = torch.tensor([len(row["ids"]) - row["num_response"] for row in rows])
        inputs = [each.to(device) for each in (ids, mask, mask & (torch.arange(ids.shape[1]) >= starts[:, None]))]
        with in_own_type(device):
            logprobs, counted = completion_logprobs(self.policy, *inputs)
            reference, _ = completion_logprobs(self.reference, *inputs)
        return implicit_reward(ScoredResponses(logprobs, counted, reference), self.beta, self.per_token)
