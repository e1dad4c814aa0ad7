"""What the backend is meant to reach, and whether the rows of a run say that it does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
LLAMA = "llama-2-7b"


@dataclass(frozen=True)
class Target:
    """A goal, the measured value that is furthest from it, and whether all reach it; None = not measured.

    Attributes:
        goal: in words.
        measured: in words.
        met: or not, or None.
    """

    goal: str
    measured: str
    met: bool | None


def found(given: Iterable[Row], part: str, name: str, **where: Any) -> list[Row]:
    """Rows with these values that were measured."""
    return [
        row
        for row in given
        if row["part"] == part
        and row["name"] == name
        and "seconds" in row
        and all(row.get(key) == value for key, value in where.items())
    ]


def steps(rows: Iterable[Row], form: str, rank: int, adapters: int | None, model: str = LLAMA) -> dict[int, Row]:
    """Decode steps by their number of rows; adapters None: as many as there are rows, up to two."""
    part = "decode" if model == LLAMA else "mistral"
    cells = found(rows, part, "step", form=form, rank=rank, model=model)
    return {
        row["rows"]: row
        for row in cells
        if row["adapters"] == (0 if not rank else adapters if adapters is not None else min(2, row["rows"]))
    }


def merged_seconds(rows: Iterable[Row], roles: int) -> dict[int, float]:
    """Seconds of a turn through all merged copies by rows, by whichever linears are faster."""
    best: dict[int, float] = {}
    for row in found(rows, "decode", "merged", roles=roles):
        best[row["rows"]] = min(row["seconds"], best.get(row["rows"], float("inf")))
    return best


def targets(rows: list[Row]) -> list[Target]:
    """Every goal."""
    return [
        _correct(rows),
        _ratio("our base step takes at most 1.05 of one by cuBLAS, 1 to 64 rows", _base_over_cublas(rows), most=1.05),
        _ratio("base linears reach at least 65 % of the matmul peak at 4,096 rows", _linear_shares(rows), least=0.65),
        *(
            _ratio(
                f"a step of rank {rank}, 2 adapters, takes at most {most} of our base step, 2 to 64 rows",
                _over_base(rows, rank),
                most=most,
            )
            for rank, most in ((512, 1.12), (64, 1.04), (16, 1.03))
        ),
        _ratio(
            "a step of rank 512, 2 adapters, is at least 75 % as fast as its bytes allow, 2 to 64 rows",
            {f"{n} rows": row["limit_share"] for n, row in steps(rows, "ours", 512, None).items() if n >= 2},
            least=0.75,
        ),
        _ratio(
            "shrink + expand of rank 512, 32 rows, is at least 60 % as fast as its bytes allow",
            {
                f"{row['rows']} rows": row["limit_share"]
                for row in found(rows, "products", "product", form="ours", rank=512, rows=32)
            },
            least=0.6,
        ),
        _ratio(
            "shrink + expand is never slower than a cuBLAS product per segment, 1 to 256 rows",
            _products_over_cublas(rows),
            most=1.0,
        ),
        _ratio("prefill with rank 512, 2 adapters, takes at most 1.08 of the base's", _prefill(rows), most=1.08),
        _ratio("a step is at least 8 times as fast as PEFT's mixed batch, 2 to 32 rows", _over_peft(rows), least=8.0),
        *(
            _ratio(
                f"{roles} roles of rank 512 are at least {least} times as fast as their merged copies in turn, 3 to 32 rows",
                _over_merged(rows, roles, 512),
                least=least,
            )
            for roles, least in ((2, 1.6), (3, 2.2))
        ),
        *(
            _ratio(
                f"{roles} roles of rank 512 take at most 40 % of the memory of their merged copies",
                {row["model"]: row[f"share_{roles}"] for row in rows if row["name"] == "memory" and row["rank"] == 512},
                most=0.4,
            )
            for roles in (2, 3)
        ),
    ]


def _correct(rows: list[Row]) -> Target:
    checks = [row for row in rows if row["part"] == "correctness" and "ok" in row]
    wrong = [row for row in checks if not row["ok"]]
    broken = [row for row in rows if row["part"] == "correctness" and ("error" in row or "skipped" in row)]
    told = f"{len(checks) - len(wrong)} of {len(checks)} checks" + (f", {len(broken)} not done" if broken else "")
    return Target("every check of results and of bits passes", told, not wrong and not broken if checks else None)


def _ratio(goal: str, values: dict[str, float], *, most: float | None = None, least: float | None = None) -> Target:
    """Of values by case: the worst one is told."""
    if not values:
        return Target(goal, "not measured", None)
    case, worst = (max if most is not None else min)(values.items(), key=lambda item: item[1])
    missed = sum(value > most if most is not None else value < least for value in values.values())
    told = f"{worst:.3f} ({case})" + (f"; {missed} of {len(values)} cases miss it" if missed else "")
    return Target(goal, told, not missed)


def _base_over_cublas(rows: list[Row]) -> dict[str, float]:
    ours, theirs = steps(rows, "ours", 0, 0), steps(rows, "cublas", 0, 0)
    return {f"{n} rows": ours[n]["seconds"] / theirs[n]["seconds"] for n in sorted(ours.keys() & theirs.keys())}


def _linear_shares(rows: list[Row]) -> dict[str, float]:
    cells = found(rows, "linears", "linear", form="ours", is_default=True, rows=4096)
    return {f"{row['out_features']}x{row['in_features']}": row["peak_share"] for row in cells}


def _over_base(rows: list[Row], rank: int) -> dict[str, float]:
    ours, base = steps(rows, "ours", rank, None), steps(rows, "ours", 0, 0)
    both = sorted(n for n in ours.keys() & base.keys() if n >= 2)
    return {f"{n} rows": ours[n]["seconds"] / base[n]["seconds"] for n in both}


def _products_over_cublas(rows: list[Row]) -> dict[str, float]:
    theirs = {
        (row["rank"], row["rows"]): row["seconds"]
        for row in found(rows, "products", "product", form="cublas per segment")
    }
    ours = found(rows, "products", "product", form="ours")
    return {
        f"rank {row['rank']}, {row['rows']} rows": row["seconds"] / theirs[row["rank"], row["rows"]]
        for row in ours
        if (row["rank"], row["rows"]) in theirs
    }


def _prefill(rows: list[Row]) -> dict[str, float]:
    base = found(rows, "prefill", "prefill", form="ours", rank=0, sequences=2)
    ours = found(rows, "prefill", "prefill", form="ours", rank=512, sequences=2)
    return {
        f"{one['tokens']} tokens": one["seconds"] / other["seconds"] for one, other in zip(ours, base, strict=False)
    }


def _over_peft(rows: list[Row]) -> dict[str, float]:
    values = {}
    for row in found(rows, "peft", "step", form="peft"):
        ours = steps(rows, "ours", row["rank"], None).get(row["rows"])
        if ours is not None:
            values[f"rank {row['rank']}, {row['rows']} rows"] = row["seconds"] / ours["seconds"]
    return values


def _over_merged(rows: list[Row], roles: int, rank: int) -> dict[str, float]:
    merged, ours = merged_seconds(rows, roles), steps(rows, "ours", rank, roles)
    return {f"{n} rows": merged[n] / ours[n]["seconds"] for n in sorted(merged.keys() & ours.keys())}
