"""RunLog: what every step of a run did, a JSON line each, and the curves of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lorid_engine.errors import DataError
from lorid_engine.train.files import write_whole

_POINTS = 200  # of a line in the plot
Curves = dict[str, tuple[list[int], list[float]]]


class RunLog:
    """training/log.jsonl: a line for every step and evaluation; lines after the last checkpoint are taken back."""

    def __init__(self, folder: Path, steps_done: int) -> None:
        self._path = folder / "log.jsonl"
        self._records: list[dict[str, Any]] = []
        try:
            if self._path.exists():
                for line in self._path.read_bytes().split(b"\n"):
                    try:
                        record = json.loads(line)
                    except ValueError:  # the last one, cut short by a kill
                        continue
                    if record["step"] <= steps_done:
                        self._records.append(record)
            write_whole(self._path, "".join(json.dumps(record) + "\n" for record in self._records))
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        except (OSError, KeyError, TypeError) as error:
            raise DataError(f"the log {self._path} cannot be gone on with: {error}") from None

    def add(self, record: Mapping[str, Any]) -> None:
        self._records.append(dict(record))
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise DataError(f"the log {self._path} could not be written: {error.strerror}") from None

    def flush(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise DataError(f"the log {self._path} could not be written: {error.strerror}") from None

    def has_held_out(self, step: int) -> bool:
        """Whether there is an evaluation after so many steps."""
        return any(record["record"] == "held_out" and record["step"] == step for record in self._records)

    def lines(self) -> tuple[Curves, Curves]:
        """Steps and losses by role: of the steps, and of what was held out."""
        kinds: dict[str, Curves] = {"step": {}, "held_out": {}}
        for record in self._records:
            for role, loss in record["loss"].items():
                steps, losses = kinds[record["record"]].setdefault(role, ([], []))
                steps.append(record["step"])
                losses.append(loss)
        return kinds["step"], kinds["held_out"]


def thin(steps: list[int], losses: list[float]) -> tuple[list[float], list[float]]:
    """At most so many points, each a mean over its neighbours."""
    parts = np.array_split(np.arange(len(steps)), min(_POINTS, len(steps)))
    x, y = np.array(steps), np.array(losses)
    return [float(x[part].mean()) for part in parts], [float(y[part].mean()) for part in parts]
