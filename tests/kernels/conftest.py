"""Which of these modules a process runs: test_compile.py compiles kernels, all others interpret them.

Triton decides at its import, by TRITON_INTERPRET, so one process cannot do both. tests/test_kernels.py starts those that
interpret; by hand it is TRITON_INTERPRET=1 pytest tests/kernels.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
COMPILING = "test_compile.py"
INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"
sys.path.append(str(FOLDER))  # for offline.py

if importlib.util.find_spec("triton") is None:  # tests/test_kernels.py says so
    collect_ignore_glob = ["test_*.py"]
elif INTERPRETS:
    collect_ignore_glob = [COMPILING]
else:
    collect_ignore_glob = [path.name for path in FOLDER.glob("test_*.py") if path.name != COMPILING]


def pytest_report_header() -> str:
    return "tests/kernels: " + (
        "kernels are interpreted"
        if INTERPRETS
        else "kernels are compiled; TRITON_INTERPRET=1 runs the tests of results"
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", default="0/1", help="I/N: of the tests in tests/kernels, every N-th, from the I-th on")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    part, parts = map(int, config.getoption("--part", "0/1").split("/"))
    if parts > 1:
        config.hook.pytest_deselected(items=[item for index, item in enumerate(items) if index % parts != part])
        items[:] = items[part::parts]


@pytest.fixture
def ordered_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that add an element's terms one by one, as matrix units do in an order of their own.

    The interpreter takes numpy's, whose order depends on the whole matrix's shape.
    """
    import numpy as np
    from triton.runtime import interpreter

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        total = d.data.astype(np.float32)
        for k in range(a.data.shape[1]):
            total = total + a.data[:, k : k + 1].astype(np.float32) * b.data[k : k + 1].astype(np.float32)
        return interpreter.TensorHandle(total, d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
