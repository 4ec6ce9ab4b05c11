"""Exact KL between two language models over the vocabulary, a slice of states at a time: logits are never whole."""

from typing import Any

import torch
from torch import Tensor

from prl.models.logprobs import in_slices, logits_setting, tokens_at_once


def check_heads(policy: Any, reference: Any) -> None:
    """Refuse models whose heads do not say what their logits are, or that are over different vocabularies.

    Raises:
        ValueError: naming the setting of a config by which a model changes its logits, where it has one.
    """
    for role, model in {"policy": policy, "reference": reference}.items():
        reason = logits_setting(model.config)
        if reason is not None or not getattr(model, "_prl_head_is_last", True):
            raise ValueError(
                f"the {role}, a {type(model).__name__}, changes logits after its language head "
                f"({reason or 'its config does not say how'}), and the exact KL over the vocabulary reads heads alone; "
                "take another model, or an objective without this KL"
            )
    sizes = [model.get_output_embeddings().out_features for model in (policy, reference)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the policy has a vocabulary of {sizes[0]} and the reference of {sizes[1]}, so there is no KL between "
            "them; take a reference of the policy's kind"
        )


def base_head(model: Any) -> Any:
    """Return the language head without adapters."""
    head = model.get_output_embeddings()
    return getattr(head, "base_layer", head)


def token_kl(head: Any, hidden: Tensor, ref_head: Any, ref_hidden: Tensor, mask: Tensor) -> Tensor:
    """Compute KL(pi || pi_ref) of the next token in each state, with gradient for the policy: [N, T] float32, nats.

    Args:
        head: language head of the policy.
        hidden: [N, T, D] its last hidden states.
        ref_head: head of the reference.
        ref_hidden: [N, T, D'] the reference's states.
        mask: [N, T] bool, True on states that count; 0 elsewhere.
    """

    def read(states: Tensor, others: Tensor) -> Tensor:
        policy = head(states).float().log_softmax(-1)
        with torch.no_grad():
            reference = ref_head(others).float().log_softmax(-1)
        return (policy.exp() * (policy - reference)).sum(-1)

    states = hidden[mask]
    found = in_slices(read, head, tokens_at_once(head), states, ref_hidden[mask])
    values = torch.cat(found)[: len(states)] if found else hidden.new_zeros(0).float()
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
