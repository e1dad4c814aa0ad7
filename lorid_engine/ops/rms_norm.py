"""rms_norm: root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467)."""

from __future__ import annotations

import torch

from lorid_engine.errors import ShapeError
from lorid_engine.ops import cpu, gpu, plain_torch
from lorid_engine.ops.checks import expect_device, expect_dtype, expect_floating, expect_rows, expect_shape
from lorid_engine.ops.dispatch import op


def _check(x, weight, epsilon) -> None:
    expect_shape("x", x, None, None)
    expect_floating("x", x)
    expect_rows("x", x)
    expect_shape("weight", weight, x.shape[1])
    expect_floating("weight", weight)
    expect_device(x, weight=weight)


def _fake(x, weight, epsilon) -> torch.Tensor:
    return x.new_empty(x.shape)


@op(check=_check, fake=_fake)
def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Scales every row to unit root mean square, then by the weight, rounding once.

        y[t, i] = weight[i] x[t, i] / sqrt(mean over i of x[t, i]^2 + epsilon)

    Args:
        x: [T, E]; rows may be strided, the last dimension is contiguous.
        weight: [E] in any floating dtype.
        epsilon: added to the mean.

    Returns:
        [T, E] in x's dtype, computed in float32.

    Raises:
        ShapeError: shapes or devices disagree.
    """
    wide = x.double()
    scaled = wide / (wide.square().mean(dim=1, keepdim=True) + epsilon).sqrt()
    return (scaled * weight.double()).to(x.dtype)


@rms_norm.backend("cpu", why_not=lambda x, weight, epsilon: cpu.why_not_tensors(x))
def _cpu(x, weight, epsilon) -> torch.Tensor:
    y = x.new_empty(x.shape)
    wide_weight = weight.float().contiguous()
    cpu.extension().rms_norm(
        dtype=cpu.dtype(x),
        x=x.data_ptr(),
        x_stride=x.stride(0),
        weight=wide_weight.data_ptr(),
        epsilon=epsilon,
        rows=x.shape[0],
        features=x.shape[1],
        y=y.data_ptr(),
        y_stride=x.shape[1],
        threads=cpu.op_threads(),
    )
    return y


@rms_norm.backend("triton", why_not=lambda x, weight, epsilon: gpu.why_not_tensors(x))
def _triton(x, weight, epsilon) -> torch.Tensor:
    from lorid_kernels.rms_norm import rms_norm as launch

    y = x.new_empty(x.shape)
    launch(x, weight.float().contiguous(), epsilon, y)
    return y


@rms_norm.backend("torch", why_not=lambda x, weight, epsilon: plain_torch.why_not_tensors(x))
def _torch(x, weight, epsilon) -> torch.Tensor:
    wide = x.float()
    inverse = (wide.square().mean(1, keepdim=True) + epsilon).rsqrt()
    return (wide * inverse * weight.float()).to(x.dtype)


def _check_backward(dy, x, weight, epsilon) -> None:
    _check(x, weight, epsilon)
    expect_shape("dy", dy, *x.shape)
    expect_dtype("dy", dy, x.dtype)
    expect_rows("dy", dy)
    expect_device(x, dy=dy)


@op(check=_check_backward, fake=lambda dy, x, weight, epsilon: x.new_empty(x.shape))
def _rms_norm_backward(dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The gradient of rms_norm with respect to x."""
    wide, g = x.double(), dy.double() * weight.double()
    inverse = (wide.square().mean(1, keepdim=True) + epsilon).rsqrt()
    return (inverse * g - wide * inverse**3 * (g * wide).mean(1, keepdim=True)).to(x.dtype)


@_rms_norm_backward.backend("cpu", why_not=lambda dy, x, weight, epsilon: cpu.why_not_tensors(x))
def _cpu_backward(dy, x, weight, epsilon) -> torch.Tensor:
    dx, weight = x.new_empty(x.shape), weight.float().contiguous()
    cpu.extension().rms_norm_backward(
        dtype=cpu.dtype(x),
        x=x.data_ptr(),
        x_stride=x.stride(0),
        weight=weight.data_ptr(),
        epsilon=epsilon,
        dy=dy.data_ptr(),
        dy_stride=dy.stride(0),
        rows=x.shape[0],
        features=x.shape[1],
        dx=dx.data_ptr(),
        dx_stride=dx.stride(0),
        threads=cpu.op_threads(),
    )
    return dx


@_rms_norm_backward.backend("triton", why_not=lambda dy, x, weight, epsilon: gpu.why_not_tensors(x))
def _triton_backward(dy, x, weight, epsilon) -> torch.Tensor:
    from lorid_kernels.rms_norm import rms_norm_backward as launch

    dx = x.new_empty(x.shape)
    launch(dy, x, weight.float().contiguous(), epsilon, dx)
    return dx


@_rms_norm_backward.backend("torch", why_not=lambda dy, x, weight, epsilon: plain_torch.why_not_tensors(x))
def _torch_backward(dy, x, weight, epsilon) -> torch.Tensor:
    wide, g = x.float(), dy.float() * weight.float()
    inverse = (wide.square().mean(1, keepdim=True) + epsilon).rsqrt()
    unit = wide * inverse
    return (inverse * (g - unit * (g * unit).mean(1, keepdim=True))).to(x.dtype)


def _save(ctx, inputs, output) -> None:
    x, weight, ctx.epsilon = inputs
    if weight.requires_grad:
        raise ShapeError("rms_norm has no gradient for its weight, which must not require one")
    ctx.save_for_backward(x, weight)


def _backward(ctx, dy):
    return _rms_norm_backward(dy.contiguous(), *ctx.saved_tensors, ctx.epsilon), None, None


rms_norm.differentiable(_backward, _save)
