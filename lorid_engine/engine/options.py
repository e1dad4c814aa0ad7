"""What an engine's options may be, and what they default to."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from lorid_engine import env
from lorid_engine.errors import BackendUnavailableError, ConfigError
from lorid_engine.model.gguf import hf_folder_from_gguf
from lorid_engine.model.hub import hub_folder, is_hub_id
from lorid_engine.ops import gpu
from lorid_engine.ops.asked import asked_backend

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class EngineOptions:
    """The options of Engine, which describes them.

    Raises:
        ConfigError, BackendUnavailableError: an option is out of range or not to be had; the message names it.
    """

    dtype: str | torch.dtype = "bfloat16"
    device: str = "cpu"
    threads: int | None = None
    max_batch_rows: int = 64
    kv_memory: int | None = None
    max_batch_tokens: int = 512
    active_adapters: int = 2

    def __post_init__(self) -> None:
        if self._dtype_name not in _DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(_DTYPES)}; got {self.dtype!r}")
        self._check_device()
        for option, most in (
            ("threads", 1024),
            ("max_batch_rows", 2**16),
            ("kv_memory", 2**60),
            ("max_batch_tokens", 2**20),
            ("active_adapters", 2**16),
        ):
            value = getattr(self, option)
            if value is None and option in ("threads", "kv_memory"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                raise ConfigError(f"{option} must be a whole number from 1 to {most}; got {value!r}")
        if self.max_batch_tokens < self.max_batch_rows:
            raise ConfigError(
                f"max_batch_tokens must be at least max_batch_rows = {self.max_batch_rows}, one token a row; "
                f"got {self.max_batch_tokens}"
            )

    def _check_device(self) -> None:
        if not isinstance(self.device, str) or not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", self.device):
            raise ConfigError(f"device must be 'cpu', 'cuda' or 'cuda:' and a number; got {self.device!r}")
        asked = asked_backend()
        if asked in ("reference", "torch"):
            raise BackendUnavailableError(
                f"LORID_BACKEND={asked} computes single ops; an engine runs on the C++ or the Triton backend: unset the variable"
            )
        if self.device == "cpu":
            if asked == "triton" and not gpu.interprets():
                raise BackendUnavailableError(
                    "LORID_BACKEND=triton runs on device 'cuda', or interpreted on the CPU with TRITON_INTERPRET=1"
                )
            known = ("float16", "float32") if asked == "triton" else ("bfloat16", "float32")
            if self._dtype_name not in known:
                raise ConfigError(f"dtype {self._dtype_name} is for GPUs; on the CPU take {' or '.join(known)}")
            return
        if asked == "cpu":
            raise BackendUnavailableError(f"LORID_BACKEND=cpu cannot run on device {self.device!r}: unset the variable")
        if (reason := gpu.why_not()) is not None or gpu.interprets():
            raise BackendUnavailableError(
                f"device {self.device!r} cannot be used: {reason or 'TRITON_INTERPRET is set, which runs kernels on the CPU'}"
            )
        if torch.device(self.device).index is not None and torch.device(self.device).index >= torch.cuda.device_count():
            raise BackendUnavailableError(
                f"device {self.device!r} cannot be used: there are {torch.cuda.device_count()} GPUs, numbered from 0"
            )

    @property
    def uses_kernels(self) -> bool:
        """Whether steps run on the Triton backend: on a GPU, or interpreted on the CPU where it was asked for."""
        return gpu.takes(self.device)

    @property
    def _dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of weights and activations."""
        return _DTYPES[self._dtype_name]


def base_folder(base: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder in Hugging Face's format of a base: itself, what a .gguf file is converted into, or a hub's model, fetched.

    Raises:
        CheckpointError: it cannot be fetched or converted.
        ConfigError: a revision of something that has none.
    """
    if isinstance(base, str) and is_hub_id(base):
        return hub_folder(base, revision)
    if revision is not None:
        raise ConfigError(f"revision is for models of a hub (organisation/name); the base is {os.fspath(base)!r}")
    path = Path(base)
    return hf_folder_from_gguf(path, env.cache_dir()) if path.suffix == ".gguf" else path


def free_memory() -> int:
    """Bytes that can be had without swapping, as far as the system tells; else 4 GiB."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 * 2**30
