"""Puts together what bench/packs/evaluate.py found: accuracies with intervals, differences by paired bootstrap, and curves.

    python bench/packs/report.py runs --out bench/results/pack-eval

A question's score is its mean over the seeds; intervals are over questions. Files that are not complete are named and left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from evaluate import SETS, SHOTS

from lorid_engine.cli.doctor import machine_facts
from lorid_engine.errors import DataError, LoridError
from lorid_engine.evaluation.evaluate import is_complete
from lorid_engine.evaluation.results import Records, expect_same_but_seed, read_results
from lorid_engine.evaluation.scores import build_report, interval, right_by_way, seed_means
from lorid_engine.plots import Panel, write_plot

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import percent

WAYS = {
    "base_0": "base, 0 shots, greedy",
    "base_8": "base, 8 shots, greedy",
    "ir_greedy": "IR greedy",
    "ir_sample": "IR, one sample",
    "dr_greedy": "DR greedy, with KG's greedy rules",
    "vote": "vote of IR samples, at LoRID's tokens",
    "ir_ir": "IR-IR agreement, within LoRID's tokens",
    "fallback_at_ir_ir": "LoRID fallback, at IR-IR's tokens",
    "strict_any": "LoRID strict_any",
    "strict": "LoRID strict",
    "fallback": "LoRID fallback",
}
OTHERS = ("base_0", "base_8", "ir_greedy", "ir_sample", "dr_greedy", "vote", "ir_ir")  # that fallback is compared with
LESS = {way: ("fallback", way, WAYS[way]) for way in OTHERS} | {  # which way less which other, and how that is called
    "ir_ir_at_its_tokens": ("fallback_at_ir_ir", "ir_ir", "IR-IR agreement, LoRID at its tokens"),
}
ROUND_GROUPS = (1, 2, 3, 5, 9, 17, 33, 65, 129)  # each up to the next
Rights = dict[str, list[float]]


@dataclass(frozen=True)
class SetResult:
    """What was found on one set.

    Attributes:
        seeds: of the runs that are complete.
        rights: each way's score of each question, its mean over the seeds.
        by_seed: each way's accuracy with each seed.
        reports: of `lorid eval`, one for each seed.
        rounds: of all seeds' agreed answers, their round and whether they are right.
        machine: of the first run.
    """

    seeds: list[int]
    rights: Rights
    by_seed: dict[str, list[float]]
    reports: list[dict[str, Any]]
    rounds: list[tuple[int, bool]]
    settings: dict[str, Any]
    machine: dict[str, Any]


def read_set(work: Path, name: str) -> SetResult | None:
    """The complete runs on a set; None where there is none.

    Raises:
        DataError: the runs are not of the same questions and pack.
    """
    runs: list[Records] = []
    for path in sorted(work.glob(f"{name}-seed*.jsonl")):
        begun = b"\n" in path.read_bytes()  # its settings are there
        records = read_results(path) if begun else Records(path)
        if not begun or not is_complete(records):
            print(f"{path} is not complete: it is left out", file=sys.stderr)
            continue
        if all("error" in question for question in records.questions.values()):
            print(f"{path}: every question ended in an error: it is left out", file=sys.stderr)
            continue
        records.questions = dict(sorted(records.questions.items()))
        for other in runs:
            expect_same_but_seed(records, other)
        runs.append(records)
    if not runs:
        return None
    parts = [(each.questions, each.greedy, each.samples) for each in runs]
    rights = [right_by_way(*each) for each in parts]
    ways = [way for way in rights[0] if all(way in each for each in rights)]
    means = {way: seed_means([each[way] for each in rights]) for way in ways}
    for shots in SHOTS:
        if base := _read_base(work / f"{name}-base-{shots}-shot.jsonl", runs[0]):
            means[f"base_{shots}"] = base
    questions = (question for each in runs for question in each.questions.values())
    return SetResult(
        seeds=[each.settings["seed"] for each in runs],
        rights=means,
        by_seed={way: [mean(each[way]) for each in rights] for way in ways},
        reports=[
            build_report(*each, run.seconds.values(), baselines=True) for each, run in zip(parts, runs, strict=True)
        ],
        rounds=[(question["rounds"], question["right"]) for question in questions if question["agreed"]],
        settings={key: value for key, value in runs[0].settings.items() if key != "seed"},
        machine=runs[0].runs[0]["machine"],
    )


def _read_base(path: Path, run: Records) -> list[float] | None:
    """Whether the base was right on each of a run's questions; None where it has not answered all of them.

    Raises:
        DataError: it is another base, or was asked other questions.
    """
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    if not lines:
        return None
    settings, *rows = map(json.loads, lines)
    same = ("data_sha256", "base_sha256", "calculator")
    if different := [key for key in same if settings.get(key) != run.settings.get(key)]:
        raise DataError(f"{path} differs from {run.path} in {', '.join(different)}")
    right = {row["index"]: float(row["right"]) for row in rows}
    if not right.keys() >= run.questions.keys():
        print(f"{path} is not complete: it is left out", file=sys.stderr)
        return None
    return [right[index] for index in run.questions]


def differences(result: SetResult) -> dict[str, dict[str, float]]:
    """Those of LESS that there are: the mean of the questions' differences, with its interval."""
    rights = result.rights
    return {
        name: interval(a - b for a, b in zip(rights[way], rights[other], strict=True))
        for name, (way, other, _) in LESS.items()
        if way in rights and other in rights
    }


def agreed_by_round(result: SetResult) -> list[dict[str, Any]]:
    """How many answers were agreed on in which rounds, and the share that is right."""
    groups = []
    for first, next_first in pairwise(ROUND_GROUPS):
        right = [float(right) for rounds, right in result.rounds if first <= rounds < next_first]
        if right:
            groups.append({"rounds": [first, next_first - 1], "answers": len(right), **interval(right)})
    return groups


