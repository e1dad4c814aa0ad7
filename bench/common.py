"""What every recorded result says of itself, and how questions are read."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from lorid_engine.cli.doctor import machine_facts


def read_questions(path: Path, limit: int) -> tuple[list[str], str]:
    """The first questions of a file of JSON lines with a "question" each, and the file's SHA-256."""
    data = path.read_bytes()
    lines = data.decode("utf-8").splitlines()[:limit]
    return [json.loads(line)["question"] for line in lines], hashlib.sha256(data).hexdigest()


def write_result(path: Path, result: dict[str, Any], table: str) -> None:
    """Writes a result as JSON and, beside it, a table in Markdown; prints the table."""
    command = shlex.join(["python", *sys.argv])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(
        json.dumps({"command": command, "machine": machine_facts(), **result}, indent=1) + "\n"
    )
    about = ", ".join(f"{key} {value}" for key, value in machine_facts().items())
    path.with_suffix(".md").write_text(f"{table}\n\n`{command}`\n\n{about}\n")
    print(table)
