"""Prints pip's --constraint option: constraints.txt, but with the installed torch where the environment has one in range."""

import importlib.metadata
import pathlib
import sys


def main(target: str) -> None:
    """Writes the constraints to target and prints the option."""
    lines = pathlib.Path("constraints.txt").read_text(encoding="utf-8").splitlines()
    try:
        installed = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        installed = None
    if installed is not None:
        release = tuple(int(part) for part in installed.split("+")[0].split(".")[:2])
        if (2, 6) <= release <= (2, 13):
            lines = [line for line in lines if not line.startswith(("torch==", "triton=="))] + [f"torch=={installed}"]
    pathlib.Path(target).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"--constraint {target}")


if __name__ == "__main__":
    main(sys.argv[1])
