"""A run's rows as tables in Markdown and as plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from targets import LLAMA, Row, found, merged_seconds, steps, targets

from lorid_engine.plots import Panel, write_plot

FORMS = ("ours", "cublas per segment", "grouped_mm")


def markdown(rows: list[Row], about: dict[str, Any]) -> str:
    """Everything that was measured, the goals first."""
    pieces = [
        _goals(rows),
        _problems(rows),
        _decode(rows, LLAMA),
        _decode(rows, "mistral-7b"),
        _merged(rows),
        _products(rows),
        _linears(rows),
        _prefill(rows),
        _peft(rows),
        _engine(rows),
        "Median of the repeats, each a replay of a CUDA graph timed by events; quartiles are in the JSON. The limit is bytes "
        "touched over the bandwidth of a copy.",
        ", ".join(f"{key} {value}" for key, value in about.items()),
    ]
    return "\n\n".join(piece for piece in pieces if piece) + "\n"


def _table(title: str, head: list[str], lines: list[list[str]]) -> str:
    if not lines:
        return ""
    rows = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines)]
    return "\n".join([f"## {title}", "", *rows])


def _goals(rows: list[Row]) -> str:
    words = {True: "yes", False: "**no**", None: "not measured"}
    lines = [[target.goal, target.measured, words[target.met]] for target in targets(rows)]
    return _table("Goals", ["goal", "furthest from it", "met"], lines)


def _problems(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        why = row.get("error") or row.get("skipped") or (row.get("detail") if row.get("ok") is False else None)
        if why:
            case = ", ".join(f"{key} {row[key]}" for key in ("rank", "rows", "weight", "model", "form") if key in row)
            lines.append([row["part"], row["name"], case, str(why).replace("\n", " ").replace("|", "/")[:200]])
    return _table("What failed or was left out", ["part", "what", "case", "why"], lines[:60])


def _ms(row: Row | None) -> str:
    return f"{1e3 * row['seconds']:.3f}" if row else ""


def _decode(rows: list[Row], model: str) -> str:
    base, theirs = steps(rows, "ours", 0, 0, model), steps(rows, "cublas", 0, 0, model)
    lines = []
    for row in sorted(found(rows, "decode" if model == LLAMA else "mistral", "step", form="ours"), key=_order):
        n, rank, adapters = row["rows"], row["rank"], row["adapters"]
        same = {form: steps(rows, form, rank, adapters, model).get(n) for form in FORMS[1:]}
        over = f"{row['seconds'] / base[n]['seconds']:.3f}" if n in base else ""
        over_theirs = f"{row['seconds'] / theirs[n]['seconds']:.3f}" if n in theirs else ""
        tuned = steps(rows, "ours, tuned", rank, adapters, model).get(n)
        cells = [str(rank), str(adapters), str(n), _ms(row), f"{row['tok_s']:.0f}", f"{row['limit_share']:.2f}"]
        lines.append(
            [*cells, over, _ms(theirs.get(n)) if not rank else "", over_theirs, _ms(tuned), *map(_ms, same.values())]
        )
    head = ["rank", "adapters", "rows", "ours ms", "tokens/s", "share of the limit", "over our base", "cuBLAS base ms"]
    head += ["over the cuBLAS base", "tuned tiles ms", "cuBLAS per segment ms", "grouped_mm ms"]
    return _table(f"Decode steps, {model}", head, lines)


def _order(row: Row) -> tuple[int, int, int]:
    return row["rank"], row["adapters"], row["rows"]


def _merged(rows: list[Row]) -> str:
    lines = []
    for roles in (2, 3):
        for n, seconds in merged_seconds(rows, roles).items():
            cells = [str(roles), str(n), f"{1e3 * seconds:.3f}"]
            for rank in (512, 64):
                ours = steps(rows, "ours", rank, roles).get(n)
                cells += [_ms(ours), f"{seconds / ours['seconds']:.2f}" if ours else ""]
            lines.append(cells)
    head = ["roles", "rows", "copies in turn ms", "rank 512 ms", "times as fast", "rank 64 ms", "times as fast"]
    return _table("Merged copies stepped in turn, by the faster linears", head, lines)


def _products(rows: list[Row]) -> str:
    cells: dict[tuple[int, int], dict[str, Row]] = {}
    for row in found(rows, "products", "product"):
        cells.setdefault((row["rank"], row["rows"]), {})[row["form"]] = row
    lines = []
    for (rank, n), forms in sorted(cells.items()):
        ours = forms.get("ours")
        share = f"{ours['limit_share']:.2f}" if ours else ""
        times = [f"{1e6 * forms[form]['seconds']:.1f}" if form in forms else "" for form in FORMS]
        lines.append([str(rank), str(n), *times, share])
    return _table(
        "Shrink + expand of q and v of a layer, two adapters",
        ["rank", "rows", "ours µs", "cuBLAS per segment µs", "grouped_mm µs", "our share of the limit"],
        lines,
    )


def _linears(rows: list[Row]) -> str:
    cells: dict[tuple[int, int, int], list[Row]] = {}
    for row in found(rows, "linears", "linear"):
        cells.setdefault((row["out_features"], row["in_features"], row["rows"]), []).append(row)
    lines = []
    for (out_features, in_features, n), given in cells.items():
        default = next((row for row in given if row.get("is_default")), None)
        theirs = next((row for row in given if row["form"] == "cublas"), None)
        tiles = [row for row in given if row["form"] == "ours"]
        if default is None or theirs is None:
            continue
        best = min(tiles, key=lambda row: row["seconds"])
        free = min(row["seconds"] for row in given)
        lines.append(
            [
                f"{out_features}x{in_features}",
                str(n),
                f"{1e6 * theirs['seconds']:.1f}",
                f"{1e6 * default['seconds']:.1f}",
                f"{1e6 * best['seconds']:.1f}",
                best["tile"] + (" (default)" if best is default else ""),
                f"{default['byte_share']:.2f}",
                f"{default['peak_share']:.2f}",
                f"{best['peak_share']:.2f}",
                f"{default['seconds'] / free:.3f}",
            ]
        )
    head = ["O x I", "rows", "cuBLAS µs", "default tile µs", "best tile µs", "best tile", "default: share of bytes"]
    head += ["default: share of peak", "best: share of peak", "default over the best of all"]
    return _table("Base linears; the last column is the price of bits that never change", head, lines)


def _prefill(rows: list[Row]) -> str:
    lines = [
        [
            row["form"],
            str(row["rank"]),
            str(row["sequences"]),
            _ms(row),
            f"{row['tok_s']:.0f}",
            f"{row['peak_share']:.2f}",
        ]
        for row in found(rows, "prefill", "prefill")
    ]
    head = ["form", "rank", "sequences", "ms", "tokens/s", "linears' operations over time, of the peak"]
    return _table("Prefill", head, lines)


def _peft(rows: list[Row]) -> str:
    lines = []
    for row in found(rows, "peft", "step"):
        ours = steps(rows, "ours", row["rank"], None).get(row["rows"])
        ratio = f"{row['seconds'] / ours['seconds']:.1f}" if ours else ""
        lines.append([str(row["rank"]), str(row["rows"]), _ms(row), _ms(ours), ratio])
    return _table("PEFT, one batch of two adapters", ["rank", "rows", "PEFT ms", "ours ms", "times as fast"], lines)


def _engine(rows: list[Row]) -> str:
    graph = next(iter(found(rows, "engine", "engine's graph")), None)
    lines = [
        [
            str(row["run"]),
            f"{row['tok_s']:.0f}",
            f"{1e3 * row['first_step_s']:.1f}",
            f"{1e3 * row['step_s']:.3f}",
            _ms(graph),
            f"{1e3 * (row['step_s'] - graph['seconds']):.3f}" if graph else "",
        ]
        for row in found(rows, "engine", "engine")
    ]
    head = ["run", "tokens/s", "first step ms", "step ms", "its graph ms", "the host's share ms"]
    return _table("The engine end to end; run 0 compiles and records", head, lines)


# Plots


def plot_steps(path: Path, rows: list[Row]) -> bool:
    """Step time against rows, a panel for each rank; whether there was anything to draw."""
    panels = []
    for rank in sorted({row["rank"] for row in found(rows, "decode", "step") if row["rank"]}):
        lines, limits = {}, {}
        cases = {"our base": ("ours", 0), "cuBLAS base": ("cublas", 0)}
        cases |= {f"{form}, rank {rank}": (form, rank) for form in FORMS}
        for label, (form, of) in cases.items():
            cells = steps(rows, form, of, None)
            if cells:
                lines[label] = (sorted(cells), [1e3 * cells[n]["seconds"] for n in sorted(cells)])
        ours = steps(rows, "ours", rank, None)
        if ours:
            limits["bytes / bandwidth"] = (sorted(ours), [1e3 * ours[n]["limit_s"] for n in sorted(ours)])
        panels.append(Panel(f"rank {rank}, two adapters", lines, limits))
    if panels:
        write_plot(path, panels, "rows", "ms a step")
    return bool(panels)


def plot_products(path: Path, rows: list[Row]) -> bool:
    """Shrink + expand against rows, a panel for each rank; whether there was anything to draw."""
    panels = []
    for rank in sorted({row["rank"] for row in found(rows, "products", "product")}):
        lines, limits = {}, {}
        for form in FORMS:
            cells = sorted(found(rows, "products", "product", rank=rank, form=form), key=lambda row: row["rows"])
            if cells:
                lines[form] = ([row["rows"] for row in cells], [1e6 * row["seconds"] for row in cells])
                limits["bytes / bandwidth"] = ([row["rows"] for row in cells], [1e6 * row["limit_s"] for row in cells])
        panels.append(Panel(f"rank {rank}, two adapters", lines, limits))
    if panels:
        write_plot(path, panels, "rows", "µs of q and v of a layer")
    return bool(panels)
