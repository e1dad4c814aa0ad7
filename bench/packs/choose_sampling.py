"""Chooses a pack's temperatures on held-out training questions: each role samples at some of them, and the loop is replayed on the pools.

    python bench/packs/choose_sampling.py --pack my-pack --held-out my-pack-run/data/held-out.jsonl --device cuda --processes 4

IR samples at every temperature, and so does KG; DR samples at each of its own from the rules of each of KG's. For each triple, the
rounds of the loop are the pools' samples in order. The triple whose answers (fallback) are right most often is written into the
pack's manifest; of equals, the one with fewer tokens.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import tomllib
from ablate_rules import read_gold_answers
from evaluate import KV_MEMORY, ROWS

from lorid_engine import Engine, env
from lorid_engine.errors import DataError, LoridError
from lorid_engine.evaluation.scores import Outcome, interval, is_right, replay_rounds
from lorid_engine.model.cache import file_sha256
from lorid_engine.solver.base_source import FolderSource, resolve_base
from lorid_engine.solver.pack import ROLES
from lorid_engine.solver.packs import load_pack
from lorid_engine.solver.role_requests import RoleJob, draw_samples
from lorid_engine.train.examples import read_questions
from lorid_engine.train.files import write_whole

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import percent, write_result

Drawn = tuple[str, int, str | None]  # a sample's text, tokens and answer
Pools = dict[tuple[str, float, float], list[list[Drawn]]]  # by role, its temperature and KG's: samples of each question


@dataclass(frozen=True)
class Task:
    """What one process draws."""

    pack: Path
    base: Path
    device: str
    top_p: float
    rounds: int
    temperatures: dict[str, list[float]]
    questions: list[str]


def draw(task: Task) -> Pools:
    """All pools of some questions."""
    pack = load_pack(str(task.pack.resolve()))
    rows = ROWS[task.device]
    engine = Engine(
        task.base,
        {role: pack.roles[role].adapter for role in ROLES},
        device=task.device,
        max_batch_rows=rows,
        max_batch_tokens=16 * rows,
        kv_memory=KV_MEMORY[task.device],
        active_adapters=len(ROLES),
    )
    places = list(itertools.product(range(len(task.questions)), range(1, task.rounds + 1)))

    def pool(role: str, temperature: float, rules: list[list[Drawn]] | None) -> list[list[Drawn]]:
        jobs = (
            RoleJob(task.questions[at], role, number, rules[at][number - 1][0] if rules else None, owner=at)
            for at, number in places
        )
        found: dict[tuple[int, int], Drawn] = {}
        overrides = {"temperature": temperature, "top_p": task.top_p}
        for job, sample in draw_samples(engine, pack, jobs, 0, overrides):
            if sample.note:
                raise DataError(f"{role} could not answer {job.question[:60]!r}: {sample.note}")
            found[job.owner, job.round] = sample.text, len(sample.token_ids), sample.answer
        print(f"{role} at {temperature:g}: {len(found)} samples", file=sys.stderr, flush=True)
        return [[found[at, number] for number in range(1, task.rounds + 1)] for at in range(len(task.questions))]

    ir, kg, dr = (task.temperatures[role] for role in ("ir", "kg", "dr"))
    pools: Pools = {("ir", each, 0.0): pool("ir", each, None) for each in ir}
    for before in kg:
        rules = pools["kg", before, 0.0] = pool("kg", before, None)
        pools |= {("dr", each, before): pool("dr", each, rules) for each in dr}
    return pools


def replayed(pools: Pools, golds: Sequence[str], ir: float, kg: float, dr: float) -> list[Outcome]:
    """Where each question stands after the rounds that these temperatures would have had."""
    streams = (pools["ir", ir, 0.0], pools["kg", kg, 0.0], pools["dr", dr, kg])
    outcomes = []
    for gold, *samples in zip(golds, *streams, strict=True):
        rounds = [(a[2], c[2], a[1] + b[1] + c[1]) for a, b, c in zip(*samples, strict=True)]
        outcomes.append(replay_rounds(rounds, gold)[-1])
    return outcomes


def one_sample(pools: Pools, golds: Sequence[str]) -> dict[str, dict[str, float]]:
    """How often a single answer is right, by role and temperature."""
    found = {}
    for (role, own, before), pool in pools.items():
        if role != "kg":
            right = [
                sum(is_right(sample[2], gold) for sample in samples) / len(samples)
                for samples, gold in zip(pool, golds, strict=True)
            ]
            found[f"{role} {own:g}" + (f", KG {before:g}" if role == "dr" else "")] = interval(right)
    return found


def write_sampling(manifest: Path, top_p: float, temperatures: dict[str, float]) -> None:
    """Sets the roles' temperatures and top_p; comments are lost."""
    document = tomllib.loads(manifest.read_text(encoding="utf-8"))
    for role, temperature in temperatures.items():
        document["roles"][role].setdefault("sampling", {}).update(temperature=temperature, top_p=top_p)
    write_whole(manifest, tomli_w.dumps(document))


