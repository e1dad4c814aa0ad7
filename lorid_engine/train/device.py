"""Where a run computes, and in what."""

from __future__ import annotations

import torch

from lorid_engine.errors import BackendUnavailableError, ConfigError
from lorid_engine.ops import cpu


def training_device(name: str) -> torch.device:
    """Where a run computes.

    Raises:
        ConfigError: neither cpu nor cuda.
        BackendUnavailableError: cuda, and there is none.
    """
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"the device must be cpu or cuda; got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError(
            f"the device cuda was asked for, but torch {torch.__version__} finds no GPU that it can use; train with "
            "--device cpu, or install a build of torch for this GPU"
        )
    return torch.device(name)


def training_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of base and activations: bfloat16 where the device multiplies it, unless another is named."""
    if name != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]
    if device.type == "cuda":
        return torch.bfloat16
    fast = cpu.why_not() is None and cpu.extension().active_isa() == "avx512bf16"
    return torch.bfloat16 if fast else torch.float32
