"""A Markdown table of the op benchmarks: time, rates, and the ratio to torch.

    python -m pytest bench/ops --benchmark-json=ops.json
    python bench/report.py ops.json [--out bench/results/ops.md]

Bytes are what a run must move, each input and output once; where they fit a cache, GB/s is that cache's.
"""

from __future__ import annotations

import argparse
import json
from itertools import groupby
from pathlib import Path
from typing import Any

HEADER = """\
| case | implementation | median µs | IQR µs | GB/s | GFLOP/s | torch's time / this |
| --- | --- | ---: | ---: | ---: | ---: | ---: |"""


def line(result: dict[str, Any], torch_median: float | None) -> str:
    """A benchmark's row: work divided by its median time."""
    median, iqr = result["stats"]["median"], result["stats"]["iqr"]
    work = result["extra_info"]
    flops = f"{work['flops'] / median / 1e9:.1f}" if work["flops"] else ""
    cells = [
        result["group"],
        result["params"]["implementation"],
        f"{median * 1e6:.1f}",
        f"{iqr * 1e6:.1f}",
        f"{work['bytes'] / median / 1e9:.1f}",
        flops,
        f"{torch_median / median:.2f}" if torch_median else "",
    ]
    return f"| {' | '.join(cells)} |"


def table(results: list[dict[str, Any]]) -> str:
    """All groups in the order that they ran."""
    first_seen = {group: place for place, group in reversed(list(enumerate(result["group"] for result in results)))}
    lines = [HEADER]
    for _, members in groupby(sorted(results, key=lambda result: first_seen[result["group"]]), lambda r: r["group"]):
        alternatives = {result["params"]["implementation"]: result for result in members}
        torch = alternatives.get("torch")  # not there where only some were run
        torch_median = torch["stats"]["median"] if torch else None
        lines += [line(result, torch_median) for result in alternatives.values()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, help="from pytest --benchmark-json")
    parser.add_argument("--out", type=Path, default=Path("bench/results/ops.md"))
    options = parser.parse_args()
    recorded = json.loads(options.json.read_text())
    about = ", ".join(f"{key} {value}" for key, value in recorded["machine"].items())
    when = f"{recorded['datetime'][:10]}, commit {recorded['commit_info']['id'][:12]}"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(f"{table(recorded['benchmarks'])}\n\n{about}; {when}\n")


if __name__ == "__main__":
    main()
