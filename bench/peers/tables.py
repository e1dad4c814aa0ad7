"""Medians of the runs, and what is shown of them: tables in Markdown and panels of a plot."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from peers.systems import FIGURES, OURS, PREFILL_ROWS, Answer

from lorid_engine.plots import Lines, Panel

TITLES = {OURS: "lorid-engine", "peft": "transformers + PEFT", "llama_cpp": "llama.cpp", "vllm": "vLLM-CPU"}
_LIMITS = {
    "read_gb_s": "GB/s read",
    "fp32_gflop_s": "GFLOP/s in float32",
    "bf16_gflop_s": "GFLOP/s in bfloat16",
    "barrier_us": "us a barrier",
}
Summary = dict[str, Any]


def summary(system: str, rank: int, rows: int, answers: Sequence[Answer]) -> Summary:
    """A cell's runs, with their medians and ranges, and the error that ended them if there is one."""
    runs = [answer for answer in answers if "error" not in answer]
    found: Summary = {"system": system, "rank": rank, "rows": rows, "runs": runs}
    for name in FIGURES if runs else ():
        values = [run[name] for run in runs]
        found |= {name: statistics.median(values), f"{name}_range": [min(values), max(values)]}
    return found | _error(answers)


def probe_summary(answers: Sequence[Answer]) -> Summary:
    """The probe's best readings, since a limit is what happens undisturbed, and their ranges."""
    runs = [answer for answer in answers if "error" not in answer]
    found: Summary = {"runs": runs, "rows": {}, **_error(answers)}
    for name in _LIMITS if runs else ():
        values = [run[name] for run in runs if run[name] is not None]
        best = min if name == "barrier_us" else max
        found |= {
            name: best(values) if values else None,
            f"{name}_range": [min(values), max(values)] if values else None,
        }
    for places in zip(*(run["probe"] for run in runs), strict=True):
        best_place = min(places, key=lambda place: place["ms"])
        layers = min(place["ms_without_head"] for place in places)
        spread = [best_place["ms"], max(place["ms"] for place in places)]
        found["rows"][places[0]["rows"]] = {**best_place, "ms_without_head": layers, "ms_range": spread}
    return found


def _error(answers: Sequence[Answer]) -> Summary:
    errors = [answer["error"] for answer in answers if "error" in answer]
    return {"error": errors[-1]} if errors else {}


def markdown(cells: Sequence[Summary], probe: Summary, about: str) -> str:
    """All tables, and a line for each thing that could not be measured."""
    parts = [
        about,
        "Decode, tokens/s, and how many times as fast ours is (medians of the runs; lowest to highest in brackets):",
        _side_by_side(cells, "tok_s"),
        "Prefill, tokens/s, in the same way:",
        _side_by_side(cells, "prefill_tok_s"),
    ]
    if probe["rows"]:
        limits = ", ".join(f"{probe[name]:.1f} {unit}" for name, unit in _LIMITS.items() if probe[name] is not None)
        parts += [
            f"Ours against the probe, the linear layers of a step alone (best of the runs; the machine at best: {limits}); a "
            f"prefill, for each {PREFILL_ROWS} tokens, against the probe at {PREFILL_ROWS} rows without the head:",
            _over_probe(cells, probe["rows"]),
        ]
    if price := _price(cells):
        parts += ["What adapters cost: our step over our step without any.", price]
    return "\n\n".join([*parts, *_errors(cells, probe)])


def panels(cells: Sequence[Summary], probe: Summary) -> list[Panel]:
    """Tokens/s against rows, a line for each system, a panel for each rank; the probe's as a limit."""
    rows = sorted({cell["rows"] for cell in cells})
    limit = {count: 1e3 * count / probe["rows"][count]["ms"] for count in rows if count in probe["rows"]}
    limits: Lines = {"linear layers alone": (list(limit), list(limit.values()))} if limit else {}
    return [
        Panel(f"rank {rank}" if rank else "base without LoRA", _lines([c for c in cells if c["rank"] == rank]), limits)
        for rank in sorted({cell["rank"] for cell in cells})
    ]


