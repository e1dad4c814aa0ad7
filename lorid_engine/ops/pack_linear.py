"""pack_linear: a weight in the layout that the CPU kernels stream, made once at load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lorid_engine.errors import BackendUnavailableError
from lorid_engine.ops import cpu, gpu
from lorid_engine.ops.checks import expect_floating, expect_rows, expect_shape
from lorid_engine.ops.dispatch import op

BLOCK_COLS = 32
Allocate = Callable[[tuple[int, ...], torch.dtype], torch.Tensor]  # a contiguous tensor with no contents


@dataclass(frozen=True)
class PackedLinear:
    """A weight ready for lora_linear.

    Attributes:
        data: bfloat16 [ceil(O / 32), ceil(I / 2), 32, 2] or float32 [ceil(O / 32), I, 32] blocks, zero past O and I; or the
            plain [O, I] where no backend has a layout of its own.
        out_features: O.
        in_features: I.
        bias: [O] float32 (float64 with a float64 weight), contiguous, or None.
    """

    data: torch.Tensor
    out_features: int
    in_features: int
    bias: torch.Tensor | None = None


def packed_shape(dtype: torch.dtype, out_features: int, in_features: int) -> tuple[int, ...]:
    """The shape of a weight's packed blocks."""
    blocks = -(-out_features // BLOCK_COLS)
    if dtype == torch.bfloat16:
        return (blocks, -(-in_features // 2), BLOCK_COLS, 2)
    return (blocks, in_features, BLOCK_COLS)


def unpack(data: torch.Tensor, out_features: int, in_features: int) -> torch.Tensor:
    """The weight [O, I] of packed or plain data: what the references multiply by."""
    if data.dim() == 2:
        return data
    if data.dim() == 4:
        data = data.permute(0, 2, 1, 3).reshape(data.shape[0] * BLOCK_COLS, -1)
    else:
        data = data.permute(0, 2, 1).reshape(data.shape[0] * BLOCK_COLS, -1)
    return data[:out_features, :in_features]


def _check(weight: torch.Tensor) -> None:
    expect_shape("weight", weight, None, None)
    expect_floating("weight", weight)
    expect_rows("weight", weight)


def _fake(weight: torch.Tensor) -> torch.Tensor:
    if gpu.takes(weight.device) or weight.device.type != "cpu" or weight.dtype not in cpu.DTYPES:
        return weight.new_empty(weight.shape)
    return weight.new_empty(packed_shape(weight.dtype, *weight.shape))


@op(check=_check, fake=_fake)
def _pack_linear(weight: torch.Tensor) -> torch.Tensor:
    """The blocks of a weight [O, I] as PackedLinear.data states; other dtypes and devices get a plain copy."""
    if gpu.takes(weight.device) or weight.dtype not in cpu.DTYPES:
        return weight.clone(memory_format=torch.contiguous_format)
    out_features, in_features = weight.shape
    shape = packed_shape(weight.dtype, out_features, in_features)
    padded = weight.new_zeros(shape[0] * BLOCK_COLS, shape[1] * (2 if len(shape) == 4 else 1))
    padded[:out_features, :in_features] = weight
    blocks = padded.reshape(shape[0], BLOCK_COLS, shape[1], -1).permute(0, 2, 1, 3)
    return blocks.reshape(shape).contiguous()


_pack_linear.backend("triton", why_not=gpu.why_not_tensors)(
    lambda weight: weight.clone(memory_format=torch.contiguous_format)  # its kernels read [O, I] as it is
)


@_pack_linear.backend("cpu", why_not=cpu.why_not_tensors)
def _cpu(weight: torch.Tensor) -> torch.Tensor:
    packed = weight.new_empty(packed_shape(weight.dtype, *weight.shape))
    _pack_into(packed, weight)
    return packed


def _pack_into(packed: torch.Tensor, weight: torch.Tensor) -> None:
    cpu.extension().pack_linear(
        dtype=cpu.dtype(weight),
        weight=weight.data_ptr(),
        weight_stride=weight.stride(0),
        out_features=weight.shape[0],
        in_features=weight.shape[1],
        packed=packed.data_ptr(),
        threads=cpu.op_threads(),
    )


def pack_linear(
    weight: torch.Tensor, bias: torch.Tensor | None = None, *, allocate: Allocate | None = None
) -> PackedLinear:
    """Packs a linear layer's weight, once, at load.

    Args:
        weight: [O, I] in the activations' dtype; rows may be strided, the last dimension is contiguous.
        bias: [O] floating point, or None.
        allocate: where the packed copy is to lie, for the C++ backend; by default torch's own memory.

    Returns:
        The packed copy; the weight itself is no longer needed.

    Raises:
        ShapeError: not a matrix of floating-point numbers, its last dimension is strided, or a bias that does not fit.
        BackendUnavailableError: with `allocate`, a weight that the C++ backend does not take.
    """
    if allocate is None:
        data = _pack_linear(weight)
    else:
        _check(weight)
        if (reason := cpu.why_not_tensors(weight)) is not None:
            raise BackendUnavailableError(f"pack_linear cannot write into memory of the C++ backend: {reason}")
        data = allocate(packed_shape(weight.dtype, *weight.shape), weight.dtype)
        _pack_into(data, weight)
    if bias is not None:
        expect_shape("bias", bias, weight.shape[0])
        expect_floating("bias", bias)
        bias = bias.to(weight.device, torch.float64 if weight.dtype == torch.float64 else torch.float32).contiguous()
    return PackedLinear(data, weight.shape[0], weight.shape[1], bias)
