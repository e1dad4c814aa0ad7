"""embed of a packed weight against torch's of a plain one."""

from __future__ import annotations

import functools

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn import functional

from bench.ops.cases import MODELS, ROWS, brief, implementations, measure, num_bytes, random_weight
from helpers import assert_same_bits
from lorid_engine.ops import PackedLinear, embed, pack_linear, use_backend


@functools.lru_cache(maxsize=1)
def packed_table(vocabulary: int, features: int) -> PackedLinear:
    """random_weight, packed."""
    return pack_linear(random_weight(vocabulary, features))


@brief
@implementations
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("model", MODELS)
def bench_embed(benchmark: BenchmarkFixture, model: str, rows: int, implementation: str) -> None:
    """The bytes are those of the rows; a packed row lies in pieces of 4 bytes, one in every 128."""
    vocabulary, features = MODELS[model].vocabulary, MODELS[model].embedding
    table, packed = random_weight(vocabulary, features), packed_table(vocabulary, features)
    token_ids = torch.randint(vocabulary, (rows,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    run = {
        "lorid": lambda: embed(token_ids, packed),
        "torch": lambda: functional.embedding(token_ids, table),
    }[implementation]
    with use_backend("reference"):
        expected = embed(token_ids, PackedLinear(table, vocabulary, features))
    assert_same_bits(run(), expected)
    measure(benchmark, f"embed {model} T={rows}", run, flops=0, moved=num_bytes(token_ids, expected, expected))
