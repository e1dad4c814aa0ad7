"""Decode and prefill speed of the engine, over ranks, rows and adapters."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorid_engine.engine import Engine, Request, SamplingParams
from lorid_engine.engine.adapter_slots import NUM_SLOTS
from lorid_engine.errors import CapacityError, ConfigError
from lorid_engine.model.random_model import random_adapter
from lorid_engine.ops.kv_pages import PAGE_TOKENS

SPREADS = ("uniform", "zipf", "ir-dr")
_MARGIN = 2  # tokens beyond those that are timed: of the step in which the rows begin, and one more


@dataclass(frozen=True)
class DecodePlan:
    """What is measured: every combination of ranks, adapters and batch.

    Attributes:
        ranks: each the ranks that the adapters have in turn; (0,) = no adapters.
        batches: rows of a step.
        adapters: how many are loaded.
        spread: which adapters the rows use: "uniform" = in turn, "zipf" = the n-th 1/n as often as the first, "ir-dr" = the
            first two in turn.
        targets: adapted projections.
        prompt: tokens of a prompt. new: decode steps that are timed.
        runs: repetitions, of which the medians are reported.
        seed: of prompts, adapters and the zipf spread.

    Raises:
        ConfigError: a value out of range.
    """

    ranks: tuple[tuple[int, ...], ...] = ((0,), (16,), (512,))
    batches: tuple[int, ...] = (1, 2, 8, 32)
    adapters: tuple[int, ...] = (2,)
    spread: str = "uniform"
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    prompt: int = 128
    new: int = 48
    runs: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.spread not in SPREADS:
            raise ConfigError(f"spread must be one of {', '.join(SPREADS)}; got {self.spread!r}")
        for name, values, least, most in (
            ("batch", self.batches, 1, 4096),
            ("adapters", self.adapters, 1, NUM_SLOTS),
            ("prompt", (self.prompt,), 1, 1 << 20),
            ("new", (self.new,), 1, 1 << 20),
            ("runs", (self.runs,), 1, 1000),
        ):
            if name == "adapters" and values and min(values) < max(map(len, self.ranks), default=1):
                raise ConfigError(f"a mix of ranks needs an adapter for each; got {min(values)} adapters")
            if not values or not all(least <= value <= most for value in values):
                raise ConfigError(
                    f"{name} must be from {least} to {most}; got {', '.join(map(str, values)) or 'nothing'}"
                )
        for mix in self.ranks:
            if not mix or not all(0 <= rank <= 4096 for rank in mix) or (0 in mix and len(mix) > 1):
                raise ConfigError(f"a rank must be 0 (no adapters) or up to 4096, mixed ones above 0; got {mix}")

    @property
    def tokens(self) -> int:
        """The longest sequence."""
        return self.prompt + self.new + _MARGIN

    @property
    def cells(self) -> int:
        """How many rows there will be."""
        return sum(len(self.batches) * (1 if mix == (0,) else len(self.adapters)) for mix in self.ranks)


def rank_name(mix: tuple[int, ...]) -> int | str:
    """A rank as it is reported: a number, or "16+512" for a mix."""
    return mix[0] if len(mix) == 1 else "+".join(map(str, mix))


def adapters_of_rows(spread: str, batch: int, adapters: int, seed: int) -> list[int]:
    """The adapter of each row, by number."""
    if spread == "zipf":
        weights = 1 / np.arange(1, adapters + 1)
        return np.random.default_rng(seed).choice(adapters, batch, p=weights / weights.sum()).tolist()
    among = min(adapters, 2) if spread == "ir-dr" else adapters
    return [row % among for row in range(batch)]


def step_tokens(batch: int) -> int:
    """Tokens of a step in which all rows can begin: each with the last page of its prompt, the pages before being there."""
    return batch * PAGE_TOKENS


def measure_decode(
    engine: Engine, plan: DecodePlan, tell: Callable[[dict[str, Any]], None] = lambda row: None
) -> list[dict[str, Any]]:
    """Measures every cell of a plan on one engine; its adapters are random, and are gone afterwards.

    Args:
        engine: with room for the plan's largest batch, in steps of step_tokens(batch) tokens.
        plan: what to measure.
        tell: told each row as it is measured.

    Returns:
        Rows {rank, batch, adapters, spread, ms_per_step, tok_s, prefill_tok_s, ms_in_kernels} as medians of the runs, with the
        lowest and highest, and what they hold for: dtype, threads and so on are the caller's to add. What a step takes beyond
        its kernels is Python and the scheduler.

    Raises:
        AdapterError: the engine has no free slot for so many adapters.
        CapacityError: its KV pages do not hold the largest batch.
    """
    prompts = _prompts(engine, plan)
    rows = []
    for mix in plan.ranks:
        names: list[str] = []
        try:
            for adapters in (0,) if mix == (0,) else sorted(plan.adapters):
                for number in range(len(names), adapters):
                    rank = mix[number % len(mix)]
                    adapter = random_adapter(f"random-{number}", engine.config, rank, plan.targets, plan.seed + number)
                    engine.load_adapter(adapter.name, adapter)
                    names.append(adapter.name)
                for batch in plan.batches:
                    row = _cell(engine, plan, prompts, mix, batch, names)
                    tell(row)
                    rows.append(row)
        finally:
            for name in names:
                engine.delete_adapter(name)
    return rows


def _prompts(engine: Engine, plan: DecodePlan) -> Iterator[list[int]]:
    """Endless random prompts; no two share a page."""
    random = np.random.default_rng(plan.seed)
    while True:
        yield random.integers(0, engine.config.vocab_size, plan.prompt).tolist()


def _cell(
    engine: Engine,
    plan: DecodePlan,
    prompts: Iterator[list[int]],
    mix: tuple[int, ...],
    batch: int,
    names: Sequence[str],
) -> dict[str, Any]:
    used = (
        [names[row] for row in adapters_of_rows(plan.spread, batch, len(names), plan.seed)] if names else [None] * batch
    )
    _run(engine, plan, list(itertools.islice(prompts, batch)), used)  # brings code and weights into the caches
    runs = [_run(engine, plan, list(itertools.islice(prompts, batch)), used) for _ in range(plan.runs)]
    steps, prefills, kernels = ([run[place] for run in runs] for place in range(3))
    step, prefill = statistics.median(steps), statistics.median(prefills)
    prompt_tokens = batch * plan.prompt
    return {
        "rank": rank_name(mix),
        "batch": batch,
        "adapters": len(names),
        "spread": plan.spread,
        "ms_per_step": 1e3 * step,
        "tok_s": batch / step,
        "prefill_tok_s": prompt_tokens / prefill,
        "ms_in_kernels": 1e3 * statistics.median(kernels),
        "runs": plan.runs,
        "ms_per_step_range": [1e3 * min(steps), 1e3 * max(steps)],
        "prefill_tok_s_range": [prompt_tokens / max(prefills), prompt_tokens / min(prefills)],
        "prompt": plan.prompt,
        "new": plan.new,
        "targets": list(plan.targets),
    }


def _run(
    engine: Engine, plan: DecodePlan, prompts: Sequence[list[int]], adapters: Sequence[str | None]
) -> tuple[float, float, float]:
    """Seconds of a decode step with all rows, of the prefill of all prompts, and of a step's kernels alone."""
    one = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    pairs = list(zip(prompts, adapters, strict=True))
    start = time.perf_counter()
    for output in engine.generate([Request(prompt, adapter=name, sampling=one) for prompt, name in pairs]):
        if output.error is not None:
            raise output.error
    prefill = time.perf_counter() - start
    # The same prompts again: their pages are there, so that all rows reach decode together.
    many = SamplingParams(temperature=0, max_tokens=plan.new + _MARGIN, ignore_eos=True)
    flight = [engine.add_request(Request(prompt, adapter=name, sampling=many)) for prompt, name in pairs]
    begun: set[str] = set()
    try:
        while len(begun) < len(flight):
            begun.update(output.request_id for output in engine.step())
        engine.start_profile()
        start = time.perf_counter()
        for _ in range(plan.new):
            if len(engine.step()) < len(flight):
                raise CapacityError(
                    f"{len(flight)} rows did not run in one step: the engine needs more KV pages, or longer steps"
                )
        seconds = time.perf_counter() - start
        return seconds / plan.new, prefill, sum(engine.profile().values()) / plan.new
    finally:
        for request_id in flight:
            engine.abort_request(request_id)
