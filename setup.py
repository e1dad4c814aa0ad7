"""Builds lorid_engine._C: one static library per instruction set, and the extension that chooses among them at run time."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import find_packages, setup
from setuptools.command.build_clib import build_clib

# -ffp-contract=off: what is one rounding and what two is written in the kernels, not left to the compiler.
COMMON = ["-std=c++17", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-fPIC", "-fno-lto", "-Wall", "-Wextra"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"]
QUIET = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # GCC 12's own AVX-512 header
ISA_FLAGS: dict[str, dict[str, list[str]]] = {
    "x86_64": {
        "avx512bf16": [*AVX512, "-mavx512bf16", *QUIET],
        "avx512": [*AVX512, *QUIET],
        "avx2": ["-mavx2", "-mfma"],
        "scalar": [],
    },
    "aarch64": {"neon": [], "scalar": []},
}
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())


def compiler_knows(flags: list[str]) -> bool:
    """Whether the C++ compiler takes these flags; an old one may not know the newest instruction sets."""
    compiler = os.environ.get("CXX", "c++").split()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "empty.cpp")
        source.write_text("int main() { return 0; }\n")
        command = [*compiler, "-Werror", *flags, "-c", str(source), "-o", str(Path(folder, "empty.o"))]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            raise SystemExit(f"lorid-engine needs a C++17 compiler; {compiler[0]} was not found") from None


class build_isas(build_clib):  # noqa: N801 (setuptools' own naming)
    """Compiles the instruction sets side by side: each is one slow file."""

    def build_libraries(self, libraries: list) -> None:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2) as pool:
            list(pool.map(lambda library: build_clib.build_libraries(self, [library]), libraries))


flags = {isa: known for isa, known in ISA_FLAGS.get(MACHINE, {"scalar": []}).items() if compiler_knows(known)}
headers = sorted(glob("csrc/**/*.h", recursive=True))
have = [f"-DLORID_HAVE_{isa.upper()}=1" for isa in flags]

setup(
    packages=[*find_packages(include=["lorid_engine", "lorid_engine.*"]), "lorid_kernels"],
    package_dir={"lorid_kernels": "kernels"},
    package_data={
        "lorid_engine": ["py.typed"],
        "lorid_kernels": ["tuned.json"],
        "lorid_engine.solver": ["data/**/*"],
        "lorid_engine.evaluation": ["page.html"],
    },
    exclude_package_data={"lorid_kernels": [".gitkeep"]},
    libraries=[
        (
            f"lorid_{isa}",
            {"sources": [f"csrc/isa/{isa}.cpp"], "cflags": [*COMMON, *known], "obj_deps": {"": headers}},
        )
        for isa, known in flags.items()
    ],
    ext_modules=[
        Pybind11Extension(
            "lorid_engine._C",
            sorted([*glob("csrc/*.cpp"), *glob("csrc/ops/*.cpp")]),
            extra_compile_args=[*COMMON, *have],
            extra_link_args=["-pthread"],
            depends=[*headers, *(f"csrc/isa/{isa}.cpp" for isa in flags)],
            cxx_std=17,
        )
    ],
    cmdclass={"build_clib": build_isas},
)
