"""target_losses: cross-entropy of the head's logits, whose gradient is made in the forward pass, a few rows at a time."""

from __future__ import annotations

from typing import Any

import torch

# Logits at once: enough for the products to be fast, few enough for the memory of a machine and of a GPU.
_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 28}


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
        vocabulary = head.shape[0]
        passes = max(1, -(-features.shape[0] * vocabulary // _LOGITS[features.device.type]))
        step = max(1, -(-features.shape[0] // passes))
        # The same memory each time, in float32: new pages cost as much as what is written to them.
        logits = features.new_empty(step, vocabulary)
        log_p = features.new_empty(step, vocabulary, dtype=torch.float32)
        for begin in range(0, features.shape[0], step):
            rows = slice(begin, min(begin + step, features.shape[0]))
            count = rows.stop - begin
            torch.mm(features[rows], head.t(), out=logits[:count])
            error = torch.log_softmax(logits[:count], dim=1, dtype=torch.float32, out=log_p[:count])
            right = error.gather(1, label[rows].unsqueeze(1))
            losses.index_add_(0, group[rows], -right.squeeze(1))
            if gradient is not None:
                error.exp_().scatter_add_(1, label[rows].unsqueeze(1), torch.full_like(right, -1.0))
                torch.mm(error.to(head.dtype), head, out=gradient[rows])
        if gradient is not None:
            ctx.save_for_backward(gradient, group, weight)
        return losses * weight

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        gradient, group, weight = ctx.saved_tensors
        factor = (grads[0] * weight)[group].unsqueeze(1)  # float32: rounded, it would scale a whole role's gradient
        return (gradient * factor).to(gradient.dtype), None, None, None, None


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
