"""What the peers' runners share: the job that they are given, and the lines that they answer with.

Runs in the peers' environments, so it needs the standard library only. The runners' names begin with run_: a script named like the
package that it imports would import itself.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A cell is repeated as often as ours are, unless that takes so long that a run of the whole comparison would take hours.
REPEATS, ENOUGH_S = 5, 20.0
ADAPTERS = ("ir", "dr")
Measure = Callable[[int, int], tuple[float, float]]


@dataclass(frozen=True)
class Job:
    """What a runner measures.

    Attributes:
        base: the model, in the format that the peer reads.
        adapters: by rank and name, in the format that the peer reads.
        cells: each a rank (0 = the base without LoRA) and a number of rows; of one rank they follow each other.
        prompt: tokens of a prompt. new: decode steps that are timed.
        threads: that the peer may use.
    """

    base: str
    adapters: dict[str, dict[str, str]]
    cells: list[dict[str, int]]
    prompt: int
    new: int
    threads: int

    def adapters_of(self, rank: int) -> list[str]:
        """The adapters that rows take in turn; none for rank 0."""
        return [self.adapters[str(rank)][name] for name in ADAPTERS] if rank else []


def run(peer: str, packages: Sequence[str], load: Callable[[Job, int, int], Measure]) -> None:
    """Measures the job that the command line names; prints a JSON line for every model that is up, and for every cell.

    Args:
        peer: the name that the lines carry.
        packages: whose versions they carry.
        load: given the job, a rank and the largest number of rows, brings the model up and returns what measures: given a
            number of rows and of decode steps, it returns the seconds of the prefill of all prompts, and of a decode step.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print what they like; the lines stay apart
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    versions = {name: importlib.metadata.version(name) for name in packages}
    for rank, cells in itertools.groupby(job.cells, key=lambda cell: cell["rank"]):
        rows = [cell["rows"] for cell in cells]
        measure: Measure | Exception
        try:
            measure = load(job, rank, max(rows))
        except Exception as error:  # of any library
            measure = error
        print(json.dumps({"peer": peer, "rank": rank, "versions": versions}), file=answers, flush=True)
        for count in rows:
            answer = {"peer": peer, "rank": rank, "rows": count, **_cell(measure, count, job), "versions": versions}
            print(json.dumps(answer), file=answers, flush=True)
        del measure  # before the next rank's model is loaded


def _cell(measure: Measure | Exception, rows: int, job: Job) -> dict[str, Any]:
    """Medians of a cell's repeats, or what went wrong."""
    try:
        if isinstance(measure, Exception):
            raise measure
        measure(rows, 1)  # brings code and weights into the caches
        start, runs = time.perf_counter(), []
        while len(runs) < REPEATS and (not runs or time.perf_counter() - start < ENOUGH_S):
            runs.append(measure(rows, job.new))
    except Exception as error:  # of any library
        first_line = next(iter(str(error).splitlines()), "")
        return {"error": f"{type(error).__name__}: {first_line}"}
    prefill, step = (statistics.median(run[place] for run in runs) for place in (0, 1))
    steps = [step for _, step in runs]
    return {
        "ms_per_step": 1e3 * step,
        "tok_s": rows / step,
        "tok_s_range": [rows / max(steps), rows / min(steps)],
        "prefill_tok_s": rows * job.prompt / prefill,
        "repeats": len(runs),
    }
