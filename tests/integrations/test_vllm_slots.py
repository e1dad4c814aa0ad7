"""What the vLLM plugin makes of vLLM's slots and rows, and that it stays inert; vLLM itself is not needed."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from lorid_engine.errors import ConfigError
from lorid_engine.integrations import vllm as plugin
from lorid_engine.integrations.vllm.slots import GroupedRows, bank_of


def test_bank_has_each_slots_own_rank() -> None:
    """vLLM fills every slot up to its largest rank with zeros."""
    a, b = torch.zeros(3, 8, 5), torch.zeros(3, 6, 8)
    a[0, :4], b[0, :, :4] = 1, 2
    a[2, 1], b[2, 3, 1] = 3, 4  # rank 2, its first rank zero
    a[1, :4] = 7  # without a B there is nothing to add
    bank = bank_of(a, b)
    assert bank.rank_offset.tolist() == [0, 4, 4, 6] and bank.scale.tolist() == [1.0, 0.0, 1.0]
    assert torch.equal(bank.a[4:], a[2, :2]) and torch.equal(bank.b_t[4:], b[2, :, :2].t())
    assert bank_of(torch.zeros(3, 8, 5), b) is None


def test_a_nan_is_kept() -> None:
    a, b = torch.zeros(1, 2, 3), torch.ones(1, 4, 2)
    a[0, 1, 2] = float("nan")
    assert bank_of(a, b).max_rank == 2


def test_rows_are_grouped_by_slot() -> None:
    rows = GroupedRows.of([1, -1, 0, 1, 0], 5)
    assert rows.order.tolist() == [2, 4, 0, 3]
    assert rows.plan.seg_slot.tolist() == [0, 1] and rows.plan.seg_offset.tolist() == [0, 2, 4]
    assert GroupedRows.of([-1, -1], 2) is None and GroupedRows.of([], 3) is None


def test_rows_that_lie_well_are_not_moved() -> None:
    assert GroupedRows.of([0, 0, 1], 3).order is None
    assert GroupedRows.of([0, 0, 1], 4).order.tolist() == [0, 1, 2]  # a row that no request has
    assert GroupedRows.of([-1, 0], 2).order.tolist() == [1]


def pretend_vllm(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    platform = SimpleNamespace(is_cpu=lambda: False, is_cuda=lambda: False, device_name="tpu")
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__=version))
    module = ModuleType("vllm.platforms")
    module.current_platform = platform
    monkeypatch.setitem(sys.modules, "vllm.platforms", module)


def test_inert_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it would fail
    for value in (None, "", "0", "yes"):
        monkeypatch.delenv("LORID_VLLM", raising=False)
        if value is not None:
            monkeypatch.setenv("LORID_VLLM", value)
        plugin.register()


def test_other_versions_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORID_VLLM", "1")
    pretend_vllm(monkeypatch, "0.33.0+cpu")
    with pytest.raises(
        ConfigError, match=r"needs vLLM 0\.32\.0; got 0\.33\.0\+cpu: install that one, or unset"
    ) as error:
        plugin.register()
    assert "\n" not in str(error.value)
    pretend_vllm(monkeypatch, "0.32.0+cpu")
    with pytest.raises(ConfigError, match="needs a CPU or an NVIDIA GPU; vLLM runs on tpu"):
        plugin.register()
