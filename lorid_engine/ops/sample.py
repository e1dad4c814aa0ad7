"""sample: one token from every row of logits, with counter-based randomness."""

from __future__ import annotations

import torch

from lorid_engine.errors import ShapeError
from lorid_engine.ops import cpu, gpu
from lorid_engine.ops.checks import expect_contiguous, expect_device, expect_dtype, expect_rows, expect_shape
from lorid_engine.ops.dispatch import op

Drawn = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def philox(key: int, sample: int, position: int) -> tuple[int, int, int, int]:
    """Philox4x32-10 (Salmon et al., SC 2011) with counter (sample, position, 0, 0) and a 64-bit key: four 32-bit words."""
    c0, c1, c2, c3 = sample, position, 0, 0
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & 0xFFFFFFFF, (first >> 32) ^ c3 ^ k1, first & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def _check(logits, philox_key, philox_counter, temperature, top_k, top_p, num_logprobs) -> None:
    expect_shape("logits", logits, None, None)
    expect_dtype("logits", logits, torch.float32)
    expect_rows("logits", logits)
    rows = logits.shape[0]
    expect_shape("philox_key", philox_key, rows)
    expect_shape("philox_counter", philox_counter, rows, 2)
    expected = {"philox_key": torch.int64, "philox_counter": torch.int64}
    given = {"philox_key": philox_key, "philox_counter": philox_counter}
    for name, tensor, dtype in (("temperature", temperature, torch.float32), ("top_k", top_k, torch.int32)):
        expect_shape(name, tensor, rows)
        expected[name], given[name] = dtype, tensor
    expect_shape("top_p", top_p, rows)
    expected["top_p"], given["top_p"] = torch.float32, top_p
    for name, tensor in given.items():
        expect_dtype(name, tensor, expected[name])
        expect_contiguous(name, tensor)
    expect_device(logits, **given)
    if not -1 <= num_logprobs <= logits.shape[1]:
        raise ShapeError(f"num_logprobs must be from -1 to V = {logits.shape[1]}; got {num_logprobs}")
    if logits.shape[1] == 0:
        raise ShapeError("logits must have a column for each token; got none")
    if logits.device.type == "cpu" and rows:
        if not bool(((temperature >= 0) & temperature.isfinite()).all()):
            raise ShapeError(f"temperature must be 0 or more and finite; got {temperature.tolist()}")
        if int(philox_counter.min()) < 0 or int(philox_counter.max()) >= 2**32:
            raise ShapeError(f"philox_counter must be from 0 to 2^32 - 1; got {philox_counter.tolist()}")
        if not bool(((top_p > 0) & (top_p <= 1)).all()):
            raise ShapeError(f"top_p must be above 0 and at most 1; got {top_p.tolist()}")


def _fake(logits, philox_key, philox_counter, temperature, top_k, top_p, num_logprobs) -> Drawn:
    rows, count = (logits.shape[0] if num_logprobs >= 0 else 0), max(num_logprobs, 0)
    return (
        logits.new_empty(logits.shape[0], dtype=torch.int32),
        logits.new_empty(rows),
        logits.new_empty(rows, dtype=torch.int32),
        logits.new_empty(rows, count, dtype=torch.int32),
        logits.new_empty(rows, count),
    )


def _draw(logits, key, sample, position, temperature, top_k, top_p) -> int:
    logits = logits.double().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    most = logits.max()
    if most == -torch.inf:
        return -1
    best = int((logits == most).nonzero()[0])
    if temperature == 0 or most == torch.inf:
        return best
    words = philox(key, sample, position)
    uniform = (words[0] << 21 | words[1] >> 11) * 2.0**-53
    weights = ((logits - most) / temperature).exp()
    ids = torch.arange(logits.numel())
    if 0 < top_k < logits.numel() or top_p < 1:
        ids = logits.sort(descending=True, stable=True).indices
        ids = ids[:top_k] if top_k > 0 else ids
        reached = weights[ids].cumsum(0)
        ids = ids[: int((reached < top_p * reached[-1]).sum()) + 1]
    reached = weights[ids].cumsum(0)
    return int(ids[min(int((reached <= uniform * reached[-1]).sum()), ids.numel() - 1)])


