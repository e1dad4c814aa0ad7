"""sample's Triton kernels, interpreted, against the reference and the C++ backend: the same tokens."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from helpers import strided
from lorid_engine.ops import gpu, sample, use_backend
from lorid_engine.ops.sample import philox

triton = pytest.importorskip("triton", reason="the package triton is not installed")

import triton.language as tl  # noqa: E402

from lorid_kernels import sample as kernels  # noqa: E402
from lorid_kernels.sample import _random_bits  # noqa: E402

pytestmark = pytest.mark.skipif(not gpu.interprets(), reason="needs Triton's interpreter (TRITON_INTERPRET=1)")

TEMPERATURES = (0.0, 1e-3, 0.7, 1.5, 100.0)
TOP_KS = (0, 1, 2, 50, 64, 65, 10000)
TOP_PS = (1.0, 0.9, 0.1, 1e-30)
MIXES = list(itertools.product(TEMPERATURES, TOP_KS, TOP_PS))


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles with which a few hundred columns are many blocks, and 8 candidates: quick, and every path has its edges."""
    monkeypatch.setattr(kernels, "BLOCK", 32)
    monkeypatch.setattr(kernels, "CHUNK", 256)
    monkeypatch.setattr(kernels, "LOG_KEEP", 3)
    monkeypatch.setattr(kernels, "LOG_FAN", 2)


def inputs(logits: torch.Tensor, mixes: list[tuple[float, int, float]], seed: int = 0):
    """The op's arguments: a row takes the mix of its index, and a random key and counter."""
    rows = logits.shape[0]
    generator = torch.Generator().manual_seed(seed)
    temperature, top_k, top_p = zip(*itertools.islice(itertools.cycle(mixes), rows), strict=True)
    return (
        logits,
        torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator),
        torch.randint(0, 2**32, (rows, 2), generator=generator),
        torch.tensor(temperature),
        torch.tensor(top_k, dtype=torch.int32),
        torch.tensor(top_p),
        -1,
    )


def expect_same_tokens(arguments) -> list[int]:
    tokens = {}
    for backend in ("reference", "cpu", "triton"):
        with use_backend(backend):
            tokens[backend] = sample(*arguments)[0].tolist()
    assert tokens["triton"] == tokens["reference"]
    assert tokens["triton"] == tokens["cpu"]
    return tokens["triton"]


def some_logits(rows: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    """Three kinds of rows in turn: all different, many ties, and few that are not alike, of both zeros."""
    logits = 4 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))
    logits[1::3] = logits[1::3].round()
    logits[2::3] = (logits[2::3] / 8).round().clamp(-1, 1)
    return logits


@triton.jit
def _random_bits_kernel(key_ptr, counter_ptr, bits_ptr):
    row = tl.program_id(0)
    bits = _random_bits(tl.load(key_ptr + row), tl.load(counter_ptr + 2 * row), tl.load(counter_ptr + 2 * row + 1))
    tl.store(bits_ptr + row, bits)


def test_random_bits_are_philox() -> None:
    last = 2**32 - 1
    cases = [(0, 0, 0), (2**64 - 1, last, last), (0x0123456789ABCDEF, 5, 77), (2**63, 2**31, 1), (7, 0, 2**31)]
    keys = torch.tensor([key - (key >> 63 << 64) for key, _, _ in cases])
    counters = torch.tensor([[sample_, position] for _, sample_, position in cases])
    bits = torch.zeros(len(cases), dtype=torch.int64)
    _random_bits_kernel[(len(cases),)](keys, counters, bits)
    words = [philox(*case) for case in cases]
    assert bits.tolist() == [word[0] << 21 | word[1] >> 11 for word in words]


@pytest.mark.parametrize("vocabulary", [2, 9, 65, 300])
def test_every_mix(small_tiles: None, vocabulary: int) -> None:
    """Fourteen rows, of the mixes in an order of their own; top_k has values on both sides of V and of the 8 candidates."""
    mixes = [(heat, {50: 7, 64: 8, 65: 9}.get(k, k), p) for heat, k, p in MIXES if heat > 0 or k == 50]
    mixes += [(heat, k, p) for heat in (0.7, 100.0) for k in (50, 64, 65) for p in (1.0, 0.9)]
    random.Random(vocabulary).shuffle(mixes)
    expect_same_tokens(inputs(some_logits(14, vocabulary, seed=vocabulary), mixes, seed=vocabulary))


@pytest.mark.parametrize("vocabulary", [1, 2, 63, 64, 65, 300, 5000])
def test_the_tiles_of_a_gpu(vocabulary: int) -> None:
    chosen = [
        (0.7, 50, 0.9),
        (1.5, 0, 0.9),
        (0.7, 65, 0.9),
        (1.5, 0, 1.0),
        (1.5, 64, 1.0),
        (0.0, 0, 1.0),
        (100.0, 2, 0.1),
    ]
    expect_same_tokens(inputs(some_logits(len(chosen), vocabulary), chosen))


