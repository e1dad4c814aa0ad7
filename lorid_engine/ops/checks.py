"""Checks that several ops share. Each message names the tensor, what it must be, and what it is.

They run at every call of an op, so they look at a tensor as few times as they can: each look takes 0.1 to 1 us.
"""

from __future__ import annotations

import itertools

import torch

from lorid_engine.errors import ShapeError


def expect_shape(name: str, tensor: torch.Tensor, *shape: int | None) -> None:
    """Raises unless the tensor has this shape; None stands for any size."""
    got = tensor.shape
    if len(got) == len(shape):
        for want, size in zip(shape, got, strict=True):
            if want is not None and want != size:
                break
        else:
            return
    expected = ", ".join("any" if size is None else str(size) for size in shape)
    raise ShapeError(f"{name} must have shape [{expected}]; got {list(got)}")


def expect_dtype(name: str, tensor: torch.Tensor, *dtypes: torch.dtype) -> None:
    """Raises unless the tensor has one of these dtypes."""
    if tensor.dtype not in dtypes:
        raise ShapeError(f"{name} must be {' or '.join(map(str, dtypes))}; got {tensor.dtype}")


def expect_floating(name: str, tensor: torch.Tensor) -> None:
    """Raises unless the tensor holds floating-point numbers."""
    if not tensor.is_floating_point():
        raise ShapeError(f"{name} must be floating point; got {tensor.dtype}")


def expect_rows(name: str, tensor: torch.Tensor) -> None:
    """Raises where the last dimension is strided: rows may lie apart, but each must be contiguous."""
    strides = tensor.stride()
    if strides and strides[-1] != 1 and tensor.shape[-1] > 1:
        raise ShapeError(f"{name} must be contiguous along its last dimension; its stride there is {strides[-1]}")


def expect_contiguous(name: str, tensor: torch.Tensor) -> None:
    """Raises unless the whole tensor is contiguous."""
    if not tensor.is_contiguous():
        raise ShapeError(f"{name} must be contiguous; its strides are {list(tensor.stride())}")


def expect_device(tensor: torch.Tensor, **others: torch.Tensor) -> None:
    """Raises unless the others lie on the tensor's device."""
    on_cpu = tensor.is_cpu
    for name, other in others.items():
        if not (on_cpu and other.is_cpu) and other.device != tensor.device:
            raise ShapeError(f"{name} must be on {tensor.device} like the activations; got {other.device}")


def expect_device_or_host(tensor: torch.Tensor, **others: torch.Tensor) -> None:
    """Raises unless the others lie on the tensor's device, or on the CPU, where they can be read without waiting for a GPU."""
    for name, other in others.items():
        if not other.is_cpu:
            expect_device(tensor, **{name: other})


def can_read(tensor: torch.Tensor) -> bool:
    """Whether values may be looked at: a GPU would be waited for, and while torch.compile traces there are none. The op itself
    looks when it runs."""
    return tensor.is_cpu and not torch.compiler.is_compiling()


def check_bank(rank_offset: torch.Tensor, num_ranks: int, max_rank: int) -> None:
    """Raises unless rank_offset is an exclusive prefix sum over num_ranks rows with no rank above max_rank."""
    expect_shape("rank_offset", rank_offset, None)
    expect_dtype("rank_offset", rank_offset, torch.int32)
    expect_contiguous("rank_offset", rank_offset)
    if rank_offset.numel() == 0:
        raise ShapeError("rank_offset must have N + 1 entries; got none")
    if not can_read(rank_offset):
        return
    offsets = rank_offset.tolist()  # one call: each of torch's own would take longer than all of Python's comparisons
    if offsets[0] != 0 or offsets[-1] != num_ranks:
        raise ShapeError(f"rank_offset must go from 0 to {num_ranks}; got {offsets[0]} to {offsets[-1]}")
    begin = 0
    for end in offsets:
        if not 0 <= end - begin <= max_rank:
            ranks = [end - begin for begin, end in itertools.pairwise(offsets)]
            raise ShapeError(f"rank_offset must give ranks from 0 to max_rank = {max_rank}; got {ranks}")
        begin = end


