"""packed_attention: causal attention of whole sequences that lie end to end, forward and backward: what training needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorid_engine.errors import ShapeError
from lorid_engine.ops import cpu, gpu, plain_torch
from lorid_engine.ops.checks import (
    check_offsets,
    expect_contiguous,
    expect_device,
    expect_dtype,
    expect_floating,
    expect_rows,
    expect_shape,
)
from lorid_engine.ops.dispatch import op

_MOST_HEAD_BYTES = 1024  # four tiles of them fit into the shared memory of every GPU


def _check(qkv, cos, sin, seq_offset, num_heads, num_kv_heads, window, max_len) -> None:
    expect_shape("qkv", qkv, None, None)
    expect_floating("qkv", qkv)
    expect_rows("qkv", qkv)
    heads = num_heads + 2 * num_kv_heads
    if num_kv_heads < 1 or num_heads < 1 or num_heads % num_kv_heads or not qkv.shape[1] or qkv.shape[1] % heads:
        raise ShapeError(
            f"qkv must have (H + 2 G) D columns, with H a multiple of G; got {qkv.shape[1]} for H = {num_heads} and "
            f"G = {num_kv_heads}"
        )
    if window < 0:
        raise ShapeError(f"window must be at least 0; got {window}")
    head_dim = qkv.shape[1] // heads
    if (cos is None) != (sin is None):
        raise ShapeError("cos and sin must both be given, or neither")
    if cos is not None and sin is not None:
        if head_dim % 2:
            raise ShapeError(f"head_dim must be even to be rotated; got {head_dim}")
        for name, table in (("cos", cos), ("sin", sin)):
            expect_shape(name, table, qkv.shape[0], head_dim // 2)
            expect_dtype(name, table, torch.float32)
            expect_contiguous(name, table)
        expect_device(qkv, cos=cos, sin=sin)
    expect_shape("seq_offset", seq_offset, None)
    expect_dtype("seq_offset", seq_offset, torch.int32)
    expect_contiguous("seq_offset", seq_offset)
    expect_device(qkv, seq_offset=seq_offset)
    if seq_offset.numel() == 0:
        raise ShapeError("seq_offset must have B + 1 entries; got none")
    if seq_offset.device.type == "cpu":
        check_offsets("seq_offset", seq_offset, qkv.shape[0])
        if max_len < (longest := _longest(seq_offset)):
            raise ShapeError(f"max_len must be at least that of the longest sequence, {longest}; got {max_len}")


def _longest(seq_offset: torch.Tensor) -> int:
    return int(seq_offset.diff().max()) if seq_offset.numel() > 1 else 0


def _fake(qkv, cos, sin, seq_offset, num_heads, num_kv_heads, window, max_len) -> torch.Tensor:
    return qkv.new_empty(qkv.shape[0], num_heads * (qkv.shape[1] // (num_heads + 2 * num_kv_heads)))


def _rotated(x: torch.Tensor, cos: torch.Tensor | None, sin: torch.Tensor | None) -> torch.Tensor:
    """Heads [L, H, D], whose halves are the pairs that are rotated."""
    if cos is None or sin is None:
        return x
    cos, sin = cos.to(x.dtype).unsqueeze(1), sin.to(x.dtype).unsqueeze(1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _attend(qkv, cos, sin, seq_offset, num_heads, num_kv_heads, window) -> torch.Tensor:
    """The maths in qkv's own dtype, one sequence after another."""
    head_dim = qkv.shape[1] // (num_heads + 2 * num_kv_heads)
    parts = [num_heads, num_kv_heads, num_kv_heads]
    outs = []
    for begin, end in zip(seq_offset.tolist(), seq_offset.tolist()[1:], strict=False):
        q, k, v = qkv[begin:end].unflatten(1, (-1, head_dim)).split(parts, dim=1)
        angles = [None if table is None else table[begin:end] for table in (cos, sin)]
        q, k = _rotated(q, *angles), _rotated(k, *angles)
        k, v = (x.repeat_interleave(num_heads // num_kv_heads, dim=1) for x in (k, v))
        back = torch.arange(end - begin, device=qkv.device)
        back = back.unsqueeze(1) - back
        hidden = (back < 0) | ((back >= window) if window else False)
        scores = torch.einsum("ihd,jhd->hij", q, k) * head_dim**-0.5
        outs.append(torch.einsum("hij,jhd->ihd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v).flatten(1))
    return torch.cat(outs) if outs else qkv.new_empty(0, num_heads * head_dim)


@op(check=_check, fake=_fake)
def _packed_attention(
    qkv: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    seq_offset: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
    window: int,
    max_len: int,
) -> torch.Tensor:
    """packed_attention, with all arguments by place."""
    return _attend(qkv.double(), cos, sin, seq_offset, num_heads, num_kv_heads, window).to(qkv.dtype)


def _check_backward(dout, *args) -> None:
    _check(*args)
    expect_shape("dout", dout, *_fake(*args).shape)
    expect_dtype("dout", dout, args[0].dtype)
    expect_rows("dout", dout)


@op(check=_check_backward, fake=lambda dout, qkv, *_: qkv.new_empty(qkv.shape))
def _packed_attention_backward(
    dout: torch.Tensor,
    qkv: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    seq_offset: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
    window: int,
    max_len: int,
) -> torch.Tensor:
    """The gradient of packed_attention with respect to qkv."""
    with torch.enable_grad():
        wide = qkv.detach().double().requires_grad_()
        out = _attend(wide, cos, sin, seq_offset, num_heads, num_kv_heads, window)
    if not out.numel():
        return torch.zeros_like(qkv)
    return torch.autograd.grad(out, wide, dout.double())[0].to(qkv.dtype)


def _why_not(qkv, cos, sin, seq_offset, num_heads, num_kv_heads, *_) -> str | None:
    head_dim = qkv.shape[1] // (num_heads + 2 * num_kv_heads)
    return cpu.why_not_heads(head_dim, num_heads // num_kv_heads) or cpu.why_not_tensors(qkv)


def _run_kernel(
    qkv, cos, sin, seq_offset, num_heads, num_kv_heads, window, max_len, *, out=None, dout=None, dqkv=None
) -> None:
    head_dim = qkv.shape[1] // (num_heads + 2 * num_kv_heads)
    places = {}
    for name, tensor in (("qkv", qkv), ("out", out), ("dout", dout), ("dqkv", dqkv)):
        places[name] = 0 if tensor is None else tensor.data_ptr()
        places[f"{name}_stride"] = 0 if tensor is None else tensor.stride(0)
    cpu.extension().training_attention(
        dtype=cpu.dtype(qkv),
        **places,
        cos=0 if cos is None else cos.data_ptr(),
        sin=0 if sin is None else sin.data_ptr(),
        offset=seq_offset.data_ptr(),
        num_sequences=seq_offset.numel() - 1,
        scale=head_dim**-0.5,
        window=window,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        threads=cpu.op_threads(),
    )


@_packed_attention.backend("cpu", why_not=_why_not)
def _cpu(*args) -> torch.Tensor:
    out = _fake(*args)
    _run_kernel(*args, out=out)
    return out


@_packed_attention_backward.backend("cpu", why_not=lambda dout, *args: _why_not(*args))
def _cpu_backward(dout, *args) -> torch.Tensor:
    dqkv = args[0].new_empty(args[0].shape)
    _run_kernel(*args, dout=dout, dqkv=dqkv)
    return dqkv


def _rotated_by_triton(qkv, cos, sin, num_heads, num_kv_heads) -> torch.Tensor:
    if cos is None or sin is None:
        return qkv
    from lorid_kernels.packed_attention import rotate

    out = qkv.new_empty(qkv.shape)
    head_dim = qkv.shape[1] // (num_heads + 2 * num_kv_heads)
    rotate(qkv, cos, sin, out, head_dim=head_dim, rotated_heads=num_heads + num_kv_heads)
    return out


def _why_not_triton(qkv, cos, sin, seq_offset, num_heads, num_kv_heads, *_) -> str | None:
    head_bytes = qkv.shape[1] // (num_heads + 2 * num_kv_heads) * qkv.element_size()
    if head_bytes > _MOST_HEAD_BYTES:
        return f"it takes heads of up to {_MOST_HEAD_BYTES} bytes; got {head_bytes}"
    return gpu.why_not_tensors(qkv)


@_packed_attention.backend("triton", why_not=_why_not_triton)
def _triton(qkv, cos, sin, seq_offset, num_heads, num_kv_heads, window, max_len) -> torch.Tensor:
    from lorid_kernels.packed_attention import packed_attention as launch

    out = _fake(qkv, cos, sin, seq_offset, num_heads, num_kv_heads, window, max_len)
    turned = _rotated_by_triton(qkv, cos, sin, num_heads, num_kv_heads)
    shape = dict(num_heads=num_heads, num_kv_heads=num_kv_heads, window=window, max_len=max_len)
    launch(turned, seq_offset, out, **shape)
    return out


@_packed_attention_backward.backend("triton", why_not=lambda dout, *args: _why_not_triton(*args))
def _triton_backward(dout, qkv, cos, sin, seq_offset, num_heads, num_kv_heads, window, max_len) -> torch.Tensor:
    from lorid_kernels.packed_attention import packed_attention_backward as launch
    from lorid_kernels.packed_attention import rotate

    dqkv = qkv.new_empty(qkv.shape)
    turned = _rotated_by_triton(qkv, cos, sin, num_heads, num_kv_heads)
    shape = dict(num_heads=num_heads, num_kv_heads=num_kv_heads, window=window, max_len=max_len)
    launch(dout, turned, seq_offset, dqkv, **shape)
    if cos is not None and sin is not None:  # the gradient of a rotation is the rotation back
        head_dim = qkv.shape[1] // (num_heads + 2 * num_kv_heads)
        rotate(dqkv, cos, sin, dqkv, head_dim=head_dim, rotated_heads=num_heads + num_kv_heads, back=True)
    return dqkv


@dataclass(frozen=True)
class _Padding:
    """Sequences of at most so many rows, each at the start of as many rows."""

    row: torch.Tensor
    num_sequences: int
    max_len: int

    @classmethod
    def of(cls, rows: int, seq_offset: torch.Tensor, max_len: int) -> _Padding:
        count, device = seq_offset.numel() - 1, seq_offset.device
        first = torch.arange(count, device=device) * max_len - seq_offset[:-1]  # added to a row's number
        first = first.repeat_interleave(seq_offset.diff(), output_size=rows)
        return cls(first + torch.arange(rows, device=device), count, max_len)

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """[T, C] as [B, L, C]."""
        padded = x.new_zeros(self.num_sequences * self.max_len, x.shape[1])
        return padded.index_copy_(0, self.row, x).view(self.num_sequences, self.max_len, -1)

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        """[B, L, C] as [T, C]."""
        return x.flatten(0, 1).index_select(0, self.row)


def _turned(qkv, cos, sin, num_heads, num_kv_heads) -> torch.Tensor:
    """[T, (H + 2 G) D], queries and keys rotated in float32."""
    if cos is None or sin is None:
        return qkv
    head_dim = qkv.shape[1] // (num_heads + 2 * num_kv_heads)
    columns = (num_heads + num_kv_heads) * head_dim
    turned = _rotated(qkv[:, :columns].unflatten(1, (-1, head_dim)).float(), cos, sin)
    return torch.cat([turned.flatten(1).to(qkv.dtype), qkv[:, columns:]], dim=1)


def _attend_padded(qkv, num_heads, num_kv_heads, window) -> torch.Tensor:
    """Attention over [B, L, (H + 2 G) D] that is rotated already, [B, L, H D]. What is after a row cannot change it."""
    heads = qkv.unflatten(2, (num_heads + 2 * num_kv_heads, -1)).transpose(1, 2)
    q, k, v = heads.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
    k, v = (x.repeat_interleave(num_heads // num_kv_heads, dim=1) for x in (k, v))
    seen = None
    if 0 < window < qkv.shape[1]:
        seen = torch.ones(qkv.shape[1], qkv.shape[1], dtype=torch.bool, device=qkv.device).tril().triu(1 - window)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None)
    return out.transpose(1, 2).flatten(2)


@_packed_attention.backend("torch", why_not=lambda qkv, *_: plain_torch.why_not_tensors(qkv))
def _torch(qkv, cos, sin, seq_offset, num_heads, num_kv_heads, window, max_len) -> torch.Tensor:
    if not qkv.shape[0]:
        return qkv.new_empty(0, num_heads * (qkv.shape[1] // (num_heads + 2 * num_kv_heads)))
    padding = _Padding.of(qkv.shape[0], seq_offset, max_len)
    padded = padding.pad(_turned(qkv, cos, sin, num_heads, num_kv_heads))
    return padding.cut(_attend_padded(padded, num_heads, num_kv_heads, window))


@_packed_attention_backward.backend("torch", why_not=lambda dout, qkv, *_: plain_torch.why_not_tensors(qkv))
def _torch_backward(dout, qkv, cos, sin, seq_offset, num_heads, num_kv_heads, window, max_len) -> torch.Tensor:
    if not qkv.shape[0]:
        return torch.empty_like(qkv)
    padding = _Padding.of(qkv.shape[0], seq_offset, max_len)
    padded = padding.pad(_turned(qkv, cos, sin, num_heads, num_kv_heads)).detach().requires_grad_()
    with torch.enable_grad():
        out = _attend_padded(padded, num_heads, num_kv_heads, window)
    [grad] = torch.autograd.grad(out, padded, padding.pad(dout))
    return _turned(padding.cut(grad), cos, None if sin is None else -sin, num_heads, num_kv_heads)


def _save(ctx, inputs, output) -> None:
    qkv, cos, sin, seq_offset, *ctx.numbers = inputs
    ctx.save_for_backward(qkv, cos, sin, seq_offset)


def _backward(ctx, dout):
    return _packed_attention_backward(dout.contiguous(), *ctx.saved_tensors, *ctx.numbers), *[None] * 7


_packed_attention.differentiable(_backward, _save)


def packed_attention(
    qkv: torch.Tensor,
    seq_offset: torch.Tensor,
    *,
    num_heads: int,
    num_kv_heads: int,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    window: int = 0,
    max_len: int | None = None,
) -> torch.Tensor:
    """Causal attention (Vaswani et al., arXiv 1706.03762) of every sequence over itself, after rotary embedding of q and k.

    Only q, k and v are kept for the backward pass; scores exist for a few queries at a time.

    Args:
        qkv: [T, (H + 2 G) D], each row's query heads, key heads and value heads; rows may be strided.
        seq_offset: [B + 1] int32, from 0 to T: sequence b is rows seq_offset[b] to seq_offset[b + 1].
        num_heads: H, a multiple of G: query head h sees key-value head h // (H / G).
        num_kv_heads: G.
        cos, sin: [T, D / 2] float32 of each row's position, whose pairs are a head's two halves; None = not rotated.
        window: how many keys a row sees, its own included; 0 = all before it.
        max_len: no sequence has more rows; None = read from seq_offset, which waits for a GPU.

    Returns:
        [T, H D] in qkv's dtype, summed in float32, rounded once; on a GPU what is rotated, probabilities and their gradients are
        rounded to qkv's dtype, too, where they are multiplied. Gradients go to qkv.

    Raises:
        ShapeError: shapes, dtypes or devices disagree, or the offsets do not cover the rows in order.
    """
    longest = _longest(seq_offset) if max_len is None else max_len
    return _packed_attention(qkv, cos, sin, seq_offset, num_heads, num_kv_heads, window, longest)
