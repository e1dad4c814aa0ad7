"""The modules LoridLinear, LoridBank and LoridPlan; torch.compile and torch.export of what uses the ops."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from helpers import assert_close
from lorid_engine.errors import ShapeError
from lorid_engine.modules import LoridBank, LoridLinear, LoridPlan
from lorid_engine.ops import rms_norm, silu_mul

PLANS = ([0, 0, 1, -1], [1, 1, 1, 1], [-1, 0, 1, 0], [-1, -1, -1, 2])


class Net(torch.nn.Module):
    """Two adapted layers among plain ones."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.plan = LoridPlan(4)
        self.plain = [torch.nn.Linear(16, 24), torch.nn.Linear(12, 8, bias=False)]
        self.banks = [LoridBank(16, 24, 3, 5, dtype), LoridBank(12, 8, 3, 5, dtype)]
        for bank in self.banks:
            for slot, rank in enumerate((5, 3)):
                bank.load(slot, torch.randn(rank, bank.a.shape[1]), torch.randn(bank.b_t.shape[1], rank), 0.5 + slot)
        layers = [
            LoridLinear(each.to(dtype), bank, self.plan) for each, bank in zip(self.plain, self.banks, strict=True)
        ]
        self.up, self.down = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(silu_mul(self.up(rms_norm(x, torch.ones(16), 1e-5)))).relu()

    def expected(self, x: torch.Tensor, slots: list[int]) -> torch.Tensor:
        """By torch, row by row."""

        def layer(place: int, row: torch.Tensor, slot: int) -> torch.Tensor:
            y, bank = self.plain[place](row), self.banks[place]
            if slot < 0:
                return y
            ranks = slice(slot * 5, slot * 5 + 5)
            return y + bank.scale[slot] * (row @ bank.a[ranks].t() @ bank.b_t[ranks])

        rows = []
        for row, slot in zip(x, slots, strict=True):
            gate, up = layer(0, torch.nn.functional.rms_norm(row, (16,), eps=1e-5), slot).chunk(2)
            rows.append(layer(1, torch.nn.functional.silu(gate) * up, slot).relu())
        return torch.stack(rows)


def x_of(rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_rows_take_the_adapters_of_the_plan() -> None:
    net, x = Net(), x_of()
    for slots in PLANS:
        net.plan.set(slots)
        assert_close(net(x), net.expected(x, slots), 1e-5)
    assert torch.equal(net.up(x.view(2, 2, 16)).view(4, 24), net.up(x))
    net.plan.set([1] * 4)
    net.banks[0].unload(1)
    net.banks[1].unload(1)
    emptied = net(x)
    net.plan.set([-1] * 4)
    assert_close(emptied, net(x), 1e-6)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@torch.no_grad()
def test_a_compiled_model_follows_every_plan_without_compiling_anew(backend: str) -> None:
    torch._dynamo.reset()
    net, x, counter = Net(), x_of(), CompileCounterWithBackend(backend)
    compiled = torch.compile(net, fullgraph=True, backend=counter)
    for slots in PLANS:
        net.plan.set(slots)
        assert_close(compiled(x), net(x), 1e-6)
    net.banks[0].load(2, torch.randn(4, 16), torch.randn(24, 4), 2.0)
    assert_close(compiled(x), net(x), 1e-6)
    assert counter.frame_count == 1


@torch.no_grad()
def test_an_exported_model_takes_any_number_of_rows() -> None:
    net = Net()
    net.plan.set([0, 1, -1, 1])
    exported = torch.export.export(net, (x_of(),), dynamic_shapes=({0: torch.export.Dim("rows", min=2)},))
    assert {"lorid.lora_linear.default", "lorid.silu_mul.default"} <= {str(n.target) for n in exported.graph.nodes}
    assert_close(exported.module()(x_of()), net(x_of()), 1e-6)


def test_state_dict_holds_weights_and_adapters_but_no_plan() -> None:
    net = Net()
    assert set(net.up.state_dict()) == {
        "weight",
        "bias",
        *(f"bank.{name}" for name in ("a", "b_t", "rank_offset", "scale")),
    }
    other = Net(torch.float32)
    other.up.bank.unload(0)
    other.load_state_dict(net.state_dict())
    for each in (net, other):
        each.plan.set([0] * 4)
    assert torch.equal(net(x_of()), other(x_of()))


def test_bad_input() -> None:
    net = Net()
    with pytest.raises(ShapeError, match="5 segments, more than max_segments = 4; sort them by adapter"):
        net.plan.set([0, 1, 0, 1, 0])
    with pytest.raises(ShapeError, match="slot must be from 0 to 2; got 3"):
        net.banks[0].load(3, torch.zeros(1, 16), torch.zeros(24, 1), 1.0)
    with pytest.raises(ShapeError, match="rank is 6; this bank has room for 5"):
        net.banks[0].load(0, torch.zeros(6, 16), torch.zeros(24, 6), 1.0)
    with pytest.raises(ShapeError, match="b must have shape"):
        net.banks[0].load(0, torch.zeros(2, 16), torch.zeros(24, 3), 1.0)
    net.plan.set([3, 0, 0, 0])
    with pytest.raises(ShapeError, match="a slot from 0 to 2"):
        net(x_of())
    net.plan.set([0] * 3)
    with pytest.raises(ShapeError, match="seg_offset must rise from 0 to T = 4"):
        net(x_of())
    with pytest.raises(ShapeError, match=r"weight must be torch\.bfloat16; got torch\.float32"):
        net.up(x_of().bfloat16())
    for sizes in ((0, 4), (4, 0)):
        with pytest.raises(ShapeError, match="must be at least 1"):
            LoridBank(16, 24, *sizes)
    with pytest.raises(ShapeError, match="max_segments must be at least 1"):
        LoridPlan(0)
