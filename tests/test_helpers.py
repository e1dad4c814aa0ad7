"""The comparison helpers must be able to fail."""

from __future__ import annotations

import pytest
import torch

from helpers import assert_close, assert_same_bits, lazy_zeros, poisoned_tail, strided


def test_assert_close_fails_on_a_wrong_value() -> None:
    expected = torch.tensor([1.0, 2.0])
    assert_close(torch.tensor([1.0, 2.0 + 1e-6]), expected)
    with pytest.raises(AssertionError, match="largest error"):
        assert_close(torch.tensor([1.0, 2.00001]), expected)


def test_assert_close_fails_on_nan_and_on_shape() -> None:
    with pytest.raises(AssertionError, match="NaN"):
        assert_close(torch.tensor([float("nan")]), torch.tensor([1.0]))
    with pytest.raises(AssertionError, match="shape"):
        assert_close(torch.zeros(2), torch.zeros(1, 2))


def test_assert_same_bits_sees_the_sign_of_zero() -> None:
    assert_same_bits(torch.tensor([float("nan"), 1.0]), torch.tensor([float("nan"), 1.0]))
    with pytest.raises(AssertionError, match="1 of 2"):
        assert_same_bits(torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]))


def test_poison_lies_where_a_kernel_would_read_too_far() -> None:
    rows = strided(torch.ones(2, 3))
    assert rows.stride(0) == 8 and rows.as_strided((1,), (1,), 3).isnan().all()
    tail = poisoned_tail(torch.ones(2, 3))
    assert tail.is_contiguous() and tail.as_strided((1,), (1,), 6).isnan().all()


def test_lazy_zeros_reach_past_two_gib() -> None:
    huge = lazy_zeros(2**31 + 8, torch.float32)
    huge[-1] = 1
    assert float(huge[2**31 + 7]) == 1
