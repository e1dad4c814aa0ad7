"""vLLM's CPU build with adapters, before and after the plugin, beside its own speed without LoRA.

    python bench/vllm_lora.py [--ranks 16,64,512] [--rows 2,8,32] [--out bench/results/vllm-lora]      (make test-vllm runs it)

The default pack's base in bfloat16 with random adapters of q_proj and v_proj, half of the rows each of two; greedy decode. The speed
without LoRA is measured before and after the plugin's, for the machine drifts. And whether rows of the base in a mixed batch equal
those of a batch of the base alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
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

BASE, AGAIN, OWN, PLUGIN = "without LoRA", "without LoRA, again", "vLLM's own LoRA", "with the plugin"
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

    def base(count: int) -> float | None:
        speeds = [answer["tok_s"] for way in (BASE, AGAIN) if "tok_s" in (answer := cells.get((way, 0, count), {}))]
        return statistics.mean(speeds) if speeds else None

    def row(title: str, system: str, rank: int) -> str:
        shown = []
        for count in rows:
            answer = cells.get((system, rank, count), {"error": "-"})
            if "error" in answer:
                shown.append(answer["error"])
                continue
            low, high = answer["tok_s_range"]
            speed = f"{answer['tok_s']:.1f}" + (f", {low:.1f} to {high:.1f}" if answer["repeats"] > 1 else ", once")
            alone = base(count)
            shown.append(f"**{answer['tok_s'] / alone:.2f}** ({speed})" if rank and alone else speed)
        return f"| {title} | {' | '.join(shown)} |"

    lines = [about, "", f"| decode, tokens/s | {' | '.join(f'{count} rows' for count in rows)} |"]
    lines += ["|---|" + "---|" * len(rows), row(BASE, BASE, 0), row(AGAIN, AGAIN, 0)]
    for rank in ranks:
        lines += [row(f"rank {rank}, {system}", system, rank) for system in (OWN, PLUGIN)]
    lines += [
        "",
        "Medians and ranges of the repeats; in bold the share of the speed without LoRA, of its two medians' mean.",
    ]
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

    for system, ranks in ((BASE, [0]), (PLUGIN, options.ranks), (AGAIN, [0]), (OWN, options.ranks)):
        for rank in ranks:
            cells |= measure(job, system, rank, options.rows, options.limit_s)
            write()
    found |= {"before": base_rows(job, options.ranks[0], "0"), "after": base_rows(job, options.ranks[0], "1")}
    write()


if __name__ == "__main__":
    main()
