"""Makes this source tree importable: lorid_engine, and kernels/ as lorid_kernels, installed or not."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def prepare(*, interprets: bool) -> None:
    """To be called before Triton is imported, which reads TRITON_INTERPRET once."""
    if interprets:
        os.environ["TRITON_INTERPRET"] = "1"
    else:
        os.environ.pop("TRITON_INTERPRET", None)
    sys.path.insert(0, str(ROOT))
    spec = importlib.machinery.ModuleSpec("lorid_kernels", None, is_package=True)
    spec.submodule_search_locations = [str(ROOT / "kernels")]
    sys.modules["lorid_kernels"] = importlib.util.module_from_spec(spec)