def curve(result: SetResult, way: str, x: str, y: str) -> tuple[list[float], list[float]]:
    """A curve's points, as means over the seeds as far as all have them."""
    points = list(zip(*(report[way]["curve"] for report in result.reports), strict=False))
    return [mean(each[x] for each in group) for group in points], [
        100 * mean(each[y] for each in group) for group in points
    ]


def write_plots(out: Path, results: Mapping[str, SetResult]) -> None:
    """Accuracy against rounds, and against tokens."""
    rounds, tokens = [], []
    for name, result in results.items():
        scores = ("strict_any", "strict", "fallback")
        rounds.append(Panel(name, {f"LoRID {score}": curve(result, "lorid", "rounds", score) for score in scores}))
        parts = {"LoRID": ("lorid", "fallback"), "vote": ("ir_vote", "accuracy"), "IR-IR": ("ir_ir", "fallback")}
        tokens.append(Panel(name, {line: curve(result, way, "tokens", y) for line, (way, y) in parts.items()}))
    write_plot(out.with_name(f"{out.name}-rounds.svg"), rounds, "rounds at most", "right, %")
    write_plot(out.with_name(f"{out.name}-tokens.svg"), tokens, "tokens of a question", "right, %")


def table(results: Mapping[str, SetResult], out: Path) -> str:
    """All of it in Markdown."""
    return "\n".join(_lines(results, out))


def _lines(results: Mapping[str, SetResult], out: Path) -> Iterator[str]:
    def header(first: str) -> Iterator[str]:
        yield f"| {first} | {' | '.join(results)} |"
        yield "|---|" + "---|" * len(results)

    yield from header("right, % (95 % interval)")
    for way, title in WAYS.items():
        cells = [percent(interval(result.rights[way])) if way in result.rights else "-" for result in results.values()]
        yield f"| {title} | {' | '.join(cells)} |"
    counts = [f"{len(result.rights['fallback'])}, seeds {_list(result.seeds)}" for result in results.values()]
    yield f"| questions | {' | '.join(counts)} |"
    for title, part, key in (
        ("LoRID's mean rounds", "lorid", "mean_rounds"),
        ("LoRID's tokens of a question", "lorid", "tokens_per_question"),
        ("the vote's tokens", "ir_vote", "tokens_per_question"),
        ("IR-IR's tokens: it ends where it agrees, or has 1.5 times LoRID's rounds", "ir_ir", "tokens_per_question"),
    ):
        values = (mean(report[part][key] for report in result.reports) for result in results.values())
        yield f"| {title} | {' | '.join(f'{value:.1f}' for value in values)} |"
    yield ""
    yield from header("fallback of each seed, %")
    cells = [_list(f"{100 * each:.1f}" for each in result.by_seed["fallback"]) for result in results.values()]
    yield f"| | {' | '.join(cells)} |"
    yield ""
    yield from header("LoRID fallback less, points (95 % interval)")
    shown = {name: differences(result) for name, result in results.items()}
    for name, (_, _, title) in LESS.items():
        cells = [percent(found[name]) if name in found else "-" for found in shown.values()]
        yield f"| {title} | {' | '.join(cells)} |"
    yield ""
    yield from header("agreed answers that are right, % (how many agreed), by round of agreement")
    most = max(int(result.settings["max_rounds"]) for result in results.values())
    for first, next_first in pairwise(ROUND_GROUPS):
        last = min(next_first - 1, most)
        title = f"{first} to {last}" if last > first else str(first)
        groups = [
            next((each for each in agreed_by_round(result) if each["rounds"][0] == first), None)
            for result in results.values()
        ]
        cells = [f"{100 * group['value']:.0f} ({group['answers']})" if group else "-" for group in groups]
        if any(groups):
            yield f"| {title} | {' | '.join(cells)} |"
    yield ""
    yield f"![accuracy against rounds]({out.name}-rounds.svg)"
    yield ""
    yield f"![accuracy against tokens]({out.name}-tokens.svg)"


def _list(values: Any) -> str:
    return ", ".join(map(str, values))


def main() -> int:
    """Writes the report; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of evaluate.py's results files")
    parser.add_argument("--out", type=Path, default=Path("bench/results/pack-eval"))
    options = parser.parse_args()
    try:
        results = {name: result for name in SETS if (result := read_set(options.work, name))}
        if not results:
            raise DataError(f"{options.work} holds no complete run of bench/packs/evaluate.py")
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_plots(options.out, results)
        shown = table(results, options.out)
        first = next(iter(results.values()))
        about = f"Pack {first.settings['pack']} (SHA-256 {first.settings['pack_sha256']}), {first.settings['dtype']}, at most "
        calculator = "a" if first.settings.get("calculator") else "no"
        sampling = json.dumps(first.settings["sampling"])
        about += f"{first.settings['max_rounds']} rounds, {calculator} calculator, sampling {sampling}."
        machine = ", ".join(f"{key} {value}" for key, value in first.machine.items())
        options.out.with_suffix(".md").write_text(f"{shown}\n\n{about}\n\nRan on: {machine}\n", encoding="utf-8")
        kept = {
            name: {
                "settings": result.settings,
                "machine": result.machine,
                "seeds": result.seeds,
                "right": {way: interval(values) for way, values in result.rights.items()},
                "by_seed": result.by_seed,
                "fallback_less": differences(result),
                "agreed_by_round": agreed_by_round(result),
                "reports": result.reports,
            }
            for name, result in results.items()
        }
        whole = {"written_on": machine_facts(), "sets": kept}
        options.out.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        print(shown)
    except (LoridError, OSError) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