def check_offsets(name: str, offset: torch.Tensor, num_rows: int) -> None:
    """Raises unless an exclusive prefix sum never falls and goes from 0 to the number of rows."""
    rows = offset.tolist()
    if rows[0] != 0 or rows[-1] != num_rows or rows != sorted(rows):
        raise ShapeError(f"{name} must rise from 0 to T = {num_rows}; got {rows}")


def expect_apart(name: str, tensor: torch.Tensor) -> None:
    """Raises where the rows of a tensor that is written overlap in memory."""
    if tensor.shape[0] > 1 and abs(tensor.stride(0)) < tensor.shape[1]:
        raise ShapeError(f"the rows of {name} must not overlap; they are {tensor.stride(0)} elements apart")


def check_plan(num_rows: int, num_slots: int, seg_offset: torch.Tensor, seg_slot: torch.Tensor) -> None:
    """Raises unless the segments cover the rows in order and name slots of the bank, or -1."""
    expect_shape("seg_slot", seg_slot, None)
    expect_shape("seg_offset", seg_offset, seg_slot.numel() + 1)
    for name, tensor in (("seg_offset", seg_offset), ("seg_slot", seg_slot)):
        expect_dtype(name, tensor, torch.int32)
        expect_contiguous(name, tensor)
    if not can_read(seg_slot):
        return
    check_offsets("seg_offset", seg_offset, num_rows)
    slots = seg_slot.tolist()
    if slots and not (min(slots) >= -1 and max(slots) < num_slots):
        raise ShapeError(f"seg_slot must be -1 or a slot from 0 to {num_slots - 1}; got {slots}")


def check_module(
    x: torch.Tensor,
    out_features: int,
    a: torch.Tensor,
    b_t: torch.Tensor,
    rank_offset: torch.Tensor,
    scale: torch.Tensor,
    max_rank: int,
    col_begin: int,
) -> None:
    """Raises unless a module's bank takes x [T, I] and lies within the out_features columns of what it is added to."""
    expect_shape("a", a, None, x.shape[1])
    expect_shape("b_t", b_t, a.shape[0], None)
    if not 0 <= col_begin <= out_features - b_t.shape[1]:
        raise ShapeError(
            f"b_t must be of columns among the {out_features}; got {b_t.shape[1]} from column {col_begin} on"
        )
    expect_shape("scale", scale, rank_offset.numel() - 1)
    expect_dtype("scale", scale, torch.float32)
    for name, tensor in (("a", a), ("b_t", b_t)):
        expect_dtype(name, tensor, x.dtype)
        expect_contiguous(name, tensor)
    expect_contiguous("scale", scale)
    expect_device(x, a=a, b_t=b_t)
    expect_device_or_host(x, rank_offset=rank_offset, scale=scale)
    check_bank(rank_offset, a.shape[0], max_rank)


def check_modules(
    name: str,
    x: torch.Tensor,
    out_features: int,
    a: list[torch.Tensor],
    b_t: list[torch.Tensor],
    rank_offset: list[torch.Tensor],
    scale: list[torch.Tensor],
    max_rank: list[int],
    col_begin: list[int],
    seg_offset: torch.Tensor,
    seg_slot: torch.Tensor,
) -> None:
    """check_module of each module of the op `name`, and check_plan with the slots that all of them have."""
    if not a:
        raise ShapeError(f"{name} needs a bank of adapters; got none")
    if not len(a) == len(b_t) == len(rank_offset) == len(scale) == len(max_rank) == len(col_begin):
        raise ShapeError("every module needs its a, b_t, rank_offset, scale, max_rank and col_begin")
    expect_device_or_host(x, seg_offset=seg_offset, seg_slot=seg_slot)
    for bank in zip(a, b_t, rank_offset, scale, max_rank, col_begin, strict=True):
        check_module(x, out_features, *bank)
    check_plan(x.shape[0], min(offset.numel() for offset in rank_offset) - 1, seg_offset, seg_slot)
