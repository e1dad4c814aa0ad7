"""Ours against the peers that `make peers` has built, and against what this machine can do.

    python bench/compare.py [--ranks 0,16] [--rows 1,2,8,32] [--runs 5] [--peers all] [--out bench/results/compare]

The default pack's base in bfloat16 with random adapters of q_proj and v_proj: prompts of 128 random tokens, greedy decode, half of the
rows each of two adapters; rank 0 is the base without LoRA. The runs are interleaved: run 1 of everything, run 2 of everything, and so
on, each in a process of its own. The results are written after every run.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import write_result
from peers.data import gguf_adapters, gguf_base, peft_adapters
from peers.install import BUILD, PACKAGES, is_installed
from peers.job import Job
from peers.systems import OURS, Answer, Ours, Peer, run_probe
from peers.tables import TITLES, markdown, panels, probe_summary, summary

from lorid_engine import env
from lorid_engine.cli.doctor import machine_facts
from lorid_engine.plots import write_plot
from lorid_engine.solver.base_source import resolve_base
from lorid_engine.solver.packs import load_pack

PROMPT = 128


def systems_of(peers: Sequence[str], options: argparse.Namespace) -> list[Ours | Peer]:
    """Ours and the peers, with their files on disk."""
    base = resolve_base(load_pack().base, env.cache_dir())
    folder = BUILD / "data" / base.name
    about: dict[str, Any] = {"cells": [], "prompt": PROMPT, "new": options.new, "threads": machine_facts()["threads"]}
    job = Job(base=str(base), adapters=peft_adapters(base, folder, options.ranks) if peers else {}, **about)
    found: list[Ours | Peer] = [Ours(job, options.limit_s)]
    for name in peers:
        if name == "llama_cpp":
            adapters = gguf_adapters(base, folder, options.ranks)
            found.append(Peer(name, Job(base=gguf_base(base, folder), adapters=adapters, **about), options.limit_s))
        else:
            found.append(Peer(name, job, options.limit_s))
    return found


class Comparison:
    """The answers so far, by system, rank and rows."""

    def __init__(self, systems: Sequence[Ours | Peer], options: argparse.Namespace) -> None:
        self._systems, self._options = systems, options
        self._probe: list[Answer] = []
        places = ((system.name, rank, rows) for rank in options.ranks for rows in options.rows for system in systems)
        self._answers: dict[tuple[str, int, int], list[Answer]] = {place: [] for place in places}

    def run(self) -> None:
        """One run of everything."""
        options = self._options
        self._probe.append(run_probe(options.rows, self._systems[0].job.threads, options.limit_s))
        for rank in options.ranks:
            for system in self._systems:
                rows = [count for count in options.rows if self._goes_on(system.name, rank, count)]
                for answer in system.run(rank, rows):
                    self._answers[system.name, rank, answer["rows"]].append(answer)
                    _tell(system.name, rank, answer)

    def write(self, start: float) -> None:
        """Writes JSON, tables and the plot of all runs so far."""
        cells = [summary(*place, answers) for place, answers in self._answers.items()]
        probe, out = probe_summary(self._probe), self._options.out
        versions = {cell["system"]: run["versions"] for cell in cells for run in cell["runs"] if "versions" in run}
        options = {name: value for name, value in vars(self._options).items() if name != "out"}
        result = {"options": options, "runs": len(self._probe), "seconds": time.monotonic() - start}
        about = f"{len(self._probe)} interleaved runs of everything; prompt {PROMPT}, decode {self._options.new}. "
        about += " ".join(f"{TITLES[name]}: {_list(found)}." for name, found in versions.items())
        table = f"{markdown(cells, probe, about)}\n\n![tokens/s against rows]({out.name}.svg)"
        write_result(out, {**result, "versions": versions, "probe": probe, "cells": cells}, table)
        write_plot(out.with_suffix(".svg"), panels(cells, probe), "rows", "tokens/s")

    def _goes_on(self, system: str, rank: int, rows: int) -> bool:
        """A peer's cell is run again until it fails, or has taken as long as one run may."""
        answers = self._answers[system, rank, rows]
        most = math.inf if system == OURS else self._options.limit_s
        return not any("error" in answer for answer in answers) and sum(a["seconds"] for a in answers) < most


def _list(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _tell(system: str, rank: int, answer: Answer) -> None:
    said = answer.get("error") or f"{answer['tok_s']:.0f} tokens/s, prefill {answer['prefill_tok_s']:.0f} tokens/s"
    print(f"{TITLES[system]}, rank {rank}, {answer['rows']} rows: {said}", file=sys.stderr, flush=True)


def _numbers(text: str) -> list[int]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be whole numbers, separated by commas; got {text!r}")
    return [int(part) for part in text.split(",")]


def _peers(text: str) -> list[str]:
    """The peers of --peers that can be run.

    Raises:
        argparse.ArgumentTypeError: a name that there is not, or that is not installed.
    """
    if text in ("all", "none"):
        return [name for name in PACKAGES if text == "all" and is_installed(name)]
    for name in text.split(","):
        if name not in PACKAGES:
            raise argparse.ArgumentTypeError(f"there is no peer {name!r}; there are {', '.join(PACKAGES)}")
        if not is_installed(name):
            raise argparse.ArgumentTypeError(f"{name} is not installed; make peers PEERS={name} does it")
    return text.split(",")


def main() -> None:
    """Runs everything and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench/results/compare"))
    parser.add_argument("--ranks", type=_numbers, default=[0, 16], help="0 = the base without LoRA; default: 0,16")
    parser.add_argument("--rows", type=_numbers, default=[1, 2, 8, 32], help="default: 1,2,8,32")
    parser.add_argument("--new", type=int, default=48, help="decode steps that are timed; default: %(default)s")
    parser.add_argument("--runs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--peers", type=_peers, default="all", help="all that are installed, none, or names")
    limit = "seconds that a cell may take; a peer's that has taken them in all is not run again; default: %(default)s"
    parser.add_argument("--limit-s", type=float, default=300, help=limit)
    options = parser.parse_args()
    try:  # now, or an hour of runs would be lost
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".json").touch()
    except OSError as error:
        parser.error(f"--out: {error}")
    start = time.monotonic()
    comparison = Comparison(systems_of(options.peers, options), options)
    for _ in range(options.runs):
        comparison.run()
        comparison.write(start)


if __name__ == "__main__":
    main()
