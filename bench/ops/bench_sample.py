"""sample against torch: argmax, or a sort, a softmax and two cumulative sums, at the same uniform numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.ops.cases import MODELS, brief, implementations, measure, num_bytes
from lorid_engine.ops import sample, use_backend
from lorid_engine.ops.sample import philox

KEY, NO_LOGPROBS = 7, -1


@dataclass(frozen=True)
class Options:
    """How all rows draw."""

    temperature: float
    top_k: int
    top_p: float


OPTIONS = {
    "greedy": Options(0.0, 0, 1.0),
    "temperature": Options(0.8, 0, 1.0),
    "top_k=40 top_p=0.95": Options(0.8, 40, 0.95),
    "top_p=0.95": Options(0.8, 0, 0.95),
}


def op_arguments(logits: torch.Tensor, options: Options) -> tuple[torch.Tensor, ...]:
    """Row t draws at position t."""
    rows = logits.shape[0]
    counter = torch.stack([torch.zeros(rows, dtype=torch.int64), torch.arange(rows)], dim=1).contiguous()
    return (
        logits,
        torch.full((rows,), KEY),
        counter,
        torch.full((rows,), options.temperature),
        torch.full((rows,), options.top_k, dtype=torch.int32),
        torch.full((rows,), options.top_p),
    )


def uniform_numbers(rows: int) -> torch.Tensor:
    """The numbers that the op's rows invert their distributions at, so that torch draws the same tokens."""
    words = [philox(KEY, 0, position) for position in range(rows)]
    return torch.tensor([[(word[0] << 21 | word[1] >> 11) * 2.0**-53] for word in words])


def torch_sample(logits: torch.Tensor, options: Options) -> Callable[[], torch.Tensor]:
    """The usual chain of torch's ops, as plain as the options allow."""
    if options.temperature == 0:
        return lambda: logits.argmax(dim=1)
    uniform = uniform_numbers(logits.shape[0])

    def draw(weights: torch.Tensor) -> torch.Tensor:
        reached = weights.cumsum(1)
        return torch.searchsorted(reached, uniform * reached[:, -1:], right=True).clamp(max=weights.shape[1] - 1)

    def cut() -> torch.Tensor:
        if options.top_k:
            largest, ids = (logits / options.temperature).topk(options.top_k, dim=1)
        else:
            largest, ids = (logits / options.temperature).sort(dim=1, descending=True)
        weights = largest.softmax(dim=1)
        before = weights.cumsum(1) - weights
        return ids.gather(1, draw(weights.masked_fill(before >= options.top_p, 0))).squeeze(1)

    def whole() -> torch.Tensor:
        return draw((logits / options.temperature).softmax(dim=1)).squeeze(1)

    return whole if options.top_k == 0 and options.top_p == 1 else cut


@brief
@implementations
@pytest.mark.parametrize("rows", [1, 2, 8, 32])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("model", MODELS)
def bench_sample(benchmark: BenchmarkFixture, model: str, options: str, rows: int, implementation: str) -> None:
    """Normal logits with deviation 4: the likeliest token has 0.4 on average, and top_p = 0.95 keeps some hundred."""
    logits = 4 * torch.randn(rows, MODELS[model].vocabulary, generator=torch.Generator().manual_seed(0))
    arguments = op_arguments(logits, OPTIONS[options])
    run = {
        "lorid": lambda: sample(*arguments, NO_LOGPROBS)[0],
        "torch": torch_sample(logits, OPTIONS[options]),
    }[implementation]
    with use_backend("reference"):
        expected = sample(*arguments, NO_LOGPROBS)[0]
    # Torch sums in float32, so a row may, very rarely, fall on the other side of a token's edge.
    assert int((run() != expected).sum()) <= (implementation == "torch" and rows > 1)
    measure(benchmark, f"sample V={logits.shape[1]} {options} K={rows}", run, flops=0, moved=num_bytes(logits))