@op(check=_check, fake=_fake)
def sample(
    logits: torch.Tensor,
    philox_key: torch.Tensor,
    philox_counter: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    num_logprobs: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draws a token from every row: temperature, then the top_k largest, then the fewest of those that hold top_p.

    The draw inverts the cumulative sum of what is left, largest first (in the order of ids where nothing is cut off), at a
    53-bit number from Philox4x32-10; equal logits count in the order of ids. A row's token depends on its own row alone.

    Args:
        logits: [K, V] float32; a NaN counts as impossible.
        philox_key: [K] int64, the 64-bit key.
        philox_counter: [K, 2] int64: sample, position; each below 2^32.
        temperature: [K] float32, finite; 0 takes the largest logit.
        top_k: [K] int32; 0 or less = all.
        top_p: [K] float32, above 0; 1 = all.
        num_logprobs: how many of the largest to report; -1 = no log-probabilities at all.

    Returns:
        token_ids [K] int32 (-1 where no logit is a number), and of the unscaled logits, empty if num_logprobs is -1:
        logprob [K] and rank [K] (from 1) of the token, top_ids and top_logprobs [K, num_logprobs].

    Raises:
        ShapeError: shapes, dtypes or devices disagree, or a parameter is out of range.
    """
    rows = zip(
        logits,
        philox_key.tolist(),
        philox_counter.tolist(),
        temperature.tolist(),
        top_k.tolist(),
        top_p.tolist(),
        strict=True,
    )
    ids = [
        _draw(row, key % 2**64, counter[0], counter[1], heat, k, torch.tensor(p, dtype=torch.float32).item())
        for row, key, counter, heat, k, p in rows
    ]
    token_ids = torch.tensor(ids, dtype=torch.int32)
    if num_logprobs < 0:
        return (token_ids, *_fake(logits, philox_key, philox_counter, temperature, top_k, top_p, num_logprobs)[1:])
    logprobs = logits.double().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).log_softmax(dim=1)
    drawn = logprobs.gather(1, token_ids.long().clamp(min=0).unsqueeze(1))
    top = logprobs.sort(dim=1, descending=True, stable=True)
    return (
        token_ids,
        drawn.squeeze(1).float(),
        ((logprobs > drawn).sum(dim=1) + 1).int(),
        top.indices[:, :num_logprobs].int().contiguous(),
        top.values[:, :num_logprobs].float().contiguous(),
    )


@sample.backend("cpu", why_not=lambda logits, *_: cpu.why_not_tensors(logits))
def _cpu(logits, philox_key, philox_counter, temperature, top_k, top_p, num_logprobs) -> Drawn:
    drawn = _fake(logits, philox_key, philox_counter, temperature, top_k, top_p, num_logprobs)
    names = ("out_token_ids", "out_logprob", "out_rank", "out_top_ids", "out_top_logprobs")
    arrays = {name: tensor.numpy() for name, tensor in zip(names, drawn, strict=True)}
    arrays |= {"temperature": temperature.numpy(), "top_k": top_k.numpy(), "top_p": top_p.numpy()}
    arrays["philox_key"] = philox_key.numpy().view("uint64")
    arrays["philox_counter"] = philox_counter.numpy().astype("uint32")
    cpu.extension().sample(
        logits=logits.data_ptr(),
        logits_stride=logits.stride(0),
        vocabulary=logits.shape[1],
        arrays={**arrays, "num_logprobs": num_logprobs},
        threads=cpu.op_threads(),
    )
    return drawn


@sample.backend("triton", why_not=lambda logits, *_: gpu.why_not_tensors(logits))
def _triton(logits, philox_key, philox_counter, temperature, top_k, top_p, num_logprobs) -> Drawn:
    from lorid_kernels.sample import log_probs
    from lorid_kernels.sample import sample as launch

    drawn = _fake(logits, philox_key, philox_counter, temperature, top_k, top_p, num_logprobs)
    launch(logits, philox_key, philox_counter, temperature, top_k, top_p, drawn[0])
    return drawn if num_logprobs < 0 else (drawn[0], *log_probs(logits, drawn[0], num_logprobs))
