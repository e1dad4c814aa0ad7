"""The torch backend as the ops see it: torch's own kernels, on any device, for training; which tensors it takes."""

from __future__ import annotations

import torch

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def why_not_tensors(*tensors: torch.Tensor) -> str | None:
    """Why the torch backend cannot take these activations, or None."""
    for tensor in tensors:
        if tensor.dtype not in DTYPES:
            return f"it takes {', '.join(str(dtype)[6:] for dtype in DTYPES)}; got {tensor.dtype}"
    return None
