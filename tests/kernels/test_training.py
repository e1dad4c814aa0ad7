"""The ops that training alone runs, interpreted: values and gradients against float64 and the C++ backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from helpers import assert_close, assert_same_bits, poisoned_tail, strided
from lorid_engine.errors import BackendUnavailableError
from lorid_engine.ops import gpu, packed_attention, rms_norm, silu_mul, use_backend
from lorid_kernels.packed_attention import packed_attention_backward, rotate

pytestmark = pytest.mark.skipif(not gpu.interprets(), reason="needs TRITON_INTERPRET=1")

DTYPES = [torch.float32, torch.float16]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2 / 1024}


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def value_and_gradient(backend: str, run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> list:
    leaf = x.detach().requires_grad_()
    with use_backend(backend):
        out = run(leaf)
        out.backward(random(*out.shape, dtype=torch.float16, seed=2).to(out.dtype))
    return [out.detach(), leaf.grad]


def check(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    actual = value_and_gradient("triton", run, x)
    for mine, expected in zip(actual, value_and_gradient("reference", run, x.double()), strict=True):
        assert mine.dtype == x.dtype
        assert_close(mine, expected, TOLERANCE[x.dtype])
    if x.dtype == torch.float32:
        for mine, its in zip(actual, value_and_gradient("cpu", run, x), strict=True):
            assert_close(mine, its, TOLERANCE[x.dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [2, 15, 131, 576])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_rms_norm(rows: int, width: int, dtype: torch.dtype) -> None:
    weight = poisoned_tail(random(width, seed=3))
    check(lambda x: rms_norm(x, weight, 1e-5), strided(random(rows, width, dtype=dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 16, 131, 1500])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_silu_mul(rows: int, width: int, dtype: torch.dtype) -> None:
    x = strided(3 * random(rows, 2 * width, dtype=dtype))
    if rows and width > 1:
        x[0, 0], x[0, width - 1] = 300.0, -300.0
    check(silu_mul, x)


OFFSET = [0, 1, 16, 33, 33, 100, 102]  # one row, none, two tiles
CASES = [
    *((2, 1, 10, rotates, window, torch.float32) for rotates in (False, True) for window in (0, 1, 16, 70)),
    (1, 1, 16, True, 2**31 - 1, torch.float32),  # the largest window there is
    *((3, 1, 64, True, window, dtype) for window in (0, 16) for dtype in DTYPES),
    (4, 4, 24, False, 0, torch.float16),
]


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "rotates", "window", "dtype"), CASES)
def test_packed_attention(
    heads: int, kv_heads: int, head_dim: int, rotates: bool, window: int, dtype: torch.dtype
) -> None:
    rows, offset = OFFSET[-1], torch.tensor(OFFSET, dtype=torch.int32)
    angle = random(rows, head_dim // 2, seed=4)
    cos, sin = (poisoned_tail(angle.cos()), poisoned_tail(angle.sin())) if rotates else (None, None)

    def run(qkv: torch.Tensor) -> torch.Tensor:
        return packed_attention(qkv, offset, num_heads=heads, num_kv_heads=kv_heads, cos=cos, sin=sin, window=window)

    check(run, strided(random(rows, (heads + 2 * kv_heads) * head_dim, dtype=dtype)))


@pytest.mark.parametrize(("head_dim", "dtype"), [(128, torch.float32), (256, torch.float16)])
def test_wide_heads_take_smaller_tiles(head_dim: int, dtype: torch.dtype) -> None:
    offset = torch.tensor([0, 70], dtype=torch.int32)
    run = lambda qkv: packed_attention(qkv, offset, num_heads=2, num_kv_heads=1, window=40)  # noqa: E731
    check(run, random(70, 4 * head_dim, dtype=dtype))


@pytest.mark.parametrize("window", [0, 20])
def test_a_sequence_has_the_same_bits_alone_and_beside_poison(window: int) -> None:
    """A longer sequence beside it asks for more tiles, too."""
    qkv, dout = random(180, 4 * 16), random(180, 2 * 16, seed=5)
    offset = torch.tensor([0, 100, 170, 180], dtype=torch.int32)
    angle = random(180, 8, seed=4)
    shape = dict(num_heads=2, num_kv_heads=1, window=window)
    beside = qkv.clone()
    beside[:100], beside[170:] = float("nan"), float("nan")
    beside.requires_grad_()
    alone = qkv[100:170].clone().requires_grad_()
    with use_backend("triton"):
        out = packed_attention(beside, offset, cos=angle.cos(), sin=angle.sin(), **shape)
        poisoned = dout.clone()
        poisoned[:100], poisoned[170:] = float("nan"), float("nan")
        out.backward(poisoned)
        turn = angle[100:170]
        only = packed_attention(
            alone, torch.tensor([0, 70], dtype=torch.int32), cos=turn.cos(), sin=turn.sin(), **shape
        )
        only.backward(dout[100:170])
    assert_same_bits(out[100:170], only)
    assert_same_bits(beside.grad[100:170], alone.grad)


def test_rows_may_be_strided() -> None:
    qkv, dout, offset = random(20, 4 * 16), random(20, 2 * 16, seed=5), torch.tensor([0, 20], dtype=torch.int32)
    outs = []
    for x, dy in ((qkv, dout), (strided(qkv), strided(dout))):
        outs.append(torch.full((20, 4 * 16), float("nan")))
        packed_attention_backward(dy, x, offset, outs[-1], num_heads=2, num_kv_heads=1, window=0, max_len=20)
    assert_same_bits(*outs)
    with use_backend("triton"), pytest.raises(BackendUnavailableError, match="heads of up to 1024 bytes; got 2048"):
        packed_attention(random(20, 3 * 512), offset, num_heads=1, num_kv_heads=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "rotated", "head_dim"), [(1, 1, 2), (5, 4, 10), (70, 50, 64)])
def test_rotation_and_back_in_place(heads: int, rotated: int, head_dim: int, dtype: torch.dtype) -> None:
    x, angle = strided(random(3, heads * head_dim, dtype=dtype)), random(3, head_dim // 2, seed=4)
    turned = torch.full((3, heads * head_dim), float("nan"), dtype=dtype)
    rotate(x, angle.cos(), angle.sin(), turned, head_dim=head_dim, rotated_heads=rotated)
    pairs = torch.complex(*x.double().view(3, heads, 2, -1).unbind(2))
    pairs[:, :rotated] *= torch.polar(torch.ones_like(angle.double()), angle.double()).unsqueeze(1)
    assert_close(turned, torch.stack([pairs.real, pairs.imag], 2).reshape(turned.shape), TOLERANCE[dtype])
    rotate(turned, angle.cos(), angle.sin(), turned, head_dim=head_dim, rotated_heads=rotated, back=True)
    assert_close(turned, x.double(), TOLERANCE[dtype])
    assert_same_bits(turned[:, rotated * head_dim :], x[:, rotated * head_dim :])