def parse() -> argparse.Namespace:
    """The options."""

    def numbers(text: str) -> list[float]:
        return [float(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, required=True, help="a pack's folder, whose manifest is written")
    parser.add_argument("--base", type=Path, help="folder or .gguf file of its base; default: as the pack says")
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--first", type=int, help="questions; default: all")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--ir", type=numbers, default=[0.3, 0.5, 0.8], help="temperatures; default: 0.3,0.5,0.8")
    parser.add_argument("--kg", type=numbers, default=[0.3, 0.7], help="temperatures; default: 0.3,0.7")
    parser.add_argument("--dr", type=numbers, default=[0.3, 0.6], help="temperatures; default: 0.3,0.6")
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--device", default="cpu", choices=ROWS)
    parser.add_argument("--processes", type=int, default=1, help="engines that draw at once; default: 1")
    parser.add_argument("--out", type=Path, default=Path("bench/results/pack-sampling"))
    options = parser.parse_args()
    if min(options.rounds, options.processes) < 1:
        parser.error("--rounds and --processes must be at least 1")
    return options


def main() -> int:
    """Draws, replays, chooses and writes; returns the exit status."""
    options = parse()
    try:
        questions = read_questions(options.held_out)[: options.first]
        golds = read_gold_answers(options.held_out, questions)
        pack = load_pack(str(options.pack.resolve()))
        base = resolve_base(FolderSource(options.base) if options.base else pack.base, env.cache_dir())
        temperatures = {"ir": options.ir, "kg": options.kg, "dr": options.dr}
        texts, count = [question.question for question in questions], options.processes
        if count > len(texts):
            raise DataError(f"{options.held_out} has {len(texts)} questions, too few for {count} processes")
        shares = [texts[len(texts) * i // count : len(texts) * (i + 1) // count] for i in range(count)]
        common: tuple[Any, ...] = (options.pack, base, options.device, options.top_p, options.rounds, temperatures)
        tasks = [Task(*common, share) for share in shares]
        if count == 1:
            parts = [draw(tasks[0])]
        else:
            with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as processes:
                parts = list(processes.map(draw, tasks))
        pools = {key: list(itertools.chain(*(part[key] for part in parts))) for key in parts[0]}
        triples = {
            triple: replayed(pools, golds, *triple) for triple in itertools.product(options.ir, options.kg, options.dr)
        }
        right = {triple: interval(float(each.right) for each in found) for triple, found in triples.items()}
        tokens = {triple: sum(each.tokens for each in found) / len(found) for triple, found in triples.items()}
        best = min(triples, key=lambda triple: (-right[triple]["value"], tokens[triple]))
    except (LoridError, OSError) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2
    single = one_sample(pools, golds)
    lines = [
        "| IR | KG | DR | right after the rounds, % (95 % interval) | agreed, % | tokens |",
        "|---|---|---|---|---|---|",
    ]
    for triple, found in triples.items():
        agreed = 100 * sum(each.agreed for each in found) / len(found)
        shown = " | ".join(f"{temperature:g}" for temperature in triple)
        mark = " (taken)" if triple == best else ""
        lines.append(f"| {shown} | {percent(right[triple])}{mark} | {agreed:.0f} | {tokens[triple]:.0f} |")
    lines += ["", "| one sample at | right, % (95 % interval) |", "|---|---|"]
    lines += [f"| {name} | {percent(found)} |" for name, found in single.items()]
    lines += ["", f"{len(golds)} held-out GSM8K training questions, {options.rounds} rounds, top_p {options.top_p:g}."]
    result = {
        "pack": pack.name,
        "held_out_sha256": file_sha256(options.held_out),
        "questions": len(golds),
        "rounds": options.rounds,
        "top_p": options.top_p,
        "taken": dict(zip(("ir", "kg", "dr"), best, strict=True)),
        "right": {json.dumps(triple): right[triple] for triple in triples},
        "tokens": {json.dumps(triple): tokens[triple] for triple in triples},
        "one_sample": single,
    }
    write_result(options.out, result, "\n".join(lines))
    write_sampling(pack.folder / "pack.toml", options.top_p, dict(zip(("ir", "kg", "dr"), best, strict=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
