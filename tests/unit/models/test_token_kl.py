"""The exact KL in slices, beside whole logits."""

import pytest
import torch
from torch import nn

from prl.models import logprobs
from prl.models.token_kl import token_kl
from tests.helpers.records import ragged_mask


def test_slices_give_the_kl_and_its_gradients_of_whole_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    policy, reference = nn.Linear(5, 11), nn.Linear(3, 11)
    hidden, others = torch.randn(2, 4, 5, requires_grad=True), torch.randn(2, 4, 3)
    mask = ragged_mask([4, 1])

    def squares(kl: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(kl.square().sum(), [hidden, *policy.parameters()])

    ours, theirs = policy(hidden).log_softmax(-1), reference(others).log_softmax(-1)
    whole = nn.functional.kl_div(theirs, ours, reduction="none", log_target=True).sum(-1) * mask
    expected = squares(whole)
    for at_once in (2**25, 33, 1):  # together, in slices of three tokens, one by one
        monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", at_once)
        found = token_kl(policy, hidden, reference, others, mask)
        torch.testing.assert_close(found, whole)
        torch.testing.assert_close(squares(found), expected)
    assert all(each.grad is None for each in reference.parameters())
    assert not token_kl(policy, hidden, policy, hidden, mask).any()
    assert token_kl(policy, hidden, reference, others, mask & False).tolist() == [[0.0] * 4] * 2
