"""A vote of IR's samples, and the agreement of two IR streams, at other temperatures than the pack's: whether one of them was kept
from winning.

    python bench/packs/vote_temperatures.py runs/gsm8k-seed*.jsonl --pack my-pack --temperatures 0.5,0.8

The results files are evaluate.py's, of that pack, each with another seed; their questions and LoRID's answers are taken, and their
samples for the pack's own temperature. WORK gets a file of samples for each seed and temperature; the same command goes on where it
stopped. On another kind of device than the files' own, samples differ by rounding.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from evaluate import INTERRUPTED, KV_MEMORY, ROWS, TitledProgress
from rich.console import Console

from lorid_engine import Engine, env
from lorid_engine.cli.doctor import machine_facts
from lorid_engine.errors import DataError, LoridError
from lorid_engine.evaluation.evaluate import BaselineSamples, extend_samples, is_complete
from lorid_engine.evaluation.results import Records, ResultsFile, expect_same_but_seed, read_results
from lorid_engine.evaluation.scores import (
    IrSample,
    Vote,
    interval,
    ir_curve,
    right_by_way,
    samples_so_far,
    solver_curve,
    solver_tokens,
)
from lorid_engine.solver.base_source import FolderSource, resolve_base
from lorid_engine.solver.pack import Pack
from lorid_engine.solver.packs import load_pack
from lorid_engine.solver.role_requests import draw_samples

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import percent, write_result

WAYS = ("one", "vote", "agreement", "stopped")  # of Found
SPENT = ("samples", "vote_tokens", "agreement_tokens", "stopped_tokens")
Pools = dict[int, list[IrSample]]  # each question's samples, in order


@dataclass(frozen=True)
class Found:
    """What one seed's samples of one temperature came to, within LoRID's tokens.

    Attributes:
        one, vote, agreement: whether one sample, the vote and IR-IR are right on each question.
        stopped: whether LoRID is, with so few rounds that it takes no more tokens than IR-IR, which ends where it agrees.
        samples: of the vote.
        vote_tokens, agreement_tokens, stopped_tokens: means of a question.
    """

    one: list[float]
    vote: list[float]
    agreement: list[float]
    stopped: list[float]
    samples: int
    vote_tokens: float
    agreement_tokens: float
    stopped_tokens: float

    @classmethod
    def of(cls, run: Records, pools: Pools) -> Found:
        budget = solver_tokens(run.questions)
        vote = Vote.of(run.questions, pools, budget)
        agreement, agreement_tokens = ir_curve(run.questions, pools).right_within(budget)
        stopped, stopped_tokens = solver_curve(run.questions).right_within(agreement_tokens)
        rights = vote.after(1), vote.after(vote.taken), agreement, stopped
        return cls(*rights, vote.taken, vote.tokens[vote.taken - 1], agreement_tokens, stopped_tokens)


def read_runs(paths: Sequence[Path], pack: Pack) -> list[Records]:
    """Complete evaluations of this pack, which differ in their seeds only.

    Raises:
        DataError: one is another pack's, or with other sampling, or lacks questions or baselines, or a seed is there twice.
    """
    runs: list[Records] = []
    for path in paths:
        records = read_results(path)
        kept = records.settings
        own = {"pack": pack.name, "calculator": pack.calculator, "IR's sampling": pack.sampling_for("ir")}
        found = {
            "pack": kept["pack"],
            "calculator": kept.get("calculator", False),
            "IR's sampling": kept["sampling"]["ir"],
        }
        if different := [name for name, value in own.items() if found[name] != value]:
            name = different[0]
            raise DataError(f"{path} has {name} {found[name]!r}, the pack {own[name]!r}; give the pack that it is of")
        if not records.questions or not is_complete(records):
            raise DataError(f"{path} is not complete; give its command again")
        if any("error" in record for record in records.questions.values()):
            raise DataError(f"{path} has questions that ended in an error; there is no vote on those")
        records.questions = dict(sorted(records.questions.items()))
        if runs:
            expect_same_but_seed(records, runs[0])
        if kept["seed"] in (run.settings["seed"] for run in runs):
            raise DataError(f"{path} has seed {kept['seed']} a second time; give one file of each seed")
        runs.append(records)
    return runs


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


@dataclass(frozen=True)
class Drawer:
    """Draws what is missing of IR's samples, and keeps them.

    Attributes:
        work: folder of the files of samples.
        device: cpu or cuda.
    """

    engine: Engine
    pack: Pack
    work: Path
    device: str
    progress: TitledProgress

    def pools(self, run: Records, temperature: float) -> Pools:
        """All samples of a run's questions that a vote and IR-IR may have."""
        machine, overrides = machine_facts(None), {"temperature": temperature}
        computes = "cuda" if self.device == "cuda" else machine["instruction set"]
        settings = run.settings | {"instruction_set": computes}
        settings["sampling"] = {"ir": self.pack.sampling_for("ir", overrides)}
        seed, left = run.settings["seed"], BaselineSamples(run.settings)
        path = self.work / f"{run.path.stem}-ir-{temperature:g}.jsonl"
        with ResultsFile(path, settings, machine) as results:
            self.progress.title = f"{run.path.stem}, IR at {temperature:g}"
            self.progress.stage("samples", 0, 0)
            while wanted := left.wanted(run.questions, pools := pools_of(run, results.samples)):
                extend_samples(
                    results,
                    run.questions,
                    pools,
                    wanted,
                    lambda jobs: draw_samples(self.engine, self.pack, jobs, seed, overrides),
                    self.progress,
                )
            return pools


