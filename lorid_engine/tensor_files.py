"""Safetensors files, memory-mapped: the only format of weights that is read. Nothing is ever unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lorid_engine.errors import CheckpointError

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def open_safetensors(path: Path) -> Any:
    """Maps a safetensors file.

    Raises:
        CheckpointError: the file is missing, cut short, or of another format.
    """
    try:
        return safe_open(str(path), framework="pt")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is no complete safetensors file ({error}); delete it and fetch or save it again"
        ) from None
