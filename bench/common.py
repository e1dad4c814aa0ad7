"""What every recorded result says of itself, and which questions it is of."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorid_engine.cli.doctor import machine_facts
from lorid_engine.errors import DataError
from lorid_engine.evaluation.problems import read_problems


def read_questions(path: Path, limit: int) -> tuple[list[str], str]:
    """The first questions of a data file, and the file's SHA-256."""
    found = read_problems(str(path), limit=limit)
    return [problem.question for problem in found.problems], found.sha256


def write_result(path: Path, result: dict[str, Any], table: str) -> None:
    """Prints a table, and writes it in Markdown beside the result in JSON; ends the program where they cannot be written."""
    print(table, flush=True)
    command = shlex.join(["python", *sys.argv])
    about = ", ".join(f"{key} {value}" for key, value in machine_facts().items())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_text(
            json.dumps({"command": command, "machine": machine_facts(), **result}, indent=1) + "\n"
        )
        path.with_suffix(".md").write_text(f"{table}\n\n`{command}`\n\n{about}\n")
    except OSError as error:
        sys.exit(f"{path} cannot be written: {error}; name another --out")


def make_folder(path: Path) -> None:
    """Makes a folder of results, unless it is there.

    Raises:
        DataError: it cannot be one.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path} cannot be a folder: {error.strerror}; name another --work") from None


def percent(found: Mapping[str, float]) -> str:
    """A share or a difference of shares, of scores.interval, in per cent with its interval."""
    return f"{100 * found['value']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
