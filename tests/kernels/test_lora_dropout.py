"""lora_dropout of the Triton backend: the C++ backend's masks, bit for bit."""

from __future__ import annotations

import pytest
import torch

from helpers import assert_same_bits, strided
from lorid_engine.ops import gpu, lora_dropout, use_backend

pytestmark = pytest.mark.skipif(not gpu.interprets(), reason="needs TRITON_INTERPRET=1")


@pytest.mark.parametrize("module", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("features", [1, 7, 8, 129, 1100])
def test_the_masks_are_the_cpp_backends(features: int, module: int) -> None:
    random = torch.Generator().manual_seed(features)
    x = strided(torch.randn(5, features, generator=random))
    key = torch.randint(-(2**63), 2**63 - 1, (5,), generator=random)
    results = []
    for backend in ("triton", "cpu"):
        with use_backend(backend):
            results.append(lora_dropout(x, key, module, 0.3))
    assert_same_bits(*results)
