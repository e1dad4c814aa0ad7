"""target_losses: values and gradients against float64, in few passes and many."""

from __future__ import annotations

import pytest
import torch

from helpers import assert_close
from lorid_engine.train import losses


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 1 / 200)])
@pytest.mark.parametrize("at_once", [1, 3 * 50, 1 << 24])
def test_losses_and_gradients(
    at_once: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that bfloat16 cannot hold: rounded, they would scale every gradient of a group."""
    monkeypatch.setattr(losses, "_LOGITS", {"cpu": at_once})
    random = torch.Generator().manual_seed(0)
    features, head = (torch.randn(rows, 16, generator=random).to(dtype) for rows in (11, 50))
    label, group = torch.randint(50, (11,), generator=random), torch.tensor([0] * 5 + [2] * 6)
    weight = torch.tensor([1 / 1001, 7.0, 1 / 771])
    results = []
    for kind in (torch.float64, dtype):
        leaf = features.to(kind).requires_grad_()
        if kind == torch.float64:
            each = torch.nn.functional.cross_entropy(leaf @ head.double().t(), label, reduction="none")
            out = torch.zeros(3, dtype=kind).index_add(0, group, each) * weight
        else:
            out = losses.target_losses(leaf, head, label, group, weight)
        (out * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        results.append((out.detach(), leaf.grad))
    (expected, expected_grad), (actual, grad) = results
    assert_close(actual, expected, tolerance)
    assert_close(grad, expected_grad, tolerance)
    for rows in (group == 0, group == 2):  # as a whole, far closer than an element: what rounds is not the factor
        share = (grad[rows].double() * expected_grad[rows]).sum() / expected_grad[rows].square().sum()
        assert float(share) == pytest.approx(1.0, abs=1e-3)


def test_nothing_to_predict() -> None:
    features = torch.zeros(0, 4, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.int64)
    out = losses.target_losses(features, torch.ones(7, 4), nothing, nothing, torch.ones(2))
    out.sum().backward()
    assert out.tolist() == [0.0, 0.0] and features.grad.shape == (0, 4)
