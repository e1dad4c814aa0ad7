"""vLLM's CPU build with adapters, before and after the plugin, beside its own speed without LoRA.

    python bench/vllm_lora.py [--ranks 16,64,512] [--rows 2,8,32] [--out bench/results/vllm-lora]      (make test-vllm runs it)

The default pack's base in bfloat16 with random adapters of q_proj and v_proj, half of the rows each of two; greedy decode. And whether
rows of the base in a mixed batch equal those of a batch of the base alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import write_result
from peers.data import peft_adapters
from peers.install import BUILD, HERE, peer_python
from peers.job import Job
from peers.systems import Answer, Peer

from lorid_engine import env
from lorid_engine.cli.doctor import machine_facts
from lorid_engine.solver.base_source import resolve_base
from lorid_engine.solver.packs import load_pack

BASE, OWN, PLUGIN = "without LoRA", "vLLM's own LoRA", "with the plugin"
Cells = dict[tuple[str, int, int], Answer]


def measure(job: Job, system: str, rank: int, rows: Sequence[int], limit_s: float) -> Cells:
    """A system's cells at a rank."""
    peer = Peer("vllm", job, limit_s, {"LORID_VLLM": "1" if system == PLUGIN else "0"})
    cells: Cells = {}
    for answer in peer.run(rank, rows):
        cells[system, rank, answer["rows"]] = answer
        said = answer.get("error") or f"{answer['tok_s']:.1f} tokens/s"
        print(f"{system}, rank {rank}, {answer['rows']} rows: {said}", file=sys.stderr, flush=True)
    return cells


def base_rows(job: Job, rank: int, plugin: str) -> dict[str, Any]:
    """What peers/run_vllm_base_rows.py found."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "job.json")
        path.write_text(json.dumps({**asdict(job), "cells": []}), encoding="utf-8")
        command = [str(peer_python("vllm")), str(HERE / "run_vllm_base_rows.py"), str(path), str(rank)]
        log = BUILD / "vllm-run.log"
        with open(log, "w", encoding="utf-8") as errors:
            environment = os.environ | {"LORID_VLLM": plugin}
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"vLLM ended with status {done.returncode}; see {log}")
    return json.loads(done.stdout)


def table(cells: Cells, ranks: Sequence[int], rows: Sequence[int], found: dict[str, Any], about: str) -> str:
    """What there is so far, in Markdown."""

    def row(title: str, system: str, rank: int) -> str:
        shown = []
        for count in rows:
            answer, base = cells.get((system, rank, count), {"error": "-"}), cells.get((BASE, 0, count), {})
            if "error" in answer:
                shown.append(answer["error"])
            else:
                share = f" ({answer['tok_s'] / base['tok_s']:.2f})" if system != BASE and "tok_s" in base else ""
                shown.append(f"{answer['tok_s']:.1f}{share}")
        return f"| {title} | {' | '.join(shown)} |"

    lines = [about, "", f"| decode, tokens/s | {' | '.join(f'{count} rows' for count in rows)} |"]
    lines += ["|---|" + "---|" * len(rows), row(BASE, BASE, 0)]
    for rank in ranks:
        lines += [row(f"rank {rank}, {system}", system, rank) for system in (OWN, PLUGIN)]
    lines += ["", "In brackets: as a share of the speed without LoRA."]
    if found:
        before, after = found["before"], found["after"]
        lines += ["", "| rows of the base beside rows with adapters | before | after |", "|---|---|---|"]
        counts = f"{before['other_tokens']} | {after['other_tokens']}"
        lines.append(f"| other tokens than alone, of {before['tokens']} | {counts} |")
        shown = " | ".join(f"{each['first_logprob_difference']:.3g}" for each in (before, after))
        lines.append(f"| largest difference of a first token's log probability | {shown} |")
    return "\n".join(lines)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measures everything and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench/results/vllm-lora"))
    parser.add_argument("--ranks", type=_numbers, default=[16, 64, 512])
    parser.add_argument("--rows", type=_numbers, default=[2, 8, 32])
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt; default: %(default)s")
    parser.add_argument("--new", type=int, default=48, help="decode steps that are timed; default: %(default)s")
    parser.add_argument("--limit-s", type=float, default=300, help="seconds that a cell may take; default: %(default)s")
    options = parser.parse_args()
    start = time.monotonic()
    base = resolve_base(load_pack().base, env.cache_dir())
    adapters = peft_adapters(base, BUILD / "data" / base.name, options.ranks)
    threads = machine_facts()["threads"]
    job = Job(str(base), adapters, cells=[], prompt=options.prompt, new=options.new, threads=threads)
    cells: Cells = {}
    found: dict[str, Any] = {}

    def write() -> None:
        """After every step: a whole run takes an hour."""
        versions = next((answer["versions"] for answer in cells.values() if "versions" in answer), {})
        listed = ", ".join(f"{name} {version}" for name, version in versions.items())
        about = f"{listed}; prompt {options.prompt}, decode {options.new}, IR and DR in turn."
        listed_cells = [{"system": system, "rank": rank, **answer} for (system, rank, _), answer in cells.items()]
        result = {"seconds": time.monotonic() - start, "versions": versions, "cells": listed_cells, "base_rows": found}
        write_result(options.out, result, table(cells, options.ranks, options.rows, found, about))

    for system, ranks in ((BASE, [0]), (PLUGIN, options.ranks), (OWN, options.ranks)):
        for rank in ranks:
            cells |= measure(job, system, rank, options.rows, options.limit_s)
            write()
    found |= {"before": base_rows(job, options.ranks[0], "0"), "after": base_rows(job, options.ranks[0], "1")}
    write()


if __name__ == "__main__":
    main()