def pools_of(run: Records, samples: Mapping[int, Sequence[Mapping[str, Any]]]) -> Pools:
    """The samples of a file of samples, by the run's questions."""
    return {
        index: [IrSample(sample["answer"], sample["tokens"]) for sample in samples.get(index, ())]
        for index in run.questions
    }


def mean_rights(rights: Sequence[Sequence[float]]) -> list[float]:
    """Each question's mean over the seeds."""
    return [fmean(each) for each in zip(*rights, strict=True)]


def by_seed(seeds: Sequence[Found], way: str) -> list[float]:
    """A way's accuracy with each seed."""
    return [fmean(getattr(seed, way)) for seed in seeds]


def compare(runs: Sequence[Records], found: Mapping[float, Sequence[Found]], out: Path) -> None:
    """Writes what has been found so far beside LoRID's answers; intervals are over questions."""
    right = mean_rights([right_by_way(run.questions, run.greedy, run.samples)["fallback"] for run in runs])
    lines = [
        "| IR's temperature | one sample, % (95 % interval) | vote, % | its samples, tokens | LoRID fallback less the vote, points "
        "| IR-IR, % | its tokens | LoRID fallback less IR-IR | LoRID stopped at IR-IR's tokens, less IR-IR |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    result: dict[str, Any] = {}
    for temperature, seeds in sorted(found.items()):
        ways = {way: mean_rights([getattr(seed, way) for seed in seeds]) for way in WAYS}
        shares = {way: {**interval(rights), "by_seed": by_seed(seeds, way)} for way, rights in ways.items()}
        means = {name: fmean(getattr(seed, name) for seed in seeds) for name in SPENT}
        pairs = {
            "fallback_less_vote": (right, ways["vote"]),
            "fallback_less_agreement": (right, ways["agreement"]),
            "stopped_less_agreement": (ways["stopped"], ways["agreement"]),
        }
        less = {name: interval(a - b for a, b in zip(*pair, strict=True)) for name, pair in pairs.items()}
        result[f"{temperature:g}"] = shares | means | less
        cells = [
            f"{temperature:g}",
            percent(shares["one"]),
            percent(shares["vote"]),
            f"{means['samples']:.1f}, {means['vote_tokens']:.0f}",
            percent(less["fallback_less_vote"]),
            percent(shares["agreement"]),
            f"{means['agreement_tokens']:.0f}",
            percent(less["fallback_less_agreement"]),
            percent(less["stopped_less_agreement"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    fallback, budget = interval(right), fmean(solver_tokens(run.questions) for run in runs)
    seeds_shown = ", ".join(str(run.settings["seed"]) for run in runs)
    about = f"{len(right)} questions of {runs[0].settings['data']}, seeds {seeds_shown}"
    lines += ["", f"{about}; LoRID's fallback {percent(fallback)} at {budget:.0f} tokens."]
    settings = {key: value for key, value in runs[0].settings.items() if key != "seed"}
    settings["seeds"] = [run.settings["seed"] for run in runs]
    write_result(out, {"settings": settings, "fallback": fallback, "temperatures": result}, "\n".join(lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws, compares and writes; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="results files with baselines, one for each seed")
    parser.add_argument("--pack", required=True, help="their pack, by name or folder")
    parser.add_argument("--base", type=Path, help="folder or .gguf file of its base; default: as the pack says")
    parser.add_argument(
        "--temperatures", type=temperatures, default=[0.5, 0.8], help="beside its own; default: 0.5,0.8"
    )
    parser.add_argument("--device", default="cpu", choices=ROWS)
    parser.add_argument("--work", type=Path, required=True, help="folder of the files of samples")
    parser.add_argument("--out", type=Path, default=Path("bench/results/pack-votes"))
    options = parser.parse_args(arguments)
    try:
        pack = load_pack(options.pack)
        runs = read_runs(options.results, pack)
        options.work.mkdir(parents=True, exist_ok=True)
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
        own = [
            {index: samples_so_far(each, run.samples.get(index, ())) for index, each in run.questions.items()}
            for run in runs
        ]
        found = {
            float(pack.sampling_for("ir")["temperature"]): [Found.of(*each) for each in zip(runs, own, strict=True)]
        }
        with TitledProgress(Console(stderr=True, highlight=False)) as progress:
            drawer = Drawer(engine, pack, options.work, options.device, progress)
            for temperature in options.temperatures:
                if temperature not in found:
                    found[temperature] = [Found.of(run, drawer.pools(run, temperature)) for run in runs]
                compare(runs, found, options.out)
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.", file=sys.stderr)
        return INTERRUPTED
    except (LoridError, OSError) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
