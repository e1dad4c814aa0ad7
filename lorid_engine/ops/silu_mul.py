"""silu_mul: the gate of a SwiGLU feed-forward layer (Shazeer, arXiv 2002.05202)."""

from __future__ import annotations

import torch

from lorid_engine.errors import ShapeError
from lorid_engine.ops import cpu, gpu, plain_torch
from lorid_engine.ops.checks import expect_device, expect_dtype, expect_floating, expect_rows, expect_shape
from lorid_engine.ops.dispatch import op


def _check(x) -> None:
    expect_shape("x", x, None, None)
    expect_floating("x", x)
    expect_rows("x", x)
    if x.shape[1] % 2:
        raise ShapeError(f"x must hold gate and up side by side, an even number of columns; got {x.shape[1]}")


def _fake(x) -> torch.Tensor:
    return x.new_empty(x.shape[0], x.shape[1] // 2)


@op(check=_check, fake=_fake)
def silu_mul(x: torch.Tensor) -> torch.Tensor:
    """Multiplies the up half of every row by the SiLU of its gate half, rounding once.

        y[t, f] = x[t, f] / (1 + exp(-x[t, f])) * x[t, F + f]

    Args:
        x: [T, 2 F]: gate, then up; rows may be strided, the last dimension is contiguous.

    Returns:
        [T, F] in x's dtype, computed in float32. (The backend torch rounds SiLU to x's dtype, too, before the product.)

    Raises:
        ShapeError: an odd number of columns, or a strided last dimension.
    """
    gate, up = x.double().chunk(2, dim=1)
    return (torch.nn.functional.silu(gate) * up).to(x.dtype)


@silu_mul.backend("cpu", why_not=cpu.why_not_tensors)
def _cpu(x) -> torch.Tensor:
    y = x.new_empty(x.shape[0], x.shape[1] // 2)
    cpu.extension().silu_mul(
        dtype=cpu.dtype(x),
        x=x.data_ptr(),
        x_stride=x.stride(0),
        rows=x.shape[0],
        features=y.shape[1],
        y=y.data_ptr(),
        y_stride=y.shape[1],
        threads=cpu.op_threads(),
    )
    return y


@silu_mul.backend("triton", why_not=gpu.why_not_tensors)
def _triton(x) -> torch.Tensor:
    from lorid_kernels.silu_mul import silu_mul as launch

    y = x.new_empty(x.shape[0], x.shape[1] // 2)
    launch(x, y)
    return y


@silu_mul.backend("torch", why_not=plain_torch.why_not_tensors)
def _torch(x) -> torch.Tensor:
    gate, up = x.chunk(2, dim=1)
    return torch.nn.functional.silu(gate) * up


def _check_backward(dy, x) -> None:
    _check(x)
    expect_shape("dy", dy, x.shape[0], x.shape[1] // 2)
    expect_dtype("dy", dy, x.dtype)
    expect_rows("dy", dy)
    expect_device(x, dy=dy)


@op(check=_check_backward, fake=lambda dy, x: x.new_empty(x.shape))
def _silu_mul_backward(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The gradient of silu_mul with respect to x."""
    gate, up = x.double().chunk(2, dim=1)
    sigmoid = gate.sigmoid()
    dgate = dy.double() * up * sigmoid * (1 + gate * (1 - sigmoid))
    return torch.cat([dgate, dy.double() * gate * sigmoid], dim=1).to(x.dtype)


@_silu_mul_backward.backend("cpu", why_not=lambda dy, x: cpu.why_not_tensors(x))
def _cpu_backward(dy, x) -> torch.Tensor:
    dx = x.new_empty(x.shape)
    cpu.extension().silu_mul_backward(
        dtype=cpu.dtype(x),
        x=x.data_ptr(),
        x_stride=x.stride(0),
        dy=dy.data_ptr(),
        dy_stride=dy.stride(0),
        rows=x.shape[0],
        features=dy.shape[1],
        dx=dx.data_ptr(),
        dx_stride=dx.stride(0),
        threads=cpu.op_threads(),
    )
    return dx


@_silu_mul_backward.backend("triton", why_not=lambda dy, x: gpu.why_not_tensors(x))
def _triton_backward(dy, x) -> torch.Tensor:
    from lorid_kernels.silu_mul import silu_mul_backward as launch

    dx = x.new_empty(x.shape)
    launch(dy, x, dx)
    return dx


@_silu_mul_backward.backend("torch", why_not=lambda dy, x: plain_torch.why_not_tensors(x))
def _torch_backward(dy, x) -> torch.Tensor:
    dx = x.new_empty(x.shape)
    (gate, up), (dgate, dup) = x.chunk(2, dim=1), dx.chunk(2, dim=1)
    torch.ops.aten.silu_backward.grad_input(dy * up, gate, grad_input=dgate)
    torch.mul(dy, torch.nn.functional.silu(gate), out=dup)
    return dx


silu_mul.differentiable(
    lambda ctx, dy: _silu_mul_backward(dy.contiguous(), *ctx.saved_tensors),
    lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)
