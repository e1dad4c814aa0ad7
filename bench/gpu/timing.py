"""Times of work on a device: CUDA events around replays of one CUDA graph, so that no launch from Python is in them."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

MOST_SECONDS = 4.0  # of the repeats of one timing; there are at least LEAST_REPEATS whatever they take
LEAST_REPEATS = 5


@dataclass(frozen=True)
class Timing:
    """Seconds of one call.

    Attributes:
        median, first_quartile, third_quartile: of the repeats.
        repeats: how many there were.
        record_s: what recording the graph took.
        warm_up_s: what the first call took, which compiles what is not compiled yet.
    """

    median: float
    first_quartile: float
    third_quartile: float
    repeats: int
    record_s: float
    warm_up_s: float

    @classmethod
    def of(cls, seconds: list[float], calls: int, record_s: float, warm_up_s: float) -> Timing:
        """Of the seconds of repeats, each of so many calls."""
        each = [value / calls for value in seconds]
        first, median, third = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
        return cls(median, first, third, len(each), record_s, warm_up_s)


class Timer:
    """Times functions that launch work and return at once.

    Args:
        device: on a CPU functions are called and timed as they are, for a dry run.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        # One stream for all graphs: cuBLAS keeps a workspace for every stream that it has seen.
        self._stream: Any = torch.cuda.Stream(device) if self._on_gpu else None

    def once(self, launch: Callable[[], Any]) -> float:
        """Seconds of one call, waited for."""
        begin = time.perf_counter()
        if not self._on_gpu:
            launch()
            return time.perf_counter() - begin
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            launch()
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    def time(self, launch: Callable[[], Any], repeats: int, calls: int) -> Timing:
        """Records and replays a function that makes so many like calls."""
        warm_up_s = self.once(launch)
        if not self._on_gpu:
            return Timing.of([warm_up_s], calls, 0.0, warm_up_s)
        begin = time.perf_counter()
        graph, kept = self._record(launch)
        record_s = time.perf_counter() - begin
        seconds = self.replay(graph.replay, repeats)
        del graph, kept
        return Timing.of(seconds, calls, record_s, warm_up_s)

    def replay(self, launch: Callable[[], Any], repeats: int) -> list[float]:
        """Seconds by events of each of some repeats, launched without waiting in between."""
        begin = time.perf_counter()
        with torch.cuda.stream(self._stream):
            for _ in range(2):
                launch()
        torch.cuda.synchronize()
        each = max((time.perf_counter() - begin) / 2, 1e-6)
        repeats = max(min(repeats, int(MOST_SECONDS / each)), LEAST_REPEATS)
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
        with torch.cuda.stream(self._stream):
            for start, end in events:
                start.record()
                launch()
                end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in events]

    def _record(self, launch: Callable[[], Any]) -> tuple[Any, Any]:
        """A graph, and what it writes, which must live as long."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            graph.capture_begin()
            try:
                kept = launch()
            except BaseException:
                # The stream must leave its recording, or nothing later works; the first error is the one to tell.
                with contextlib.suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph, kept
