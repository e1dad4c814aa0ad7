"""The structure itself: layers import downward, wide code stays in its own units, nothing shadows other packages."""

from __future__ import annotations

import ast
import importlib.util
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lorid_engine

PACKAGE = Path(lorid_engine.__file__).parent
ROOT = PACKAGE.parent
LAYERS = [
    "_C",
    "ops",
    "modules",
    "integrations",
    "model",
    "engine",
    "solver",
    "train",
    "teach",
    "evaluation",
    "benchmark",
    "cli",
]
LEAVES = {"errors", "env", "plots", "tensor_files"}


def imported_layers(path: Path) -> set[str]:
    """The layers that a file imports, by name."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("lorid_engine.")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    imported = imported_layers(path)
    if layer in LEAVES:
        assert imported <= {"errors"}
    elif layer not in ("__init__", "__main__"):  # the package's own __init__ loads lazily
        allowed = {*LAYERS[: LAYERS.index(layer) + 1], *LEAVES}
        assert imported <= allowed, f"{path.name} imports upward: {imported - allowed}"


USES_KERNELS = ("ops", "integrations", "model", "engine", "benchmark", "cli")


def test_kernels_know_nothing_of_the_package_and_few_layers_know_them() -> None:
    for path in sorted((ROOT / "kernels").glob("*.py")):
        assert not imported_layers(path), f"{path.name} imports from lorid_engine"
    for path in PACKAGE.rglob("*.py"):
        if "lorid_kernels" in path.read_text(encoding="utf-8"):
            assert path.relative_to(PACKAGE).parts[0] in USES_KERNELS, f"{path} imports lorid_kernels"


FLAGS = {
    "x86_64": {
        "scalar": [],
        "avx2": ["-mavx2", "-mfma"],
        "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"],
    },
    "aarch64": {"scalar": [], "neon": []},
}


@pytest.mark.skipif(not (shutil.which("c++") and shutil.which("nm")), reason="needs a C++ compiler and nm")
@pytest.mark.parametrize("isa", FLAGS.get(platform.machine(), {"scalar": []}))
def test_wide_units_export_one_function_and_no_weak_symbol(isa: str, tmp_path: Path) -> None:
    """At -O0, where nothing is inlined: a weak symbol could become everybody's copy and crash older processors."""
    flags = FLAGS.get(platform.machine(), {"scalar": []})[isa]
    unit = tmp_path / f"{isa}.o"
    subprocess.run(
        ["c++", "-std=c++17", "-O0", *flags, "-w", "-c", str(ROOT / f"csrc/isa/{isa}.cpp"), "-o", str(unit)], check=True
    )
    symbols = subprocess.run(["nm", "--defined-only", str(unit)], capture_output=True, text=True, check=True).stdout
    kinds = [line.split()[-2] for line in symbols.splitlines()]
    assert kinds.count("T") == 1
    assert not set(kinds) & set("WVu")


def test_nothing_of_ours_is_called_kernels() -> None:
    spec = importlib.util.find_spec("kernels")
    assert spec is None or spec.origin is None or "site-packages" in spec.origin
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_ops_and_answers_import_without_transformers() -> None:
    code = (
        "import sys; sys.modules['transformers'] = None; sys.modules['tokenizers'] = None\n"
        "import lorid_engine.ops; from lorid_engine.solver.answers import equivalent; assert equivalent('1/2', '0.5')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_package_is_typed_and_lazy() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert set(lorid_engine.__all__) >= {"Engine", "Request", "SamplingParams", "Solver"}
    assert all(getattr(lorid_engine, name) is not None for name in lorid_engine.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Motor'"):
        lorid_engine.Motor  # noqa: B018


def test_nothing_evaluates_or_unpickles() -> None:
    """No eval, exec, pickle or torch.load anywhere in the package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "compile", "__import__"}, path
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "dill", "marshal", "shelve"}, path
