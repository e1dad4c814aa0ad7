"""The environment variables that the package reads; nothing else looks into os.environ."""

from __future__ import annotations

import os
from pathlib import Path

from lorid_engine.errors import ConfigError


def isa() -> str | None:
    """LORID_ISA: the instruction set to use instead of the best one (avx512bf16, avx512, avx2, neon, scalar)."""
    return os.environ.get("LORID_ISA") or None


def threads() -> int | None:
    """LORID_THREADS: how many threads the CPU backend uses instead of one per available core."""
    text = os.environ.get("LORID_THREADS")
    if not text:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise ConfigError(f"LORID_THREADS must be a whole number from 1 to 1024; got {text!r}")
    return int(text)


def backend() -> str | None:
    """LORID_BACKEND: the backend of the ops (cpu, triton, torch, reference) instead of the automatic choice."""
    return os.environ.get("LORID_BACKEND") or None


def vllm() -> bool:
    """LORID_VLLM: 1 has vLLM add its adapters by our ops; anything else leaves vLLM as it is."""
    return os.environ.get("LORID_VLLM") == "1"


def cache_dir() -> Path:
    """LORID_CACHE, else XDG_CACHE_HOME/lorid-engine, else ~/.cache/lorid-engine: fetched and converted base models."""
    try:
        if own := os.environ.get("LORID_CACHE"):
            return Path(own).expanduser()
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base).expanduser() if base else Path.home() / ".cache") / "lorid-engine"
    except RuntimeError as error:  # no such user, or a user without a home
        raise ConfigError(f"the cache folder cannot be told ({error}); set LORID_CACHE to one") from None
