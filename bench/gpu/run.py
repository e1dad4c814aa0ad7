"""The Triton backend on a GPU: results and bits first, then times of linears, products, steps and the engine.

    python bench/gpu/run.py [--out build/bench/gpu] [--limit-s 520] [--parts decode,prefill]
    python bench/gpu/run.py --dry        tiny shapes under Triton's interpreter, on a CPU

Parts run in processes of their own, so that one that crashes or hangs costs only itself. Every row is in OUT.jsonl as soon as
it is measured; OUT.json, OUT.md and the plots are written after every group of parts. The exit status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tree import ROOT, prepare

# Parts that share a process, and the seconds that they may take.
GROUPS = (
    (("correctness",), 150),
    (("peaks", "linears", "products"), 110),
    (("decode", "prefill"), 170),
    (("peft",), 80),
    (("engine",), 60),
    (("mistral",), 60),
)
NAMES = tuple(name for parts, _ in GROUPS for name in parts)
WARMED = ("linears", "products", "decode", "prefill", "mistral")
GRACE_S = 20  # a process that has not ended so long after its limit is killed
LEAST_S = 15  # with less left no group is begun


class Run:
    """A run: its options, its files, and when it must end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options, self._begin = options, time.monotonic()
        self._out: Path = options.out
        self._rows = self._file(".jsonl")
        self._rows.write_text("", encoding="utf-8")
        self._seconds: dict[str, float] = {}
        self._failures = 0

    def _file(self, suffix: str) -> Path:
        return self._out.parent / (self._out.name + suffix)

    @property
    def _left(self) -> float:
        return self._options.limit_s - (time.monotonic() - self._begin)

    def run(self) -> int:
        """Every group; returns how many things failed."""
        for group, cap in GROUPS:
            parts = tuple(part for part in group if part in self._options.parts)
            if not parts:
                continue
            limit = min(cap, self._left - GRACE_S / 2)
            if limit < LEAST_S:
                self._record(parts[0], "group", skipped=f"no time left for {', '.join(parts)}")
                continue
            begin = time.monotonic()
            if self._options.isolate:
                self._failures += self._in_processes(parts, limit)
            else:
                self._failures += self._here(parts, limit)
            self._seconds[" + ".join(parts)] = time.monotonic() - begin
            self._write()
        return self._failures

    def _job(self, parts: tuple[str, ...], limit: float, **more: Any) -> dict[str, Any]:
        peaks = {}
        for row in self._read():
            for key in ("bytes_per_s", "flop_per_s"):
                if row["part"] == "peaks" and row["name"] in ("copy", "matmul") and key in row:
                    peaks[key] = row[key]
        about = {"rows": str(self._rows), "parts": parts, "limit_s": limit, "dry": self._options.dry, "peaks": peaks}
        about |= {"tiles": str(self._file("-tiles.json")), "given_tiles": self._options.tiles}
        return {**about, **more}

    def _here(self, parts: tuple[str, ...], limit: float) -> int:
        return do(self._job(parts, limit))

    def _in_processes(self, parts: tuple[str, ...], limit: float) -> int:
        """A group in a process; checks in several, beside others that compile what the next groups need."""
        if parts != ("correctness",):
            return self._wait([(parts[0], self._start(self._job(parts, limit)))], limit)
        checkers, compilers = _helpers(self._options.dry)
        warmed = tuple(part for part in WARMED if part in self._options.parts)
        started = []
        for number in range(checkers):
            job = self._job(parts, limit, share=(number, checkers))
            started.append(("correctness", self._start(job)))
        for number in range(compilers if warmed else 0):
            job = self._job(warmed, limit, share=(number, compilers), warms=True)
            (ROOT / "build" / "bench").mkdir(parents=True, exist_ok=True)
            log = (ROOT / "build" / "bench" / f"compile-{number}.log").open("w", encoding="utf-8")
            started.append(("", self._start(job, log)))  # what does not compile here fails where it is timed
        return self._wait(started, limit)

    def _start(self, job: dict[str, Any], log: Any = None) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "4"}
        environment.setdefault("TRITON_CACHE_DIR", str(ROOT / "build" / "bench" / "triton-cache"))
        command = [sys.executable, __file__, "--job", json.dumps(job)]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT if log else None)

    def _wait(self, started: list[tuple[str, subprocess.Popen[bytes]]], limit: float) -> int:
        """How many processes did not end well; `part` "" = it does not count."""
        until, failures = time.monotonic() + limit + GRACE_S, 0
        for part, process in started:
            try:
                status = process.wait(max(min(until - time.monotonic(), self._left - 2), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                status = -9
                if part:
                    self._record(part, "process", error="it was killed: it went on past its limit")
            if part and status not in (0, 1, -9):
                self._record(part, "process", error=f"it ended with status {status}")
            failures += bool(part and status)
        return failures

    def _record(self, part: str, name: str, **about: Any) -> None:
        with self._rows.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"part": part, "name": name, **about}) + "\n")
        print(f"[{part}] {name}: {about}", flush=True)

    def _read(self) -> list[dict[str, Any]]:
        rows = []
        for line in self._rows.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:  # a process was killed while it wrote
                continue
        return rows

    def _write(self) -> None:
        """Everything so far; what cannot be written does not end the run."""
        try:
            self._write_files()
        except Exception:
            self._failures += 1
            traceback.print_exc()

    def _write_files(self) -> None:
        from report import markdown, plot_products, plot_steps
        from targets import targets

        rows = self._read()
        machine: dict[str, Any] = {}
        for row in rows:
            if row["name"] == "machine" or (row["part"] == "peft" and row["name"] == "versions"):
                machine |= {key: value for key, value in row.items() if key not in ("part", "name")}
        result = {
            "command": shlex.join(["python", *sys.argv]),
            "machine": machine,
            "seconds": {**self._seconds, "all": time.monotonic() - self._begin},
            "targets": [dataclasses.asdict(target) for target in targets(rows)],
            "rows": rows,
        }
        self._file(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        about = {"command": f"`{result['command']}`", **machine}
        about |= {f"seconds of {name}": f"{value:.0f}" for name, value in result["seconds"].items()}
        self._file(".md").write_text(markdown(rows, about), encoding="utf-8")
        plot_steps(self._file("-steps.svg"), rows)
        plot_products(self._file("-products.svg"), rows)

    def tell(self) -> None:
        """Prints the goals last, where whoever ran it looks first."""
        from targets import targets

        rows = self._read()
        for target in targets(rows):
            met = {True: "yes", False: "NO", None: "?"}[target.met]
            print(f"{met:>4}  {target.goal}: {target.measured}")
        print(", ".join(f"{name} {seconds:.0f} s" for name, seconds in self._seconds.items()))
        print(f"written: {self._file('.json')}, {self._file('.md')}", flush=True)


def _helpers(dry: bool) -> tuple[int, int]:
    """How many processes check, and how many compile."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if dry or not _shares_gpu():
        return 1, 0
    return max(1, min(cores * 3 // 8, 6)), max(1, min(cores * 5 // 8, 12))


def _shares_gpu() -> bool:
    """Whether several processes may use the GPU at once."""
    command = ["nvidia-smi", "--query-gpu=compute_mode", "--format=csv,noheader"]
    try:
        return "Exclusive" not in subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return True


def do(about: dict[str, Any]) -> int:
    """A job in this process; returns how many things failed."""
    from session import Job
    from work import do as work

    about = {**about, "parts": tuple(about["parts"]), "share": tuple(about.get("share", (0, 1)))}
    return work(Job(**about))


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    for part in parts:
        if part not in NAMES:
            raise argparse.ArgumentTypeError(f"there is no part {part!r}; there are {', '.join(NAMES)}")
    return parts if parts == ("correctness",) else (*parts, "peaks")  # all others tell their shares of the peaks


def main() -> int:
    """Runs everything and writes the result; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/bench/gpu"), help="files are OUT.json, OUT.md, ...")
    parser.add_argument("--limit-s", type=float, default=520, help="seconds of everything; default: %(default)s")
    parser.add_argument("--parts", type=_parts, default=NAMES, help=f"default: {','.join(NAMES)}")
    parser.add_argument("--dry", action="store_true", help="tiny shapes under Triton's interpreter, on a CPU")
    parser.add_argument("--tiles", default="", help="a file of measured tiles to use; default: the shipped ones")
    isolate = "parts in processes of their own; default: on a GPU"
    parser.add_argument("--isolate", action=argparse.BooleanOptionalAction, default=None, help=isolate)
    parser.add_argument("--job", help=argparse.SUPPRESS)  # what a process that this one starts is to do
    options = parser.parse_args()
    if options.job:
        job = json.loads(options.job)
        prepare(interprets=job["dry"])
        return int(do(job) > 0)
    options.isolate = not options.dry if options.isolate is None else options.isolate
    try:  # now, or everything that is measured would be lost
        options.out.parent.mkdir(parents=True, exist_ok=True)
        (options.out.parent / (options.out.name + ".json")).touch()
    except OSError as error:
        parser.error(f"--out: {error}")
    prepare(interprets=options.dry)
    run = Run(options)
    failures = run.run()
    run.tell()
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
