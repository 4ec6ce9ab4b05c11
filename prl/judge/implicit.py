"""DPO's implicit reward in the place of a judge: p(u > v) = sigma(beta (rho(u) - rho(v)))."""

from typing import Any

from prl.data.tokens import tokenizer_hash
from prl.judge.differences import DifferenceJudge
from prl.judge.lineage import base_hash, weights_hash
from prl.rewards.folder import judge_folder
from prl.rewards.implicit import ImplicitReward


class ImplicitJudge(DifferenceJudge, ImplicitReward):
    """Compare responses by the implicit reward of a policy that was trained on pairs, and its reference.

    A policy that is its reference has no opinion: each comparison is a tie.

    Args:
        path: folder or hub id of the policy.
        reference: folder or hub id of the reference of its training.
        beta: scale of the margins; that of the training gives the probabilities that its loss fitted.
        per_token: divide each reward by the number of tokens.
        max_length: longest prompt and response, tokens; longer ones are truncated. The model's positions, at most
            4096, when null.
        dtype: type of the weights at inference.
        batch_size: responses per forward pass.
    """

    def describe(self) -> dict[str, Any] | None:
        """Describe all that decides a margin, as a report names it; `load` comes first."""
        assert self.encoder is not None, "call load() first"
        policy, reference = judge_folder(self.path), judge_folder(self.reference_path)
        bases = {"base_sha256": base_hash(policy), "reference_base_sha256": base_hash(reference)}
        return {
            "kind": "implicit",
            "max_length": self.encoder.max_length,
            "beta": self.beta,
            "per_token": self.per_token,
            "tokenizer_sha256": tokenizer_hash(self.encoder.tokenizer),
            "weights_sha256": weights_hash(policy),
            "reference_sha256": weights_hash(reference),
            "dtype": self.dtype,
            **{name: each for name, each in bases.items() if each is not None},  # of adapters
        }
