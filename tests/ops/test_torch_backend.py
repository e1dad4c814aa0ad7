"""The backend torch, which trains on GPUs, against float64 and against C++: values, gradients, masks; here on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from helpers import assert_close, make_bank
from lorid_engine.errors import BackendUnavailableError, ShapeError
from lorid_engine.ops import AdapterBank, lora_dropout, packed_attention, rms_norm, silu_mul, use_backend

DTYPES = (torch.float32, torch.bfloat16)
BACKENDS = ("cpu", "torch")


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    """Values and gradients of both backends against float64's."""
    results = []
    for backend in ("reference", *BACKENDS):
        leaf = (x.double() if backend == "reference" else x.clone()).requires_grad_()
        with use_backend(backend):
            out = run(leaf)
            out.backward(random(*out.shape, dtype=x.dtype, seed=2).to(out.dtype))
        results.append((out.detach(), leaf.grad))
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            assert actual.dtype == x.dtype
            assert_close(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("features", [3, 64, 99, 576])
def test_rms_norm(dtype: torch.dtype, features: int) -> None:
    weight = random(features, seed=5)
    check(lambda x: rms_norm(x, weight, 1e-5), random(11, features, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("features", [1, 7, 96])
def test_silu_mul(dtype: torch.dtype, features: int) -> None:
    x = random(11, 2 * features, dtype=dtype) * 4
    x[0, 0], x[1, 0] = -300.0, 300.0
    check(silu_mul, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 1, 16, 90])
@pytest.mark.parametrize("rotates", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(9, 3, 64), (2, 1, 10), (4, 4, 24)])
def test_packed_attention(
    dtype: torch.dtype, window: int, rotates: bool, heads: int, kv_heads: int, head_dim: int
) -> None:
    offset = torch.tensor([0, 1, 16, 33, 33, 103, 105], dtype=torch.int32)
    angle = random(105, head_dim // 2, seed=4)
    cos, sin = (angle.cos(), angle.sin()) if rotates else (None, None)

    def run(qkv: torch.Tensor) -> torch.Tensor:
        return packed_attention(qkv, offset, num_heads=heads, num_kv_heads=kv_heads, cos=cos, sin=sin, window=window)

    check(run, random(105, (heads + 2 * kv_heads) * head_dim, dtype=dtype))


def test_attention_of_no_rows_and_with_room_to_spare() -> None:
    with use_backend("torch"):
        nothing = torch.zeros(0, 4 * 8, requires_grad=True)
        out = packed_attention(nothing, torch.zeros(3, dtype=torch.int32), num_heads=2, num_kv_heads=1)
        out.backward(torch.zeros(0, 16))
        assert out.shape == (0, 16) and nothing.grad.shape == (0, 32)
        qkv, offset = random(7, 4 * 8), torch.tensor([0, 3, 7], dtype=torch.int32)
        outs = [packed_attention(qkv, offset, num_heads=2, num_kv_heads=1, max_len=most) for most in (None, 4, 9)]
        torch.testing.assert_close(outs[1], outs[0], rtol=0, atol=0)
        torch.testing.assert_close(outs[2], outs[0], rtol=1e-5, atol=1e-6)
        with pytest.raises(ShapeError, match="max_len must be at least that of the longest sequence, 4; got 3"):
            packed_attention(qkv, offset, num_heads=2, num_kv_heads=1, max_len=3)


def test_sequences_do_not_see_each_other() -> None:
    qkv, offset = random(60, 5 * 16), torch.tensor([0, 20, 50, 60], dtype=torch.int32)
    outs = []
    for poisoned in (False, True):
        mine = qkv.clone()
        if poisoned:
            mine[:20], mine[50:] = float("nan"), float("nan")
        mine.requires_grad_()
        with use_backend("torch"):
            out = packed_attention(mine, offset, num_heads=3, num_kv_heads=1)
            out.backward(torch.ones_like(out))
        outs.append((out[20:50].detach(), mine.grad[20:50]))
    for clean, beside in zip(*outs, strict=True):
        torch.testing.assert_close(beside, clean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("features", [1, 8, 129, 576])
def test_dropout_masks_are_those_of_cpp(dtype: torch.dtype, features: int) -> None:
    x, key = random(17, features, dtype=dtype), torch.arange(17) * 0x123456789ABCDEF
    results = []
    for backend in BACKENDS:
        with use_backend(backend):
            results.append(lora_dropout(x, key, 2**32 - 1, 0.3))
    assert torch.equal(*results)


def test_tensors_that_lie_elsewhere_are_refused() -> None:
    bank = make_bank([2], 8, 4, torch.float32)
    meta = [tensor.to("meta") for tensor in (bank.a, bank.b_t)]
    AdapterBank(*meta, bank.rank_offset, bank.scale, bank.max_rank)  # rank_offset and scale may be on the CPU
    with pytest.raises(ShapeError, match="b_t must be on"):
        AdapterBank(bank.a, meta[1], bank.rank_offset, bank.scale, bank.max_rank)
    with pytest.raises(ShapeError, match="scale must be on"):
        AdapterBank(bank.a, bank.b_t, bank.rank_offset, bank.scale.to("meta"), bank.max_rank)
    with use_backend("torch"), pytest.raises(BackendUnavailableError, match="it takes bfloat16, float16, float32"):
        silu_mul(torch.ones(2, 2, dtype=torch.float64))
