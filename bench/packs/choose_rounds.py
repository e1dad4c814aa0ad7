"""Chooses how many rounds a pack's questions get: the loop's run on held-out training questions, stopped earlier and earlier.

    lorid eval --pack my-pack --data my-pack-run/data/held-out.jsonl --limit 240 --no-baselines --out held-out-loop.jsonl
    python bench/packs/choose_rounds.py held-out-loop.jsonl --pack my-pack

The fewest rounds whose answers (fallback) are right as often as after any other number, within one standard error of the questions'
differences, are written into the pack's manifest.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

import tomli_w
import tomllib

from lorid_engine.errors import DataError, LoridError
from lorid_engine.evaluation.results import read_results
from lorid_engine.evaluation.scores import interval, solver_curve
from lorid_engine.solver.packs import load_pack
from lorid_engine.train.files import write_whole

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import percent, write_result


def fewest_rounds(right: Mapping[int, Sequence[float]]) -> int:
    """The least of the limits that is not worse than the best: one question more decides nothing."""
    best = max(right.values(), key=fmean)

    def is_as_good(found: Sequence[float]) -> bool:
        differences = [a - b for a, b in zip(best, found, strict=True)]
        error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
        return fmean(differences) <= error

    return min(limit for limit, found in right.items() if is_as_good(found))


def main() -> int:
    """Counts, chooses and writes; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="of lorid eval, on held-out questions")
    parser.add_argument("--pack", type=Path, required=True, help="a pack's folder, whose manifest is written")
    parser.add_argument("--out", type=Path, default=Path("bench/results/pack-rounds"))
    options = parser.parse_args()
    try:
        pack = load_pack(str(options.pack.resolve()))
        records = read_results(options.results)
        if not records.questions or len(records.questions) != records.settings["limit"]:
            raise DataError(f"{options.results} is not complete; give lorid eval's command again, with a --limit")
        curve, most = solver_curve(records.questions), int(records.settings["max_rounds"])
        outcomes = {limit: curve.at(limit) for limit in range(1, most + 1)}
    except (LoridError, OSError) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2
    right = {limit: interval(float(each.right) for each in found) for limit, found in outcomes.items()}
    taken = fewest_rounds({limit: [float(each.right) for each in found] for limit, found in outcomes.items()})
    lines = ["| rounds at most | right, % (95 % interval) | agreed, % | tokens |", "|---|---|---|---|"]
    for limit, found in outcomes.items():
        agreed = 100 * sum(each.agreed for each in found) / len(found)
        tokens = sum(each.tokens for each in found) / len(found)
        mark = " (taken)" if limit == taken else ""
        lines.append(f"| {limit} | {percent(right[limit])}{mark} | {agreed:.0f} | {tokens:.0f} |")
    lines += ["", f"{len(records.questions)} GSM8K training questions that were held out."]
    result = {"pack": pack.name, "settings": records.settings, "taken": taken, "right": right}
    write_result(options.out, result, "\n".join(lines))
    manifest = pack.folder / "pack.toml"
    document = tomllib.loads(manifest.read_text(encoding="utf-8")) | {"max_rounds": taken}
    write_whole(manifest, tomli_w.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