def test_a_large_vocabulary() -> None:
    logits = some_logits(3, 128256)
    logits[:, 70000:70100] += 12  # neighbours, so that few ranges of columns hold many of the largest
    expect_same_tokens(inputs(logits, [(1.5, 50, 0.9), (0.0, 0, 1.0), (0.7, 0, 1.0)]))


SPECIAL = {
    "nan": [math.nan] * 40,
    "nothing": [-math.inf] * 40,
    "one": [-math.inf] * 37 + [-3.0] + [math.nan] * 2,
    "infinity": [1.0, math.nan] * 18 + [math.inf, 2.0, math.inf, -math.inf],
    "among_nan": [math.nan, -1.0, math.nan, 2.0, -math.inf, 2.0] * 6,
    "zeros": [-0.0, 0.0] * 20,
    "largest": [3.4e38, -3.4e38, 3.4e38, 1e-45, -1e-45] * 8,
    "flat": [0.25] * 70,
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_rows(small_tiles: None, name: str) -> None:
    mixes = [
        (0.0, 0, 1.0),
        (1.0, 0, 1.0),
        (1.0, 3, 1.0),
        (50.0, 0, 0.99),
        (1.5, 12, 0.9),
        (1e-3, 39, 0.5),
        (100.0, 0, 0.1),
    ]
    tokens = expect_same_tokens(inputs(torch.tensor([SPECIAL[name]] * len(mixes)), mixes))
    assert (set(tokens) == {-1}) == (name in ("nan", "nothing"))


def test_the_last_of_what_is_kept(small_tiles: None) -> None:
    """Each top_k and top_p that ends inside, or at an end of, runs of equal logits that lie spread over the row.

    Nearly alike weights and numbers next to 1 draw the last token that is kept: one too many or too few would show.
    """
    mixes = [(100.0, k, 1.0) for k in (19, 20, 21, 60, 79)]
    mixes += [(100.0, 0, p) for p in (0.3, 0.7, 0.999)]
    mixes += [(100.0, 41, 0.7), (100.0, 70, 0.5), (1.0, 8, 0.5), (1.0, 0, 0.5)]
    logits = torch.tensor([2.0, 1.0, 1.0, 0.0] * 20).expand(len(mixes), 80).contiguous()
    logits[-2:] = 1.0  # half of 8, and of 80, to the last bit
    arguments = inputs(logits, mixes)
    for key, counter in zip(arguments[1].tolist(), arguments[2], strict=True):
        counter[1] = next(at for at in range(10**6) if philox(key % 2**64, int(counter[0]), at)[0] > 0.99 * 2**32)
    tokens = expect_same_tokens(arguments)
    assert tokens[:5] == [72, 76, 1, 78, 75] and tokens[-2:] == [3, 39]


def test_a_row_is_drawn_alone_as_in_company(small_tiles: None) -> None:
    arguments = inputs(
        some_logits(6, 150), [(1.5, 5, 0.9), (0.7, 20, 0.9), (1.0, 0, 0.9), (1.0, 0, 1.0), (0.0, 0, 1.0)]
    )
    with use_backend("triton"):
        together = sample(*arguments)[0].tolist()
        alone = [int(sample(*(tensor[k : k + 1] for tensor in arguments[:-1]), -1)[0]) for k in range(6)]
    assert alone == together


def test_strided_rows_and_a_used_workspace(small_tiles: None) -> None:
    """Columns past V and what the workspace held do not matter, and a workspace may be longer than needed."""
    logits, rest = some_logits(5, 75), inputs(some_logits(5, 75), [(1.5, 5, 0.9), (0.7, 20, 0.9), (1.0, 0, 1.0)])[1:-1]
    with use_backend("reference"):
        expected = sample(logits, *rest, -1)[0]
    for poison in (math.nan, math.inf):
        token_ids = torch.zeros(5, dtype=torch.int32)
        workspace = torch.full((kernels.workspace_size(5, 75) + 3,), poison, dtype=torch.float64)
        kernels.sample(strided(logits, poison), *rest, token_ids, workspace=workspace)
        assert token_ids.tolist() == expected.tolist()
        assert workspace[-3:].isnan().all() if math.isnan(poison) else workspace[-3:].isinf().all()
    with pytest.raises(AssertionError):
        kernels.sample(logits, *rest, token_ids, workspace=workspace[: kernels.workspace_size(5, 75) - 1])


def test_no_rows() -> None:
    arguments = inputs(torch.zeros(1, 5), MIXES)[:-1]
    with use_backend("triton"):
        assert sample(*(tensor[:0] for tensor in arguments), -1)[0].shape == (0,)


@pytest.mark.parametrize("num_logprobs", [0, 1, 5, 40])
def test_log_probabilities(small_tiles: None, num_logprobs: int) -> None:
    logits = some_logits(4, 40)
    logits[3, ::2] = math.nan
    arguments = (*inputs(logits, [(1.5, 5, 0.9), (0.0, 0, 1.0)])[:-1], num_logprobs)
    with use_backend("reference"):
        expected = sample(*arguments)
    with use_backend("triton"):
        actual = sample(*arguments)
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine.dtype == theirs.dtype and mine.is_contiguous() and torch.equal(mine, theirs)
