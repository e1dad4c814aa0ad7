"""`lorid solve` on the Triton backend, interpreted: the same texts, answers and rounds as on the C++ backend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorid_engine.cli import main
from lorid_engine.ops import gpu, use_backend
from tiny_pack import make_pack_folder

pytestmark = pytest.mark.skipif(not gpu.interprets(), reason="needs TRITON_INTERPRET=1")


def test_solutions_are_the_cpp_backends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack = make_pack_folder(tmp_path, max_tokens=3)
    capsys.readouterr()
    solutions = []
    for backend in ("cpu", "triton"):
        with use_backend(backend):
            arguments = ["--pack", str(pack), "--dtype", "float32", "--max-rounds", "1", "--seed", "1", "--json", "2+2"]
            assert main(["solve", *arguments]) == 0
        solutions.append(json.loads(capsys.readouterr().out))
        del solutions[-1]["seconds"]
    assert solutions[0] == solutions[1]
    assert solutions[0]["tokens"] > 6
