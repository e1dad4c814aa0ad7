"""Records an evaluation: from the report of `lorid eval --json` to bench/results.

lorid eval --data gsm8k/test.jsonl --limit 200 --out results.jsonl --json > report.json
python bench/record_eval.py report.json [--out bench/results/gsm8k-eval]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lorid_engine.evaluation.table import report_rows


def main() -> None:
    """Writes the report as it is, and a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench/results/gsm8k-eval"))
    parser.add_argument("--note", help="what else a reader should know of the run")
    options = parser.parse_args()
    report = json.loads(options.report.read_text())
    settings, lorid = report["settings"], report["lorid"]
    lines = ["| what | right | 95 % interval | tokens a question | |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in report_rows(report)]
    histogram = ", ".join(f"{rounds}: {count}" for rounds, count in lorid["rounds_histogram"].items())
    about = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    lines += [
        f"\n{report['questions']} questions of {settings['data']} (SHA-256 {settings['data_sha256']}), pack {settings['pack']}, "
        f"{settings['dtype']}, seed {settings['seed']}, at most {settings['max_rounds']} rounds: {lorid['mean_rounds']:.2f} rounds "
        f"a question, {100 * lorid['agreed']:.1f} % agree. Questions by rounds: {histogram}.",
        f"\n`{report['command']}`",
        f"\n{about}",
        *([f"\n{options.note}"] if options.note else []),
    ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps({"note": options.note, **report}, indent=1) + "\n")
    options.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
