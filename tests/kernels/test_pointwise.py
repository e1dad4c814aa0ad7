"""rms_norm, silu_mul, embed and rope, interpreted, against the reference and the C++ backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from helpers import assert_close, assert_same_bits, lazy_zeros, poisoned_tail, strided
from lorid_engine.ops import embed, pack_linear, rms_norm, rope, silu_mul, use_backend
from lorid_engine.ops.kv_pages import PAGE_TOKENS, key_view, page_shapes, value_view
from lorid_kernels.embed import embed as launch_embed
from lorid_kernels.rms_norm import rms_norm as launch_rms_norm
from lorid_kernels.rope import rope as launch_rope

DTYPES = [torch.float32, torch.float16]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1 / 1024}  # float16 rounds to 11 bits
WIDTHS = [1, 15, 16, 131, 576]
ROWS = [0, 1, 2, 7]
PAST = 2**31


def random(*shape: int, dtype: torch.dtype, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check(op: Callable[..., torch.Tensor], x: torch.Tensor, *rest) -> None:
    """The op by Triton is close to the reference, in float32 to the C++ backend, and every row is as it is alone."""
    wide = [each.double() if isinstance(each, torch.Tensor) else each for each in rest]
    with use_backend("reference"):
        expected = op(x.double(), *wide)
    with use_backend("triton"):
        actual = op(x, *rest)
        assert actual.dtype == x.dtype
        assert_close(actual, expected, TOLERANCE[x.dtype])
        for t in range(x.shape[0]):
            assert_same_bits(op(x[t : t + 1], *rest), actual[t : t + 1])
    if x.dtype == torch.float32:
        with use_backend("cpu"):
            assert_close(actual, op(x, *rest), TOLERANCE[x.dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", ROWS)
def test_rms_norm(rows: int, width: int, dtype: torch.dtype) -> None:
    weight = poisoned_tail(random(width, dtype=torch.float32, seed=2))
    check(rms_norm, strided(random(rows, width, dtype=dtype)), weight, 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("width", WIDTHS)
def test_rms_norm_adds_planes_first(width: int, planes: int, dtype: torch.dtype) -> None:
    x, weight = strided(random(5, width, dtype=dtype)), random(width, dtype=torch.float32, seed=2)
    parts = poisoned_tail(random(planes, 5, width, dtype=torch.float32, seed=3))
    total = x.double() + parts.double().sum(0)
    written, y = x.clone(), strided(torch.zeros(5, width, dtype=dtype))
    launch_rms_norm(written, weight, 1e-5, y, planes=parts)
    assert_close(written, total, TOLERANCE[dtype])
    with use_backend("reference"):
        assert_close(y, rms_norm(total, weight.double(), 1e-5), 2 * TOLERANCE[dtype])
    for t in range(5):
        alone, y_alone = x[t : t + 1].clone(), torch.zeros(1, width, dtype=dtype)
        launch_rms_norm(alone, weight, 1e-5, y_alone, planes=parts[:, t : t + 1].contiguous())
        assert_same_bits(alone, written[t : t + 1])
        assert_same_bits(y_alone, y[t : t + 1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("planes", [0, 1, 3])
@pytest.mark.parametrize("rows", [[], [4], [0, 3, 3, 1]])
def test_rms_norm_of_some_rows(rows: list[int], planes: int, dtype: torch.dtype) -> None:
    x, weight = strided(random(5, 131, dtype=dtype)), random(131, dtype=torch.float32, seed=2)
    before, parts = x.clone(), random(planes, 5, 131, dtype=torch.float32, seed=3) if planes else None
    y = torch.zeros(len(rows), 131, dtype=dtype)
    launch_rms_norm(x, weight, 1e-5, y, planes=parts, rows=torch.tensor(rows, dtype=torch.int32))
    assert_same_bits(x, before)
    whole = torch.zeros(5, 131, dtype=dtype)
    launch_rms_norm(before, weight, 1e-5, whole, planes=parts)
    assert_same_bits(y, whole[rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [*WIDTHS, 1500])
@pytest.mark.parametrize("rows", ROWS)
def test_silu_mul(rows: int, width: int, dtype: torch.dtype) -> None:
    check(silu_mul, strided(3 * random(rows, 2 * width, dtype=dtype)))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # -inf times 0, then not taken
def test_silu_mul_at_the_ends() -> None:
    gate = torch.tensor([[-3e38, -200.0, -88.0, -1e-20, 0.0, 1e-20, 88.0, 200.0, 1e30, -float("inf")]])
    with use_backend("triton"):
        y = silu_mul(torch.cat([gate, torch.ones_like(gate)], dim=1))
        assert silu_mul(torch.full((1, 2), float("nan"))).isnan().all()
    assert_close(y[0, 1:-2], torch.nn.functional.silu(gate.double())[0, 1:-2])
    assert y[0, [0, -1]].tolist() == [0.0, 0.0] and float(y[0, -2]) == pytest.approx(1e30)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [*WIDTHS, 1500])
@pytest.mark.parametrize("tokens", [[], [70], [0, 70, 31, 32, 0]])
def test_embed(tokens: list[int], width: int, dtype: torch.dtype) -> None:
    table, ids = random(71, width, dtype=dtype), torch.tensor(tokens, dtype=torch.int32)
    with use_backend("triton"):
        assert_same_bits(embed(ids, pack_linear(table)), table[ids.long()])


HEADS = [(1, 1, 2), (4, 2, 24), (9, 3, 64), (20, 4, 128)]


def rope_inputs(rows: int, num_heads: int, num_kv_heads: int, head_dim: int, norms: str, dtype: torch.dtype) -> tuple:
    """qkv, cos, sin, positions, cache_slot for three pages, and the norms' weights."""
    generator = torch.Generator().manual_seed(1)
    qkv = strided(random(rows, (num_heads + 2 * num_kv_heads) * head_dim, dtype=dtype))
    angle = random(40, head_dim // 2, dtype=torch.float32, seed=3)
    positions = torch.randint(40, (rows,), generator=generator, dtype=torch.int32)
    slots = torch.randperm(3 * PAGE_TOKENS, generator=generator)[:rows]
    weights = [1 + random(head_dim, dtype=torch.float32, seed=7) if side in norms else None for side in "qk"]
    return qkv, poisoned_tail(angle.cos()), poisoned_tail(angle.sin()), positions, slots, *weights


def run_rope(backend: str, kind: torch.dtype, num_heads: int, num_kv_heads: int, inputs: tuple) -> list[torch.Tensor]:
    """Queries, keys [48, G, D] and values [48, G, D] by a backend, in its own layout of pages."""
    qkv, cos, sin, positions, slots, *weights = inputs
    float_kind = torch.float64 if kind == torch.float64 else torch.float32
    cos, sin, *weights = (None if each is None else each.to(float_kind) for each in (cos, sin, *weights))
    head_dim = 2 * cos.shape[1]
    with use_backend(backend):
        pages = [torch.full((3, *shape), -7.0, dtype=kind) for shape in page_shapes(num_kv_heads, head_dim, kind)]
        q = rope(qkv.to(kind), cos, sin, positions, slots, *pages, num_heads, *weights, 1e-5)
        return [q, key_view(pages[0]).flatten(0, 1), value_view(pages[1], head_dim).flatten(0, 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norms", ["", "q", "k", "qk"])
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), HEADS)
def test_rope(num_heads: int, num_kv_heads: int, head_dim: int, norms: str, dtype: torch.dtype) -> None:
    inputs = rope_inputs(5, num_heads, num_kv_heads, head_dim, norms, dtype)
    actual = run_rope("triton", dtype, num_heads, num_kv_heads, inputs)
    backends = [("reference", torch.float64)] + ([("cpu", dtype)] if dtype == torch.float32 else [])
    for backend, kind in backends:
        for mine, its in zip(actual, run_rope(backend, kind, num_heads, num_kv_heads, inputs), strict=True):
            assert_close(mine, its, TOLERANCE[dtype])
    qkv, cos, sin, positions, slots, *weights = inputs
    for t in range(5):
        alone = qkv[t : t + 1], cos, sin, positions[t : t + 1], slots[t : t + 1], *weights
        q, keys, values = run_rope("triton", dtype, num_heads, num_kv_heads, alone)
        assert_same_bits(q, actual[0][t : t + 1])
        assert_same_bits(keys[slots[t]], actual[1][slots[t]])
        assert_same_bits(values[slots[t]], actual[2][slots[t]])
        elsewhere = torch.arange(3 * PAGE_TOKENS) != slots[t]
        assert (keys[elsewhere] == -7).all() and (values[elsewhere] == -7).all()


def test_rope_of_no_rows() -> None:
    q, keys, values = run_rope("triton", torch.float32, 4, 2, rope_inputs(0, 4, 2, 24, "", torch.float32))
    assert q.shape == (0, 96) and (keys == -7).all() and (values == -7).all()


def test_rope_writes_nothing_at_slot_minus_one() -> None:
    qkv, cos, sin, positions, slots, *_ = rope_inputs(3, 4, 2, 24, "", torch.float32)
    slots[1] = -1
    pages = [torch.full((3, PAGE_TOKENS, 2, 24), -7.0) for _ in range(2)]
    guarded = [torch.cat([torch.full((1, PAGE_TOKENS, 2, 24), -7.0), each]) for each in pages]  # -1 would land here
    q = torch.zeros(3, 96)
    norms = {"q_norm": None, "k_norm": None, "norm_epsilon": 0.0}
    launch_rope(qkv, cos, sin, positions, slots, q, *(each[1:] for each in guarded), num_heads=4, **norms)
    written = torch.zeros(4 * PAGE_TOKENS, dtype=torch.bool)
    written[PAGE_TOKENS + slots[[0, 2]]] = True
    for each in guarded:
        changed = each.flatten(2).flatten(0, 1) != -7
        assert torch.equal(changed.all(dim=1), written) and torch.equal(changed.any(dim=1), written)
    with use_backend("triton"):
        expected = rope(qkv, cos, sin, positions, torch.tensor([0, 1, 2]), *pages, 4)
    assert_same_bits(q, expected)


def far_rows(columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Three random rows, the last 2^31 elements after the first; the stride itself is an int32 to Triton."""
    rows = lazy_zeros(PAST + columns, dtype).as_strided((3, columns), (PAST // 2, 1))
    return rows.copy_(random(3, columns, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@use_backend("triton")
def test_rows_far_apart(dtype: torch.dtype) -> None:
    x, weight = far_rows(64, dtype), random(64, dtype=torch.float32, seed=2)
    near = x.contiguous()
    assert_same_bits(rms_norm(x, weight, 1e-5), rms_norm(near, weight, 1e-5))
    assert_same_bits(silu_mul(x), silu_mul(near))
    y = far_rows(64, dtype)
    launch_rms_norm(near, weight, 1e-5, y)
    assert_same_bits(y.contiguous(), rms_norm(near, weight, 1e-5))


@use_backend("triton")
def test_the_last_plane_is_far_away() -> None:
    rows, width = 2, 64
    planes = lazy_zeros(PAST + rows * width, torch.float32).as_strided((3, rows, width), (PAST // 2, width, 1))
    planes.copy_(random(3, rows, width, dtype=torch.float32))
    x, weight = random(rows, width, dtype=torch.float32), torch.ones(width)
    results = []
    for parts in (planes, planes.contiguous()):
        written, y = x.clone(), torch.zeros_like(x)
        launch_rms_norm(written, weight, 1e-5, y, planes=parts)
        results.append((written, y))
    for far, near in zip(*results, strict=True):
        assert_same_bits(far, near)


@pytest.mark.parametrize("dtype", DTYPES)
@use_backend("triton")
def test_last_row_of_a_huge_embedding(dtype: torch.dtype) -> None:
    features = 2**12
    tokens = PAST // features + 32
    table = lazy_zeros(tokens * features, dtype).view(tokens, features)
    table[-1] = random(features, dtype=dtype)
    y = torch.zeros(1, features, dtype=dtype)
    launch_embed(  # pack_linear would copy the table
        torch.tensor([tokens - 1], dtype=torch.int32), table, y
    )
    assert_same_bits(y[0], table[-1])


@pytest.mark.parametrize("dtype", DTYPES)
@use_backend("triton")
def test_rope_far_away(dtype: torch.dtype) -> None:
    """Rows far apart, and a place past 2^31 in the pages."""
    shape = page_shapes(1, 64, dtype)[0]
    last = PAST // (64 * PAGE_TOKENS)
    qkv, table = far_rows(192, dtype), random(4, 32, dtype=torch.float32, seed=2)
    far = [lazy_zeros((last + 1) * 64 * PAGE_TOKENS, dtype).view(last + 1, *shape) for _ in range(2)]
    near = [torch.zeros(1, *shape, dtype=dtype) for _ in range(2)]
    positions, slots = torch.tensor([1, 3, 0], dtype=torch.int32), torch.tensor([2, 9, 4])
    q = rope(qkv, table.cos(), table.sin(), positions, last * PAGE_TOKENS + slots, *far, 1)
    assert_same_bits(q, rope(qkv.contiguous(), table.cos(), table.sin(), positions, slots, *near, 1))
    for there, here in zip(far, near, strict=True):
        assert_same_bits(there[-1:].contiguous(), here)
        assert here.any()
