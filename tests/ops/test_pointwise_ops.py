"""rms_norm, silu_mul, embed and rope against the reference, on every instruction set."""

from __future__ import annotations

import pytest
import torch

from helpers import assert_close, assert_same_bits, strided
from lorid_engine.errors import ShapeError
from lorid_engine.ops import embed, pack_linear, rms_norm, rope, silu_mul, use_backend
from lorid_engine.ops.kv_pages import key_view, page_shapes, value_view

DTYPES = [torch.float32, torch.bfloat16]
WIDTHS = [1, 15, 16, 17, 131, 576]
ROWS = [0, 1, 2, 15, 65]


def random(*shape: int, dtype: torch.dtype, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", ROWS)
def test_rms_norm(isa: str, rows: int, width: int, dtype: torch.dtype) -> None:
    x, weight = strided(random(rows, width, dtype=dtype)), random(width, dtype=torch.float32, seed=2)
    with use_backend("reference"):
        expected = rms_norm(x.double(), weight.double(), 1e-5)
    together = rms_norm(x, weight, 1e-5)
    assert_close(together, expected)
    for t in range(min(rows, 2)):
        assert_same_bits(rms_norm(x[t : t + 1], weight, 1e-5), together[t : t + 1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", ROWS)
def test_silu_mul(isa: str, rows: int, width: int, dtype: torch.dtype) -> None:
    x = strided(3 * random(rows, 2 * width, dtype=dtype))
    with use_backend("reference"):
        expected = silu_mul(x.double())
    assert_close(silu_mul(x), expected)


def test_silu_mul_at_the_ends(isa: str) -> None:
    gate = torch.tensor([[-1e30, -200.0, -88.0, -1e-20, 0.0, 1e-20, 88.0, 200.0, 1e30]])
    y = silu_mul(torch.cat([gate, torch.ones_like(gate)], dim=1))
    assert_close(y[0, 1:-1], torch.nn.functional.silu(gate.double())[0, 1:-1])
    assert abs(float(y[0, 0])) < 1e-7 and float(y[0, -1]) == pytest.approx(1e30)
    far = torch.tensor([[-3e38, -1e37, -float("inf"), 1.0, 1.0, 1.0]])
    assert silu_mul(far).tolist() == [[0.0, 0.0, 0.0]]
    assert silu_mul(torch.full((1, 2), float("nan"))).isnan().all()
    assert silu_mul(torch.zeros(1000, 0)).shape == (1000, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_embed_takes_rows_of_a_packed_weight(isa: str, dtype: torch.dtype) -> None:
    table = random(71, 37, dtype=dtype)
    tokens = torch.tensor([0, 70, 31, 32, 33, 0], dtype=torch.int32)
    assert_same_bits(embed(tokens, pack_linear(table)), table[tokens.long()])
    with pytest.raises(ShapeError, match="token_ids must be from 0 to 70; got 71"):
        embed(torch.tensor([71], dtype=torch.int32), pack_linear(table))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norms", [(), ("q",), ("q", "k")])
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(1, 1, 2), (4, 2, 24), (9, 3, 64)])
def test_rope_rotates_and_writes_pages(
    isa: str, num_heads: int, num_kv_heads: int, head_dim: int, norms: tuple[str, ...], dtype: torch.dtype
) -> None:
    rows = 19
    qkv = strided(random(rows, (num_heads + 2 * num_kv_heads) * head_dim, dtype=dtype))
    angle = random(40, head_dim // 2, dtype=torch.float32, seed=3)
    positions = torch.arange(5, 5 + rows, dtype=torch.int32)
    slots = (torch.randperm(48, generator=torch.Generator().manual_seed(1))[:rows]).long()
    results = []
    for backend, kind in (("reference", torch.float64), ("cpu", dtype)):
        k_shape, v_shape = page_shapes(num_kv_heads, head_dim, kind)
        k_pages, v_pages = torch.zeros(3, *k_shape, dtype=kind), torch.zeros(3, *v_shape, dtype=kind)
        tables = [
            table.to(torch.float64 if kind == torch.float64 else torch.float32) for table in (angle.cos(), angle.sin())
        ]
        with use_backend(backend):
            weights = [
                (1 + random(head_dim, dtype=torch.float32, seed=7)).to(tables[0].dtype) if side in norms else None
                for side in ("q", "k")
            ]
            q = rope(qkv.to(kind), *tables, positions, slots, k_pages, v_pages, num_heads, *weights, 1e-5)
        results.append((q, key_view(k_pages), value_view(v_pages, head_dim)))
    for expected, actual in zip(*results, strict=True):
        assert_close(actual, expected)


def test_rope_refuses_slots_and_positions_out_of_range() -> None:
    k_shape, v_shape = page_shapes(1, 4, torch.float32)
    k_pages, v_pages, table = torch.zeros(1, *k_shape), torch.zeros(1, *v_shape), torch.ones(3, 2)
    good = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(ShapeError, match="cache_slot must be from 0 to 15"):
        rope(torch.zeros(1, 12), table, table, good, torch.tensor([16]), k_pages, v_pages, 1)
    with pytest.raises(ShapeError, match="cache_slot must give each row a place of its own"):
        two = torch.zeros(2, dtype=torch.int32)
        rope(torch.zeros(2, 12), table, table, two, torch.tensor([3, 3]), k_pages, v_pages, 1)
    with pytest.raises(ShapeError, match="positions must be from 0 to 2"):
        rope(torch.zeros(1, 12), table, table, good + 3, torch.tensor([0]), k_pages, v_pages, 1)
    with pytest.raises(ShapeError, match=r"k_norm must have shape \[4\]; got \[3\]"):
        rope(torch.zeros(1, 12), table, table, good, torch.tensor([0]), k_pages, v_pages, 1, None, torch.ones(3), 0.1)
    with pytest.raises(ShapeError, match="even number of columns"):
        silu_mul(torch.zeros(1, 3))
