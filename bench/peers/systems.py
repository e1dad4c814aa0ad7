"""What is measured: ours, the probe and the peers, each in a process of its own and within a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from peers.install import BUILD, HERE, peer_python
from peers.job import Job

OURS = "lorid"
START_S = 900  # for bringing a model up: vLLM compiles for minutes
PREFILL_ROWS = 128  # at which the probe stands for a prefill
FIGURES = ("ms_per_step", "tok_s", "prefill_tok_s")
Answer = dict[str, Any]  # of a cell: its figures, or an error


@dataclass(frozen=True)
class Ours:
    """`lorid bench decode`: it makes adapters of the same shape itself."""

    job: Job
    limit_s: float
    name: str = OURS

    def run(self, rank: int, rows: Sequence[int]) -> Iterator[Answer]:
        """Measures cells of a rank; answers in the order of the rows, each as soon as it is there."""
        arguments = ["bench", "decode", "--json", "--base", self.job.base, "--rank", str(rank), "--spread", "ir-dr"]
        arguments += ["--threads", str(self.job.threads), "--prompt", str(self.job.prompt), "--new", str(self.job.new)]
        for count in rows:
            start = time.monotonic()
            found = _lorid([*arguments, "--batch", str(count)], self.limit_s)
            if isinstance(found, str):
                yield {"rows": count, "error": found}
                continue
            figures = {key: found[0][key] for key in FIGURES}
            yield {"rows": count, **figures, "repeats": found[0]["runs"], "seconds": time.monotonic() - start}


@dataclass(frozen=True)
class Peer:
    """A peer: its name, its job but for the cells, and variables of its environment besides ours."""

    name: str
    job: Job
    limit_s: float
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, rank: int, rows: Sequence[int]) -> Iterator[Answer]:
        """As Ours.run. A cell past the limit is stopped with its process, and the rest go on in a new one."""
        waiting = list(rows)
        while waiting:
            for answer in self._one_process(rank, tuple(waiting)):
                yield {"rows": waiting.pop(0), **answer}

    def _one_process(self, rank: int, rows: Sequence[int]) -> Iterator[Answer]:
        """The answers of a process, at least one; the last is an error if it did not come to its end."""
        cells = [{"rank": rank, "rows": count} for count in rows]
        with tempfile.TemporaryDirectory() as scratch, open(self._log, "w", encoding="utf-8") as errors:
            path = Path(scratch, "job.json")
            path.write_text(json.dumps({**asdict(self.job), "cells": cells}), encoding="utf-8")
            command = [str(peer_python(self.name)), str(HERE / f"run_{self.name}.py"), str(path)]
            with _process(command, errors, self.environment) as process:
                started = self._answer(process, START_S)
                if "error" in started:
                    yield from [started] * len(rows)
                    return
                for _ in rows:
                    answer = self._answer(process, self.limit_s)
                    yield answer
                    if "seconds" not in answer:  # no line of the process
                        return
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=60)

    @property
    def _log(self) -> Path:
        return BUILD / f"{self.name}-run.log"

    def _answer(self, process: subprocess.Popen[bytes], limit_s: float) -> Answer:
        """The next line of a process, with the seconds that it took; only an error if there is none."""
        assert process.stdout is not None
        start = time.monotonic()
        ready, _, _ = select.select([process.stdout], [], [], limit_s)  # it is unbuffered: no line lies in a buffer
        if not ready:
            return {"error": f"not finished in {limit_s:.0f} s"}
        if line := process.stdout.readline():
            return {**json.loads(line), "seconds": time.monotonic() - start}
        said = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((text.strip() for text in reversed(said) if text.strip()), "no message")
        return {"error": f"the process ended with status {process.wait()}: {last}"}


def run_probe(rows: Sequence[int], threads: int, limit_s: float) -> Answer:
    """A reading of the machine's limits for steps of so many rows, by `lorid bench limits`; or an error."""
    wanted = ",".join(map(str, sorted({*rows, PREFILL_ROWS})))
    found = _lorid(["bench", "limits", "--json", "--rows", wanted, "--threads", str(threads)], limit_s)
    return {"error": found} if isinstance(found, str) else found


def _lorid(arguments: Sequence[str], limit_s: float) -> Any:
    """What a command of ours prints as JSON; a string that tells why when it fails."""
    command = [sys.executable, "-m", "lorid_engine.cli", *arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return f"not finished in {limit_s:.0f} s"
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no message"]
        return f"the process ended with status {done.returncode}: {said[-1]}"
    return json.loads(done.stdout)


@contextlib.contextmanager
def _process(command: Sequence[str], errors: IO[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, and its children with it."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        bufsize=0,
        start_new_session=True,
        env=os.environ | environment,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
