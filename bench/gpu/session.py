"""What a process of the benchmark has: a device, a deadline, a file of rows, and which share of the work is its own."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sizes import Sizes, dry_sizes, with_layers
from timing import Timer, Timing

from lorid_engine.model.config import ModelConfig
from lorid_kernels import tuning


@dataclass(frozen=True)
class Job:
    """What the process that starts another tells it.

    Attributes:
        rows: a file of JSON lines, appended to.
        parts: names of parts, done in order.
        limit_s: after which nothing new is begun.
        dry: tiny shapes on the CPU.
        share: (i, n), of n processes that divide the work by kinds this is the i-th.
        warms: only compiles: every kind of call is made once, nothing is timed or recorded.
        peaks: what the first part measured, for the limits of later ones.
        tiles: a file of tiles that a part writes and a later one tries.
        given_tiles: a file of tiles that everything uses, as lorid bench tiles writes it; "" = the shipped ones alone.
    """

    rows: str
    parts: tuple[str, ...]
    limit_s: float
    dry: bool
    share: tuple[int, int] = (0, 1)
    warms: bool = False
    peaks: dict[str, float] = field(default_factory=dict)
    tiles: str = ""
    given_tiles: str = ""


class Session:
    """Measures, records and goes on: a call that fails is a row with its error."""

    def __init__(self, job: Job) -> None:
        self.job, self.peaks = job, dict(job.peaks)
        self.device = torch.device("cpu" if job.dry else "cuda")
        self.dtype = torch.float32 if job.dry else torch.bfloat16
        self.sizes: Sizes = dry_sizes() if job.dry else Sizes()
        self.timer = Timer(self.device)
        self.failures = 0
        self.part = ""
        self._deadline = time.monotonic() + job.limit_s
        self._kinds: dict[str, int] = {}

    @property
    def warms(self) -> bool:
        """Whether this process only compiles."""
        return self.job.warms

    def timed(self, config: ModelConfig) -> ModelConfig:
        """The model whose steps are timed: one layer is enough to compile its kernels, and for a dry run."""
        return with_layers(config, 1) if self.warms or self.job.dry else config

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.monotonic()

    def bandwidth(self) -> float:
        """Bytes a second of a copy, as measured."""
        return self.peaks.get("bytes_per_s", float("nan"))

    def matmul_rate(self) -> float:
        """Operations a second of a large product, as measured."""
        return self.peaks.get("flop_per_s", float("nan"))

    def use_tiles(self) -> None:
        """Takes the tiles that were given, beside the shipped ones."""
        tuning.use_measured(Path(self.job.given_tiles) if self.job.given_tiles else None)

    # Rows

    def record(self, name: str, **about: Any) -> None:
        """Appends a row and prints it."""
        row = {"part": self.part, "name": name, **about}
        if not self.warms:
            with Path(self.job.rows).open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
        told = ", ".join(f"{key} {_short(value)}" for key, value in about.items() if key != "trace")
        print(f"[{self.part}] {name}: {told}", flush=True)

    def fail(self, name: str, error: BaseException, **about: Any) -> None:
        """Records an error, which makes the exit status 1."""
        self.failures += 1
        trace = "".join(traceback.format_exception(error)[-6:])
        self.record(name, **about, error=f"{type(error).__name__}: {str(error)[:500]}", trace=trace)

    def refuse(self, name: str, reason: str, **about: Any) -> None:
        """Records that something is not measured, and why; no failure."""
        self.record(name, **about, skipped=reason)

    # Work

    def is_mine(self, kind: str) -> bool:
        """Whether this process does the calls of a kind; kinds are dealt out in the order in which they come."""
        index, count = self.job.share
        return self._kinds.setdefault(kind, len(self._kinds)) % count == index

    def guard(self, name: str, work: Callable[[], Any], **about: Any) -> Any:
        """Runs something; None where it failed, which is recorded."""
        try:
            return work()
        except Exception as error:
            self.fail(name, error, **about)
            return None

    def measure(
        self,
        name: str,
        kind: str,
        launch: Callable[[], Any],
        *,
        calls: int = 1,
        optional: bool = False,
        facts: Callable[[float], dict[str, Any]] = lambda seconds: {},
        **about: Any,
    ) -> Timing | None:
        """Times a function and records its row.

        Args:
            name: of the row.
            kind: functions of one kind need the same binaries.
            launch: makes the calls.
            calls: how many.
            optional: whether it may refuse to work without being a failure.
            facts: of the seconds of a call.
            about: what else the row says.
        """
        if self.warms:
            first = kind not in self._kinds
            if self.is_mine(kind) and first:
                self.guard(name, lambda: self.timer.once(launch), **about)
            return None
        if self.left <= 0:
            self.refuse(name, "no time left", **about)
            return None
        try:
            timing = self.timer.time(launch, self.sizes.repeats, calls)
        except Exception as error:
            if optional:
                self.refuse(name, f"{type(error).__name__}: {str(error)[:300]}", **about)
            else:
                self.fail(name, error, **about)
            return None
        self.record(
            name,
            **about,
            seconds=timing.median,
            quartiles=[timing.first_quartile, timing.third_quartile],
            repeats=timing.repeats,
            record_s=timing.record_s,
            warm_up_s=timing.warm_up_s,
            **facts(timing.median),
        )
        return timing

    def free(self) -> None:
        """Gives memory that no tensor uses back to the device."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + " ".join(map(_short, value)) + "]"
    return str(value)
