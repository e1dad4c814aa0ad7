"""The ops as torch.library ops: schema, fake implementations, declared mutation."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from helpers import make_bank
from lorid_engine import ops
from lorid_engine.errors import BackendUnavailableError, ConfigError
from lorid_engine.ops.kv_pages import page_shapes

BANK = make_bank([3, 8], 16, 24, torch.float32)
PLAN = ops.SegmentPlan.from_slots([0, 0, -1, 1])
X = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))


def pages(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.zeros(2, *shape, dtype=dtype) for shape in page_shapes(1, 8, dtype)]


KEYS = torch.arange(4) * 0x123456789


def ints(*values: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def cases() -> dict[str, tuple]:
    """Arguments of every registered op."""
    packed = ops.pack_linear(torch.randn(24, 16))
    tables = (BANK.rank_offset, PLAN.seg_offset, PLAN.seg_slot)
    rows = torch.full((2,), 1.0)
    return {
        "pack_linear": (torch.randn(24, 16),),
        # every row of the widest adapter: elsewhere a shrink is not defined, and two runs may differ
        "lora_shrink": (X, BANK.a, tables[0], 8, ints(0, 4), ints(1)),
        "lora_expand": (torch.zeros(4, 24), torch.ones(4, 8), BANK.b_t, tables[0], BANK.scale, *tables[1:]),
        "lora_add": (*(torch.zeros(4, 30), X, [BANK.a], [BANK.b_t], [tables[0]], [BANK.scale], [8], [3], *tables[1:]),),
        "lora_linear": (
            *(X, packed.data, 24, [BANK.a], [BANK.b_t], [tables[0]], [BANK.scale], [8], [0], *tables[1:]),
            *(torch.ones(24), None, [0], 0.0),
        ),
        "rms_norm": (X, torch.ones(16), 1e-5),
        "silu_mul": (X,),
        "embed": (ints(1, 23), packed.data, 24, 16),
        "rope": (
            torch.randn(1, 32),
            torch.ones(5, 4),
            torch.zeros(5, 4),
            ints(3),
            ints(19, dtype=torch.int64),
            *pages(),
            2,
            torch.ones(8),
            None,
            1e-5,
        ),
        "paged_attention": (torch.randn(1, 16), *pages(), ints(0, 1)[None], ints(0, 1), ints(3), 8, 1.0, 0),
        "sample": (
            torch.randn(2, 9),
            ints(1, 2, dtype=torch.int64),
            torch.zeros(2, 2, dtype=torch.int64),
            rows,
            ints(0, 3),
            rows,
            2,
        ),
        "lora_dropout": (X, KEYS, 3, 0.5),
        "packed_attention": (torch.randn(4, 32), torch.ones(4, 4), torch.zeros(4, 4), ints(0, 1, 4), 2, 1, 0, 3),
    }


def trained() -> dict[str, tuple]:
    """Arguments of the ops that have gradients, where somebody wants them; and of their backward ops."""
    x, plain = X.clone().requires_grad_(), torch.randn(24, 16)
    a, b_t = (matrix.clone().requires_grad_() for matrix in (BANK.a, BANK.b_t))
    bank = ([BANK.rank_offset], [BANK.scale])
    segments, dropout = (PLAN.seg_offset, PLAN.seg_slot), (KEYS, [3], 0.5)
    _, *attention = cases()["packed_attention"]
    qkv = torch.randn(4, 32)
    return {
        "lora_linear": (x, plain, 24, [a], [b_t], *bank, [8], [0], *segments, torch.ones(24), *dropout),
        "lora_linear_backward": (
            *(torch.randn(4, 24), X, plain, [BANK.a], [BANK.b_t], *bank, [0], *segments, *dropout, True),
        ),
        "lora_dropout": (x, KEYS, 3, 0.5),
        "rms_norm": (x, torch.ones(16), 1e-5),
        "rms_norm_backward": (X, X, torch.ones(16), 1e-5),
        "silu_mul": (x,),
        "silu_mul_backward": (torch.randn(4, 8), X),
        "packed_attention": (qkv.clone().requires_grad_(), *attention),
        "packed_attention_backward": (torch.randn(4, 16), qkv, *attention),
    }


@pytest.mark.parametrize("name", trained())
def test_opcheck_with_gradients(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.lorid, name).default, trained()[name])


def test_every_op_is_checked() -> None:
    names = {name for name in dir(torch.ops.lorid) if not name.startswith("_") and name != "name"}
    assert names == cases().keys() | trained().keys()


@pytest.mark.parametrize("name", cases())
def test_opcheck(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.lorid, name).default, cases()[name])


@pytest.mark.parametrize("name", ["lora_shrink", "sample"])
def test_opcheck_of_the_reference(name: str) -> None:
    arguments = cases()[name]
    if name == "lora_shrink":
        arguments = (X.double(), BANK.a.double(), *arguments[2:])
    with ops.use_backend("reference"):
        torch.library.opcheck(getattr(torch.ops.lorid, name).default, arguments)
        if name == "sample":
            torch.library.opcheck(torch.ops.lorid.sample.default, (*arguments[:-1], -1))


def test_arguments_by_name() -> None:
    *positional, num_heads, q_norm, k_norm, epsilon = cases()["rope"]
    named = ops.rope(*positional, num_heads, norm_epsilon=epsilon, q_norm=q_norm)
    assert torch.equal(named, ops.rope(*positional, num_heads, q_norm, k_norm, epsilon))
    with pytest.raises(TypeError, match="unexpected keyword"):
        ops.silu_mul(X, scale=2)


def test_tracing_sees_the_op() -> None:
    def layer(x: torch.Tensor) -> torch.Tensor:
        return ops.silu_mul(x) + 1

    graph = torch.fx.experimental.proxy_tensor.make_fx(layer)(torch.ones(2, 4))
    assert any("lorid.silu_mul" in str(node.target) for node in graph.graph.nodes)
    with torch._subclasses.FakeTensorMode():
        assert layer(torch.ones(3, 8)).shape == (3, 4)


def test_a_gradient_is_refused_not_dropped() -> None:
    x = X.clone().requires_grad_()
    y = ops.lora_shrink(x, BANK, PLAN)
    assert y.requires_grad
    with pytest.raises(RuntimeError, match=r"lorid.lora_shrink.*no autograd"):
        y.sum().backward()
    with torch.no_grad():
        assert not ops.lora_shrink(x, BANK, PLAN).requires_grad


def test_compiles_without_a_graph_break() -> None:
    packed = ops.pack_linear(torch.randn(24, 16))

    def layer(x: torch.Tensor) -> torch.Tensor:
        return ops.lora_linear(ops.rms_norm(x, torch.ones(16), 1e-5), packed, BANK, PLAN)

    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert torch.equal(compiled(X), layer(X))


def test_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="one of cpu, triton, torch, reference; got 'gpu'"), ops.use_backend("gpu"):
        pass
    monkeypatch.setenv("LORID_BACKEND", "fast")
    with pytest.raises(ConfigError, match="'fast'"):
        ops.silu_mul(X)


def test_a_backend_asked_for_never_falls_back() -> None:
    with ops.use_backend("cpu"), pytest.raises(BackendUnavailableError, match="float64"):
        ops.silu_mul(X.double())


@pytest.mark.parametrize(
    ("variable", "value", "message"), [("LORID_ISA", "sse9", "LORID_ISA"), ("LORID_THREADS", "0", "LORID_THREADS")]
)
def test_environment_is_checked(variable: str, value: str, message: str) -> None:
    code = "import torch; from lorid_engine import ops; ops.silu_mul(torch.ones(1, 2))"
    environment = {"PATH": "", variable: value}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "ConfigError" in result.stderr and message in result.stderr


@pytest.mark.parametrize("isa", ops.cpu.extension().supported_isas())
def test_lorid_isa_forces_a_level(isa: str) -> None:
    code = "from lorid_engine.ops import cpu; print(cpu.extension().active_isa())"
    environment = {"PATH": "", "LORID_ISA": isa}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == isa
