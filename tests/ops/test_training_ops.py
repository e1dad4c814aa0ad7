"""The ops of training, every instruction set against float64: dropout, gradients of lora_linear, attention of whole sequences."""

from __future__ import annotations

import dataclasses
import importlib

import pytest
import torch

from helpers import assert_close, make_bank
from lorid_engine.errors import ShapeError
from lorid_engine.ops import (
    LoraDropout,
    PackedLinear,
    SegmentPlan,
    lora_dropout,
    lora_fused_linear,
    lora_linear,
    pack_linear,
    packed_attention,
    rms_norm,
    silu_mul,
    use_backend,
)
from lorid_engine.ops.lora_dropout import _halves
from lorid_engine.ops.sample import philox

DTYPES = (torch.float32, torch.bfloat16)
RANKS = (1, 3, 8, 16, 64, 96, 320, 512)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def random_keys(rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator)


class TestDropout:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("features", [1, 7, 8, 127, 128, 129, 576])
    def test_masks_are_the_references(self, isa: str, dtype: torch.dtype, features: int) -> None:
        x, key = random(17, features, dtype=dtype), random_keys(17)
        with use_backend("reference"):
            expected = lora_dropout(x, key, 2**32 - 1, 0.3)
        with use_backend("cpu"):
            actual = lora_dropout(x, key, 2**32 - 1, 0.3)
        assert torch.equal(actual == 0, expected == 0)
        torch.testing.assert_close(actual, expected, rtol=2**-7 if dtype == torch.bfloat16 else 1e-6, atol=0)

    def test_draws_are_philox(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Against the generator of the sampler, whose known answers are tested: its counter has zeros at the end."""
        key = random_keys(3)
        monkeypatch.setattr(importlib.import_module("lorid_engine.ops.lora_dropout"), "_STREAM", 0)
        halves = _halves(key, 5, 32)
        for t in range(3):
            for draw in range(4):
                words = philox(int(key[t]) % 2**64, draw, 5)
                expected = [part for word in words for part in (word & 0xFFFF, word >> 16)]
                assert halves[t, 8 * draw : 8 * draw + 8].tolist() == expected

    def test_a_row_s_mask_is_its_own(self) -> None:
        x, key = torch.ones(40, 96), random_keys(40)
        together = lora_dropout(x, key, 3, 0.5)
        for t in (0, 17, 39):
            assert torch.equal(lora_dropout(x[t : t + 1], key[t : t + 1], 3, 0.5)[0], together[t])
        assert not torch.equal(lora_dropout(x, key, 4, 0.5), together)

    def test_the_share_is_p_and_the_mean_stays(self) -> None:
        y = lora_dropout(torch.ones(500, 1000), random_keys(500), 0, 0.1)
        assert abs(float((y == 0).float().mean()) - 0.1) < 0.002
        assert abs(float(y.mean()) - 1) < 0.003
        assert torch.equal(lora_dropout(torch.ones(3, 9), random_keys(3), 0, 0.0), torch.ones(3, 9))
        most = lora_dropout(torch.ones(2000, 1000), random_keys(2000), 0, 1 - 1e-7)
        assert set(most.unique().tolist()) == {0.0, 65536.0} and abs(float(most.mean()) - 1) < 0.6

    def test_what_is_dropped_is_zero_even_if_it_is_nan(self, isa: str) -> None:
        x = torch.full((20, 64), float("nan"))
        y = lora_dropout(x, random_keys(20), 0, 0.5)
        assert 0 < int((y == 0).sum()) < y.numel() and int(y.isnan().sum()) + int((y == 0).sum()) == y.numel()

    def test_strided_rows_and_no_rows(self, isa: str) -> None:
        x, key = random(6, 40), random_keys(6)
        assert torch.equal(lora_dropout(x[:, :30], key, 0, 0.4), lora_dropout(x[:, :30].contiguous(), key, 0, 0.4))
        assert lora_dropout(x[:0], key[:0], 0, 0.4).shape == (0, 40)

    def test_it_is_its_own_gradient(self) -> None:
        x, key = random(4, 20).requires_grad_(), random_keys(4)
        lora_dropout(x, key, 1, 0.3).backward(torch.ones(4, 20))
        assert torch.equal(x.grad, lora_dropout(torch.ones(4, 20), key, 1, 0.3))

    @pytest.mark.parametrize(
        ("change", "says"),
        [({"p": 1.0}, "p must be"), ({"module": -1}, "module must be"), ({"key": torch.zeros(3)}, "key must")],
    )
    def test_refusals(self, change: dict, says: str) -> None:
        arguments = {"x": torch.ones(3, 4), "key": random_keys(3), "module": 0, "p": 0.5, **change}
        with pytest.raises(ShapeError, match=says):
            lora_dropout(*arguments.values())


SLOTS = [0] * 5 + [-1] * 3 + [2] * 1 + [1] * 2 + [3] * 7 + [0] * 2  # slot 1 is empty


class TestLoraLinearGradients:
    @pytest.mark.parametrize("dropout", [False, True])
    @pytest.mark.parametrize("rank", RANKS)
    def test_float32_is_the_references(self, rank: int, dropout: bool) -> None:
        in_features, widths, plan = 36, (20, 8), SegmentPlan.from_slots(SLOTS)
        banks = [
            (begin, make_bank([rank, 0, 3, rank], in_features, width, torch.float32))
            for begin, width in ((0, 20), (25, 8))
        ]
        weight, bias = random(40, in_features, seed=5), random(40, seed=6)
        drop = (0.3, random_keys(len(SLOTS)), [4, 9]) if dropout else None
        results = []
        for dtype in (torch.float32, torch.float64):
            x = random(len(SLOTS), in_features, seed=7).to(dtype).requires_grad_()
            leaves = [x]
            mine = []
            for begin, bank in banks:
                a, b_t = (matrix.clone().to(dtype).requires_grad_() for matrix in (bank.a, bank.b_t))
                leaves += [a, b_t]
                mine.append((begin, dataclasses.replace(bank, a=a, b_t=b_t)))
            y = lora_fused_linear(x, PackedLinear(weight.to(dtype), 40, in_features, bias.to(dtype)), mine, plan, drop)
            y.backward(random(*y.shape, seed=8).to(dtype))
            results.append([y.detach(), *(leaf.grad for leaf in leaves)])
        assert widths == tuple(bank.b_t.shape[1] for _, bank in banks)
        for actual, expected in zip(*results, strict=True):
            assert_close(actual, expected)

    def test_finite_differences(self) -> None:
        """In float64, with dropout, an empty slot and rows without adapters."""
        plan, bank = SegmentPlan.from_slots(SLOTS), make_bank([2, 0, 3, 1], 6, 5, torch.float64)
        weight = PackedLinear(random(5, 6, dtype=torch.float64), 5, 6)
        dropout = LoraDropout(0.4, random_keys(len(SLOTS)), 1)

        def run(x: torch.Tensor, a: torch.Tensor, b_t: torch.Tensor) -> torch.Tensor:
            return lora_linear(x, weight, dataclasses.replace(bank, a=a, b_t=b_t), plan, dropout)

        leaves = [t.clone().requires_grad_() for t in (random(len(SLOTS), 6, dtype=torch.float64), bank.a, bank.b_t)]
        assert torch.autograd.gradcheck(run, leaves)

    def test_packed_weights_have_gradients_too(self) -> None:
        plan, bank = SegmentPlan.from_slots([0, 0, -1]), make_bank([4], 16, 32, torch.float32)
        plain = random(32, 16)
        grads = []
        for weight in (pack_linear(plain), PackedLinear(plain, 32, 16)):
            x = random(3, 16, seed=3).requires_grad_()
            a = bank.a.clone().requires_grad_()
            lora_linear(x, weight, dataclasses.replace(bank, a=a), plan).sum().backward()
            grads.append((x.grad, a.grad))
        for ours, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)

    def test_what_has_no_gradient_is_refused(self) -> None:
        bank, plan = make_bank([2], 8, 4, torch.float32), SegmentPlan.from_slots([0])
        weight = PackedLinear(random(4, 8).requires_grad_(), 4, 8)
        with pytest.raises(ShapeError, match="no gradient for its weight"):
            lora_linear(random(1, 8), weight, bank, plan)
        with pytest.raises(ShapeError, match="needs a bank"):
            lora_fused_linear(random(1, 8), PackedLinear(random(4, 8), 4, 8), [], plan)
        with pytest.raises(ShapeError, match="from column 3 on"):
            lora_fused_linear(random(1, 8), PackedLinear(random(6, 8), 6, 8), [(3, bank)], plan)


def angles(rows: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    angle = random(rows, head_dim // 2, seed=4)
    return angle.cos(), angle.sin()


class TestPackedAttention:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("window", [0, 1, 16, 37])
    @pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(9, 3, 64), (2, 1, 10), (4, 4, 24), (50, 1, 16)])
    def test_values_and_gradients(
        self, isa: str, dtype: torch.dtype, window: int, heads: int, kv_heads: int, head_dim: int
    ) -> None:
        lengths = [1, 15, 16, 17, 0, 70, 2]
        offset = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
        rows = int(offset[-1])
        cos, sin = angles(rows, head_dim)
        results = []
        for backend in ("reference", "cpu"):
            qkv = random(rows, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
            qkv = (qkv.double() if backend == "reference" else qkv).requires_grad_()
            with use_backend(backend):
                out = packed_attention(
                    qkv, offset, num_heads=heads, num_kv_heads=kv_heads, cos=cos, sin=sin, window=window
                )
                out.backward(random(*out.shape, dtype=dtype, seed=2).to(out.dtype))
            results.append((out.detach(), qkv.grad))
        for expected, actual in zip(*results, strict=True):
            assert actual.dtype == dtype
            assert_close(actual, expected)

    def test_without_rotation_it_is_torchs(self) -> None:
        qkv = random(40, 3 * 4 * 16).requires_grad_()
        out = packed_attention(qkv, torch.tensor([0, 40], dtype=torch.int32), num_heads=4, num_kv_heads=4)
        q, k, v = (x.view(40, 4, 16).transpose(0, 1) for x in qkv.chunk(3, dim=1))
        theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).flatten(1)
        torch.testing.assert_close(out, theirs, rtol=1e-5, atol=1e-5)
        [mine] = torch.autograd.grad(out.square().sum(), qkv, retain_graph=True)
        [other] = torch.autograd.grad(theirs.square().sum(), qkv)
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)

    def test_sequences_do_not_see_each_other(self, isa: str) -> None:
        """The same bits beside a sequence of NaNs, forward and backward, on any number of threads."""
        qkv, cos_sin = random(60, 5 * 16), angles(60, 16)
        outs = []
        for poisoned in (False, True):
            mine = qkv.clone()
            if poisoned:
                mine[:20], mine[50:] = float("nan"), float("nan")
            mine.requires_grad_()
            offset = torch.tensor([0, 20, 50, 60], dtype=torch.int32)
            out = packed_attention(mine, offset, num_heads=3, num_kv_heads=1, cos=cos_sin[0], sin=cos_sin[1])
            out.backward(torch.ones_like(out))
            outs.append((out[20:50].detach(), mine.grad[20:50]))
        assert all(torch.equal(a, b) for a, b in zip(*outs, strict=True))

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"num_heads": 3}, "columns"),
            ({"num_heads": 0}, "columns"),
            ({"num_heads": -4}, "columns"),
            ({"seq_offset": torch.tensor([0, 3], dtype=torch.int32)}, "rise from 0 to T = 4"),
            ({"cos": torch.ones(4, 8)}, "both be given"),
            ({"window": -1}, "window"),
            ({"cos": torch.ones(4, 7), "sin": torch.ones(4, 8)}, "cos must have shape"),
        ],
    )
    def test_refusals(self, change: dict, says: str) -> None:
        arguments = {"seq_offset": torch.tensor([0, 4], dtype=torch.int32), "num_heads": 4, "num_kv_heads": 2, **change}
        with pytest.raises(ShapeError, match=says):
            packed_attention(torch.ones(4, 8 * 16), **arguments)


class TestPointwiseGradients:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("features", [1, 7, 64, 99, 576])
    def test_silu_mul(self, isa: str, dtype: torch.dtype, features: int) -> None:
        x = random(11, 2 * features, dtype=dtype) * 4
        x[0, 0], x[1, 0] = -300.0, 300.0
        grads = []
        for tensor in (x.double(), x.clone()):
            tensor.requires_grad_()
            silu_mul(tensor).backward(random(11, features, dtype=dtype, seed=1).to(tensor.dtype))
            grads.append(tensor.grad)
        assert_close(grads[1], grads[0])

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("features", [3, 7, 64, 99, 576])
    def test_rms_norm(self, isa: str, dtype: torch.dtype, features: int) -> None:
        x, weight = random(11, features, dtype=dtype), random(features, seed=5)
        x[3] = 0
        grads = []
        for tensor in (x.double(), x.clone()):
            tensor.requires_grad_()
            rms_norm(tensor, weight.double() if tensor.dtype == torch.float64 else weight, 1e-5).backward(
                random(11, features, dtype=dtype, seed=1).to(tensor.dtype)
            )
            grads.append(tensor.grad)
        keep = [0, 1, 2, *range(4, 11)]  # at zero the gradient is hundreds of times as large
        assert_close(grads[1][keep], grads[0][keep])
        assert_close(grads[1][3:4], grads[0][3:4])

    def test_finite_differences(self) -> None:
        x, weight = random(3, 8, dtype=torch.float64).requires_grad_(), random(8, dtype=torch.float64)
        assert torch.autograd.gradcheck(silu_mul, (x,))
        assert torch.autograd.gradcheck(lambda x: rms_norm(x, weight, 1e-3), (x,))
        qkv = random(7, 4 * 4, dtype=torch.float64).requires_grad_()
        offset = torch.tensor([0, 3, 7], dtype=torch.int32)
        cos, sin = angles(7, 4)
        run = lambda x: packed_attention(x, offset, num_heads=2, num_kv_heads=1, cos=cos, sin=sin, window=2)  # noqa: E731
        assert torch.autograd.gradcheck(run, (qkv,))
