"""target_losses: cross-entropy of the head's logits, whose gradient is made in the forward pass, a few rows at a time."""

from __future__ import annotations

from typing import Any

import torch

_ROWS_OF_LOGITS = 128  # at once: so many rows of logits stay in a processor's last cache
_LOGITS_ON_GPU = 1 << 28  # at once: 1 GiB, enough for the products to be large


def _rows_at_once(features: torch.Tensor, vocabulary: int) -> int:
    if features.device.type == "cpu":
        return _ROWS_OF_LOGITS
    return max(_ROWS_OF_LOGITS, _LOGITS_ON_GPU // vocabulary)


class _TargetLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        head: torch.Tensor,
        label: torch.Tensor,
        group: torch.Tensor,
        weight: torch.Tensor,
    ) -> torch.Tensor:
        losses = features.new_zeros(weight.numel(), dtype=torch.float32)
        needs_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(features) if needs_gradient else None
        step = _rows_at_once(features, head.shape[0])
        for begin in range(0, features.shape[0], step):
            rows = slice(begin, begin + step)
            logits = (features[rows] @ head.t()).float()
            logits -= logits.amax(dim=1, keepdim=True)
            right = logits.gather(1, label[rows].unsqueeze(1))
            total = logits.exp_().sum(dim=1, keepdim=True)
            losses.index_add_(0, group[rows], (total.log() - right).squeeze(1))
            if gradient is not None:
                logits /= total
                logits.scatter_add_(1, label[rows].unsqueeze(1), torch.full_like(right, -1.0))
                logits *= weight[group[rows]].unsqueeze(1)
                torch.mm(logits.to(head.dtype), head, out=gradient[rows])
        if gradient is not None:
            ctx.save_for_backward(gradient, group)
        return losses * weight

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        gradient, group = ctx.saved_tensors
        return gradient * grads[0][group].unsqueeze(1).to(gradient.dtype), None, None, None, None


def target_losses(
    features: torch.Tensor, head: torch.Tensor, label: torch.Tensor, group: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of the head's logits, summed by group and weighed; the logits of few rows exist at a time.

    Args:
        features: [K, E], of which there is a gradient.
        head: [V, E] frozen.
        label: [K] int64 token ids.
        group: [K] int64, from 0 to G - 1.
        weight: [G] float32 factor of each group's sum.

    Returns:
        [G] float32.
    """
    return _TargetLosses.apply(features, head, label, group, weight)
