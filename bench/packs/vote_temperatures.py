"""A vote of IR's samples at other temperatures than the pack's, at the tokens that LoRID took: whether one was kept from winning.

    python bench/packs/vote_temperatures.py runs/gsm8k-seed0.jsonl --pack my-pack --temperatures 0.5,0.8

The results file is one of evaluate.py, of that pack; its questions, seed and LoRID's answers are taken, and its samples for the pack's own
temperature. On another kind of device than its own, samples differ by rounding.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from evaluate import INTERRUPTED, KV_MEMORY, ROWS

from lorid_engine import Engine, env
from lorid_engine.errors import DataError, LoridError
from lorid_engine.evaluation.evaluate import is_complete
from lorid_engine.evaluation.results import Records, read_results
from lorid_engine.evaluation.scores import IrSample, Vote, interval, right_by_way, samples_so_far, solver_tokens
from lorid_engine.solver.base_source import FolderSource, resolve_base
from lorid_engine.solver.pack import Pack
from lorid_engine.solver.packs import load_pack
from lorid_engine.solver.role_requests import RoleJob, draw_samples

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import percent, write_result

Pools = Mapping[int, list[IrSample]]  # samples of each question, in order


def read(path: Path, pack: Pack) -> Records:
    """A complete evaluation of this pack.

    Raises:
        DataError: it is another pack's, or with other sampling, or lacks questions or baselines.
    """
    records = read_results(path)
    kept = records.settings
    own = {"pack": pack.name, "calculator": pack.calculator, "IR's sampling": pack.sampling_for("ir")}
    found = {"pack": kept["pack"], "calculator": kept.get("calculator", False), "IR's sampling": kept["sampling"]["ir"]}
    if different := [name for name, value in own.items() if found[name] != value]:
        name = different[0]
        raise DataError(f"{path} has {name} {found[name]!r}, the pack {own[name]!r}; give the pack that it is of")
    if not records.questions or not is_complete(records):
        raise DataError(f"{path} is not complete; give its command again")
    if any("error" in record for record in records.questions.values()):
        raise DataError(f"{path} has questions that ended in an error; there is no vote on those")
    return records


def temperatures(text: str) -> list[float]:
    """Temperatures of an option.

    Raises:
        argparse.ArgumentTypeError: one is none, or is there twice.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or len(set(found)) < len(found) or not all(0 < each < math.inf for each in found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of different numbers above 0, such as 0.5,0.8")
    return found


def draw(engine: Engine, pack: Pack, records: Records, temperature: float, count: int) -> Pools:
    """So many of IR's samples of every question."""
    numbers = range(1, count + 1)
    found: dict[tuple[int, int], IrSample] = {}
    jobs = (
        RoleJob(record["question"], "ir", number, owner=index)
        for index, record in records.questions.items()
        for number in numbers
    )
    for job, sample in draw_samples(engine, pack, jobs, records.settings["seed"], {"temperature": temperature}):
        if sample.note:
            raise DataError(f"IR could not answer {job.question[:60]!r}: {sample.note}")
        found[job.owner, job.round] = IrSample(sample.answer, len(sample.token_ids))
        if len(found) % (100 * count) == 0:
            print(f"{temperature:g}: {len(found) // count} questions' samples", file=sys.stderr, flush=True)
    return {index: [found[index, number] for number in numbers] for index in records.questions}


def compare(records: Records, right: Sequence[float], budget: float, pools: Mapping[float, Pools], out: Path) -> None:
    """Writes the votes of what has been drawn so far beside LoRID's answers, which are right or not."""
    questions = records.questions
    lines = [
        "| IR's temperature | one sample, % (95 % interval) | vote, % | its samples | its tokens | LoRID fallback less the vote, points |",
        "|---|---|---|---|---|---|",
    ]
    found: dict[str, Any] = {}
    for temperature, pool in sorted(pools.items()):
        vote = Vote.of(questions, pool, budget)
        voted = vote.after(vote.taken)
        one, many = interval(vote.after(1)), interval(voted)
        less = interval(a - b for a, b in zip(right, voted, strict=True))
        shown = " | ".join(map(percent, (one, many)))
        tokens = vote.tokens[vote.taken - 1]
        lines.append(f"| {temperature:g} | {shown} | {vote.taken} | {tokens:.0f} | {percent(less)} |")
        spent = {"samples": vote.taken, "tokens": tokens}
        found[f"{temperature:g}"] = {"one_sample": one, "vote": many, **spent, "fallback_less": less}
    fallback = interval(right)
    about = f"{len(questions)} questions of {records.settings['data']}, seed {records.settings['seed']}"
    lines += ["", f"{about}; LoRID's fallback {percent(fallback)} at {budget:.0f} tokens."]
    write_result(out, {"settings": records.settings, "fallback": fallback, "votes": found}, "\n".join(lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws, compares and writes; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a results file with baselines")
    parser.add_argument("--pack", required=True, help="its pack, by name or folder")
    parser.add_argument("--base", type=Path, help="folder or .gguf file of its base; default: as the pack says")
    parser.add_argument(
        "--temperatures", type=temperatures, default=[0.5, 0.8], help="beside its own; default: 0.5,0.8"
    )
    parser.add_argument("--device", default="cpu", choices=ROWS)
    parser.add_argument("--out", type=Path, default=Path("bench/results/pack-votes"))
    options = parser.parse_args(arguments)
    try:
        pack = load_pack(options.pack)
        records = read(options.results, pack)
        questions, budget = records.questions, solver_tokens(records.questions)
        right = right_by_way(questions, records.greedy, records.samples)["fallback"]
        own = {index: samples_so_far(record, records.samples.get(index, ())) for index, record in questions.items()}
        count = math.floor(budget / fmean(sample.tokens for pool in own.values() for sample in pool)) + 1
        base = resolve_base(FolderSource(options.base) if options.base else pack.base, env.cache_dir())
        rows = ROWS[options.device]
        engine = Engine(
            base,
            {"ir": pack.roles["ir"].adapter},
            device=options.device,
            max_batch_rows=rows,
            max_batch_tokens=16 * rows,
            kv_memory=KV_MEMORY[options.device],
            active_adapters=1,
        )
        pools: dict[float, Pools] = {float(pack.sampling_for("ir")["temperature"]): own}
        for temperature in options.temperatures:
            if temperature not in pools:
                pools[temperature] = draw(engine, pack, records, temperature, count)
            compare(records, right, budget, pools, options.out)
    except KeyboardInterrupt:
        print("Stopped; the temperatures that were finished are written.", file=sys.stderr)
        return INTERRUPTED
    except (LoridError, OSError) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
