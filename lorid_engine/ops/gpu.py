"""The Triton backend as the ops see it: whether it is there, and which tensors it takes."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from lorid_engine.ops.asked import asked_backend

LEAST_TRITON = (3, 4)
LEAST_CAPABILITY = (8, 0)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
INTERPRETED_DTYPES = (torch.float16, torch.float32)  # the interpreter's bfloat16 arithmetic is wrong


@functools.cache
def interprets() -> bool:
    """Whether Triton was started with its interpreter (TRITON_INTERPRET=1), which runs kernels on the CPU, for tests."""
    if _missing() is not None:
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)


@functools.cache
def _missing() -> str | None:
    """Which package the Triton backend lacks, or None."""
    for name in ("triton", "lorid_kernels"):
        if importlib.util.find_spec(name) is None:
            return f"the package {name} is not installed"
    version = importlib.metadata.version("triton")
    if tuple(int(part) for part in re.findall(r"[0-9]+", version)[:2]) < LEAST_TRITON:
        return f"triton {'.'.join(map(str, LEAST_TRITON))} or newer is needed; {version} is installed"
    return None


def why_not() -> str | None:
    """Why the Triton backend cannot be used at all, or None."""
    if (missing := _missing()) is not None:
        return missing
    if interprets():
        return None
    if torch.version.hip is not None or not torch.cuda.is_available():
        return "there is no NVIDIA GPU that torch can use"
    if torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        found = ".".join(map(str, torch.cuda.get_device_capability()))
        return f"compute capability 8.0 or newer is needed; {torch.cuda.get_device_name()} has {found}"
    return None


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a GPU the one that kernels are launched on, for as long as the context lasts; nothing for a CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def takes(device: torch.device | str) -> bool:
    """Whether tensors there are the Triton backend's: a GPU's, or a CPU's where it was asked for and is interpreted."""
    kind = torch.device(device).type
    return kind == "cuda" or (kind == "cpu" and asked_backend() == "triton")


def why_not_tensors(*tensors: torch.Tensor) -> str | None:
    """Why the Triton backend cannot take these activations and weights, or None."""
    for tensor in tensors:
        if not takes(tensor.device) or (tensor.device.type == "cpu" and not interprets()):
            return f"it takes tensors on a GPU (on the CPU with TRITON_INTERPRET=1); got {tensor.device}"
        dtypes = INTERPRETED_DTYPES if tensor.device.type == "cpu" else DTYPES
        if tensor.dtype not in dtypes:
            return f"it takes {', '.join(str(dtype)[6:] for dtype in dtypes)}; got {tensor.dtype}"
    return _missing()
