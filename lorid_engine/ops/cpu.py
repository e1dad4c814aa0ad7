"""The C++ backend as the ops see it: loading, threads, dtypes, and tensors as addresses."""

from __future__ import annotations

import ctypes
import functools
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lorid_engine import env
from lorid_engine.errors import BackendUnavailableError, ConfigError

DTYPES = (torch.bfloat16, torch.float32)


@functools.cache
def _load() -> ModuleType | str:
    try:
        from lorid_engine import _C
    except ImportError as error:
        return f"the C++ extension is not built ({error}); install the package with a C++17 compiler"
    if (isa := env.isa()) is not None:
        try:
            _C.set_isa(isa)
        except ValueError as error:
            raise ConfigError(f"LORID_ISA: {error}") from None
    _share_threads_of_torch(_C)
    return _C


def why_not() -> str | None:
    """Why the C++ backend cannot be used at all, or None."""
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def extension() -> Any:
    """The extension module; raises BackendUnavailableError where it is missing."""
    loaded = _load()
    if isinstance(loaded, str):
        raise BackendUnavailableError(loaded)
    return loaded


def threads() -> int:
    """How many threads the engine uses: LORID_THREADS, or the cores that this process may run on."""
    return env.threads() or extension().available_cores()


def op_threads() -> int:
    """How many threads a single op uses: LORID_THREADS, or as many as torch would, whose threads they are."""
    return env.threads() or extension().max_host_threads() or extension().available_cores()


def _share_threads_of_torch(loaded: ModuleType) -> None:
    """Has single ops run on the threads of the OpenMP that torch computes with, if there is one: they spin for milliseconds
    after each op of torch's, and threads of our own would share the cores with them."""
    names = {"parallel": "GOMP_parallel", "thread_num": "omp_get_thread_num", "max_threads": "omp_get_max_threads"}
    if _in_child:  # of a fork, where OpenMP's threads are not
        return
    for find in (lambda: None, lambda: _openmp_of_torch(Path("/proc/self/maps").read_text())):
        try:
            path = find()
            library = ctypes.CDLL(path)  # None: what the whole process sees, as where a runtime is preloaded
            places = {key: ctypes.cast(getattr(library, name), ctypes.c_void_p).value for key, name in names.items()}
        except (OSError, AttributeError):  # no such file, or a runtime without GNU's entry points
            continue
        loaded.set_host_threads(**places)
        return


def _note_child() -> None:
    global _in_child
    _in_child = True


_in_child = False
os.register_at_fork(after_in_child=_note_child)


def _openmp_of_torch(maps: str) -> str | None:
    """The OpenMP runtime among a process's mapped files; of several, the one beside torch."""
    paths = {fields[5] for line in maps.splitlines() if len(fields := line.split(maxsplit=5)) == 6}
    found = sorted(path for path in paths if re.match(r"lib(gomp|iomp5|omp)\b", Path(path).name))
    if len(found) > 1:  # other packages bring copies of their own
        own = Path(torch.__file__).resolve().parent
        found = [path for path in found if {own, own.with_name("torch.libs")} & {*Path(path).resolve().parents}]
    return found[0] if len(found) == 1 else None


def why_not_tensors(*tensors: torch.Tensor) -> str | None:
    """Why the C++ backend cannot take these activations and weights (all of one dtype), or None."""
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"it takes tensors on the CPU; got {tensor.device}"
        if tensor.dtype not in DTYPES:
            return f"it takes bfloat16 and float32; got {tensor.dtype}"
    return why_not()


def why_not_heads(head_dim: int, heads_per_group: int = 1) -> str | None:
    """Why the C++ backend cannot take heads of this size, or so many to one key-value head; or None."""
    if (missing := why_not()) is not None:
        return missing
    if head_dim > extension().MAX_HEAD_DIM:
        return f"it takes head_dim up to {extension().MAX_HEAD_DIM}; got {head_dim}"
    if heads_per_group > extension().MAX_GROUP_HEADS:
        return f"it takes up to {extension().MAX_GROUP_HEADS} query heads to a key-value head; got {heads_per_group}"
    return None


def dtype(tensor: torch.Tensor) -> Any:
    """The extension's name for a tensor's dtype."""
    return extension().DType.bf16 if tensor.dtype == torch.bfloat16 else extension().DType.f32


def segments(rows: int, seg_offset: torch.Tensor, seg_slot: torch.Tensor) -> Any:
    """A segment plan's tensors as addresses."""
    return extension().Segments(
        rows=rows, count=seg_slot.numel(), offset=seg_offset.data_ptr(), slot=seg_slot.data_ptr()
    )