def _lines(cells: Sequence[Summary]) -> Lines:
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for cell in cells:
        if cell["runs"]:
            x, y = lines.setdefault(TITLES[cell["system"]], ([], []))
            x.append(cell["rows"])
            y.append(cell["tok_s"])
    return lines


def _side_by_side(cells: Sequence[Summary], figure: str) -> str:
    """A row for each rank and number of rows, a column for each system."""
    systems = list(dict.fromkeys(cell["system"] for cell in cells))
    at = {(cell["system"], cell["rank"], cell["rows"]): cell for cell in cells}
    most = max(len(cell["runs"]) for cell in cells)
    places = sorted({(cell["rank"], cell["rows"]) for cell in cells})
    return _table(
        ("rank", "rows", *(TITLES[system] for system in systems)),
        [
            (rank, rows, *(_cell(at[system, rank, rows], at[OURS, rank, rows], figure, most) for system in systems))
            for rank, rows in places
        ],
    )


def _cell(cell: Summary, ours: Summary, figure: str, most: int) -> str:
    if not cell["runs"]:
        return "not measured"
    low, high = cell[f"{figure}_range"]
    text = f"{cell[figure]:.0f} ({low:.0f} to {high:.0f})"
    if cell is not ours and ours["runs"]:
        text += f", {ours[figure] / cell[figure]:.2f}x"
    return text if len(cell["runs"]) == most else f"{text}, {len(cell['runs'])} of {most} runs"


def _over_probe(cells: Sequence[Summary], probe: dict[int, Summary]) -> str:
    header = (
        "rank",
        "rows",
        "ms a step",
        "probe",
        "slowest run's",
        "times",
        f"ms for {PREFILL_ROWS} tokens",
        "probe",
        "times",
    )
    prefill_limit = probe[PREFILL_ROWS]["ms_without_head"]
    rows = []
    for cell in cells:
        if cell["system"] != OURS or not cell["runs"] or cell["rows"] not in probe:
            continue
        step, limit = cell["ms_per_step"], probe[cell["rows"]]["ms"]
        prefill = 1e3 * PREFILL_ROWS / cell["prefill_tok_s"]
        slowest = probe[cell["rows"]]["ms_range"][1]
        numbers = (step, limit, slowest, step / limit, prefill, prefill_limit, prefill / prefill_limit)
        rows.append((cell["rank"], cell["rows"], *(f"{number:.2f}" for number in numbers)))
    return _table(header, rows)


def _price(cells: Sequence[Summary]) -> str:
    """Ours with adapters over ours at rank 0, a row for each rank; empty where one of the two was not measured."""
    steps = {(c["rank"], c["rows"]): c["ms_per_step"] for c in cells if c["system"] == OURS and c["runs"]}
    rows = sorted({count for rank, count in steps if rank == 0})
    ranks = sorted({rank for rank, _ in steps if rank > 0})
    if not rows or not ranks:
        return ""

    def times(rank: int, count: int) -> str:
        return f"{steps[rank, count] / steps[0, count]:.2f}" if (rank, count) in steps else "not measured"

    return _table(
        ("rank", *(f"{count} rows" for count in rows)),
        [(rank, *(times(rank, count) for count in rows)) for rank in ranks],
    )


def _errors(cells: Sequence[Summary], probe: Summary) -> Iterator[str]:
    """What went wrong, once for each system and reason."""
    if "error" in probe:
        yield f"The probe: {probe['error']}."
    where: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if "error" in cell:
            where.setdefault((cell["system"], cell["error"]), []).append(f"rank {cell['rank']} at {cell['rows']} rows")
    for (system, error), places in where.items():
        yield f"{TITLES[system]}, {', '.join(places)}: {error}."


def _table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
