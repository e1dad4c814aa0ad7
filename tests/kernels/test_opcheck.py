"""torch.library.opcheck of the ops on the Triton backend: schemas, fakes, and what they say that they write."""

from __future__ import annotations

import pytest
import torch

from helpers import make_bank
from lorid_engine import ops
from lorid_engine.ops import gpu

pytestmark = pytest.mark.skipif(not gpu.interprets(), reason="needs TRITON_INTERPRET=1")
BANK = make_bank([3, 8], 16, 24, torch.float32)
PLAN = ops.SegmentPlan.from_slots([0, 0, -1, 1])
X = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))


def ints(*values: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


PACKED = (torch.randn(4, 32), torch.ones(4, 4), torch.zeros(4, 4), ints(0, 1, 4), 2, 1, 0, 3)


def cases() -> dict[str, tuple]:
    """Arguments of every op that has the backend; pages are [C, 16, G, D]."""
    weight, pages = torch.randn(24, 16), [torch.zeros(2, 16, 1, 8) for _ in range(2)]
    tables, rows = (BANK.rank_offset, PLAN.seg_offset, PLAN.seg_slot), torch.full((2,), 1.0)
    keys = ints(1, 2, dtype=torch.int64)
    return {
        "pack_linear": (weight,),
        "lora_shrink": (X, BANK.a, tables[0], 8, ints(0, 4), ints(1)),  # elsewhere it is not defined
        "lora_expand": (torch.zeros(4, 24), torch.ones(4, 8), BANK.b_t, tables[0], BANK.scale, *tables[1:]),
        "lora_add": (*(torch.zeros(4, 30), X, [BANK.a], [BANK.b_t], [tables[0]], [BANK.scale], [8], [3], *tables[1:]),),
        "lora_linear": (
            *(X, weight, 24, [BANK.a], [BANK.b_t], [tables[0]], [BANK.scale], [8], [0], *tables[1:]),
            *(torch.ones(24), None, [0], 0.0),
        ),
        "rms_norm": (X, torch.ones(16), 1e-5),
        "silu_mul": (X,),
        "embed": (ints(1, 23), weight, 24, 16),
        "rope": (
            *(torch.randn(1, 32), torch.ones(5, 4), torch.zeros(5, 4), ints(3), ints(19, dtype=torch.int64)),
            *(*pages, 2, torch.ones(8), None, 1e-5),
        ),
        "paged_attention": (torch.randn(1, 16), *pages, ints(0, 1)[None], ints(0, 1), ints(3), 8, 1.0, 0),
        "packed_attention": PACKED,
        "packed_attention_backward": (torch.randn(4, 16), *PACKED),
        "rms_norm_backward": (X, X, torch.ones(16), 1e-5),
        "silu_mul_backward": (X[:, :8].contiguous(), X),
        "lora_dropout": (X, torch.arange(4), 3, 0.5),
        "sample": (torch.randn(2, 9), keys, torch.zeros(2, 2, dtype=torch.int64), rows, ints(0, 3), rows, 2),
    }


@pytest.mark.parametrize("name", cases())
def test_opcheck(name: str) -> None:
    with ops.use_backend("triton"):
        torch.library.opcheck(getattr(torch.ops.lorid, name).default, cases()[name], raise_exception=True)
