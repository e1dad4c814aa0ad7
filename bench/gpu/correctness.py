"""Whether the kernels are right on this device: errors against float64, other rows' NaNs, and bits that never change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from baselines import cublas
from rig import WEIGHT_STD, Bank, Rig, random_bank
from session import Session
from sizes import with_layers

from lorid_engine.model.device_forward import DeviceForward, plain
from lorid_engine.ops import AdapterBank, SegmentPlan, lora_expand, lora_linear, lora_shrink
from lorid_engine.ops.kv_pages import PAGE_TOKENS
from lorid_kernels.lora_linear import MOST_MIXED_ROWS, num_splits
from lorid_kernels.lora_linear import lora_linear as launch_linear
from lorid_kernels.lora_shrink import shrink_for_linear
from lorid_kernels.paged_attention import paged_attention
from lorid_kernels.rms_norm import rms_norm
from lorid_kernels.segments import Adapters, Segments
from lorid_kernels.tuning import bucket

MOST_ERROR = 6e-3  # of a product's norm: two roundings to bfloat16 make 2.4e-3
MOST_STEP_ERROR = 5e-2  # of the logits' norm, against linears by cuBLAS: two models that round differently
SEGMENTS = 4


def check_all(session: Session) -> None:
    """Every check; each that fails is a failure of the run."""
    _check_ops(session)
    _check_linear_bits(session)
    session.guard("rms_norm", lambda: _check_norm(session))
    session.guard("attention", lambda: _check_attention(session))
    session.guard("step", lambda: _check_steps(session))


def _verify(session: Session, kind: str, name: str, check: Callable[[], tuple[bool, str]], **about: object) -> None:
    """Runs a check if it is this process's, and records it."""
    if not session.is_mine(kind):
        return
    if session.left <= 0:
        session.refuse(name, "no time left", **about)
        return

    def work() -> None:
        ok, detail = check()
        session.failures += not ok
        session.record(name, **about, ok=ok, detail=detail)

    session.guard(name, work, **about)


def _error(got: torch.Tensor, exact: torch.Tensor) -> float:
    """The norm of the difference over the norm of what is exact; infinite where a number is missing."""
    if not torch.isfinite(got).all():
        return float("inf")
    return float((got.double() - exact).norm() / exact.norm().clamp(min=1e-300))


def _same(session: Session, one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the bits are equal; nearly so in a dry run, whose products are numpy's and round by where a row lies."""
    if session.job.dry:
        return torch.allclose(one, other, rtol=1e-3, atol=1e-4)
    return torch.equal(one, other)


def _draw(session: Session, *shape: int, std: float = 1.0) -> torch.Tensor:
    return torch.empty(shape, dtype=session.dtype, device=session.device).normal_(0, std)


# Ops against float64


def mixed_slots(rows: int) -> list[int]:
    """Four runs: slots 0, -1, 1 and 2; with few rows fewer."""
    return [(0, -1, 1, 2)[row * 4 // rows] for row in range(rows)]


def _check_ops(session: Session) -> None:
    sizes = session.sizes
    in_features, out_features = sizes.check_features
    for rank in sizes.check_ranks:
        matrices = [
            (_draw(session, rank, in_features), _draw(session, out_features, rank), scale) for scale in (0.5, 2.0, 1.0)
        ]
        bank = AdapterBank.from_tensors([(a * WEIGHT_STD, b * WEIGHT_STD, scale) for a, b, scale in matrices])
        weight = _draw(session, out_features, in_features, std=WEIGHT_STD)
        for rows in sizes.check_rows:
            kind = f"ops {bucket(rows)} {rank <= 64} {rows == 1}"
            for name, check in (("lora_linear", _linear_error), ("shrink + expand", _products_error)):
                _verify(
                    session,
                    kind,
                    name,
                    lambda check=check, rows=rows, weight=weight, bank=bank: check(session, rows, weight, bank),
                    rank=rank,
                    rows=rows,
                )
            if rows > 1:
                _verify(
                    session,
                    kind,
                    "NaN does not leak",
                    lambda rows=rows, weight=weight, bank=bank: _no_leak(session, rows, weight, bank),
                    rank=rank,
                    rows=rows,
                )


def _exact_share(x: torch.Tensor, bank: AdapterBank, slots: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A x and scale B A x in float64."""
    offset, scale = bank.rank_offset.tolist(), bank.scale.tolist()
    shrunk = x.new_zeros(x.shape[0], bank.max_rank, dtype=torch.float64)
    share = x.new_zeros(x.shape[0], bank.b_t.shape[1], dtype=torch.float64)
    for row, slot in enumerate(slots):
        if slot >= 0:
            ranks = slice(offset[slot], offset[slot + 1])
            shrunk[row, : offset[slot + 1] - offset[slot]] = bank.a[ranks].double() @ x[row].double()
            share[row] = scale[slot] * (shrunk[row, : offset[slot + 1] - offset[slot]] @ bank.b_t[ranks].double())
    return shrunk, share


def _linear_error(session: Session, rows: int, weight: torch.Tensor, bank: AdapterBank) -> tuple[bool, str]:
    slots = mixed_slots(rows)
    plan = SegmentPlan.from_slots(slots, session.device)
    x = _draw(session, rows, weight.shape[1])
    y = lora_linear(x, plain(weight, None), bank, plan)
    again = lora_linear(x, plain(weight, None), bank, plan)
    error = _error(y, x.double() @ weight.double().t() + _exact_share(x, bank, slots)[1])
    same = _same(session, y, again)
    return error <= MOST_ERROR and same, f"error {error:.2e}, run to run {'equal' if same else 'DIFFERENT'}"


def _products_error(session: Session, rows: int, weight: torch.Tensor, bank: AdapterBank) -> tuple[bool, str]:
    slots = mixed_slots(rows)
    plan = SegmentPlan.from_slots(slots, session.device)
    has = torch.tensor(slots, device=session.device) >= 0
    x = _draw(session, rows, weight.shape[1])
    shrunk = lora_shrink(x, bank, plan)
    exact, share = _exact_share(x, bank, slots)
    base = torch.zeros(rows, weight.shape[0], dtype=session.dtype, device=session.device)
    base[~has] = 7.0
    y = base.clone()
    lora_expand(y, shrunk, bank, plan)
    errors = _error(shrunk[has], exact[has]), _error(y[has], share[has])
    kept = torch.equal(y[~has], base[~has])
    ok = max(errors) <= MOST_ERROR and kept
    return ok, f"errors {errors[0]:.2e} and {errors[1]:.2e}, rows without adapters {'kept' if kept else 'CHANGED'}"


def _no_leak(session: Session, rows: int, weight: torch.Tensor, bank: AdapterBank) -> tuple[bool, str]:
    """Rows of slot 0 are NaN, and so is all of slot 1's B: rows of other slots keep their bits."""
    slots = torch.tensor(mixed_slots(rows))
    plan = SegmentPlan.from_slots(slots.tolist(), session.device)
    x = _draw(session, rows, weight.shape[1])
    clean = lora_linear(x, plain(weight, None), bank, plan)
    x[(slots == 0).to(x.device)] = float("nan")
    offset = bank.rank_offset.tolist()
    b_t = bank.b_t.clone()
    b_t[offset[1] : offset[2]] = float("nan")
    spoiled = AdapterBank(bank.a, b_t, bank.rank_offset, bank.scale, bank.max_rank)
    y = lora_linear(x, plain(weight, None), spoiled, plan)
    others = ((slots == -1) | (slots == 2)).to(x.device)
    ok = torch.equal(y[others], clean[others])
    return ok, f"{int(others.sum())} rows of others {'keep their bits' if ok else 'CHANGED'}"


# Bits of linears


def _check_linear_bits(session: Session) -> None:
    sizes = session.sizes
    for out_features, in_features in sizes.bits_weights:
        for rank in sizes.bits_ranks:
            _verify(
                session,
                f"bits {rank} {num_splits(out_features, in_features) > 1}",
                "bits of lora_linear",
                lambda o=out_features, i=in_features, r=rank: _linear_bits(session, o, i, r),
                weight=f"{out_features}x{in_features}",
                rank=rank,
            )


def _linear_bits(session: Session, out_features: int, in_features: int, rank: int) -> tuple[bool, str]:
    """The last row of batches of any size, by planes and by whole sums, with and without a second run."""
    most = max(session.sizes.bits_rows)
    weight = _draw(session, out_features, in_features, std=WEIGHT_STD)
    x = _draw(session, most, in_features)
    adapters = _adapters(session, rank, in_features, out_features) if rank else None
    wrong, count, alone = [], 0, {}
    for rows in session.sizes.bits_rows:
        mine = x[most - rows :]  # the last row is in every batch, and has slot 2
        for form, y in _products(mine, weight, adapters):
            again = dict(_products(mine, weight, adapters))[form]
            count += 1
            if not _same(session, y, again):
                wrong.append(f"{rows} rows, {form}: run to run")
            # Rows that every batch has: the last, and in batches of more than one the one before it.
            alone.setdefault("last", y[-1])
            if not _same(session, y[-1], alone["last"]):
                wrong.append(f"{rows} rows, {form}")
    return not wrong, "; ".join(wrong[:6]) or f"{count} products alike"


def _products(x: torch.Tensor, weight: torch.Tensor, adapters: Adapters | None) -> list[tuple[str, torch.Tensor]]:
    """W x and the shares: whole sums, and the sums of planes where the weight is cut. The last row has slot 2."""
    rows, (out_features, in_features) = x.shape[0], weight.shape
    more: tuple[object, ...] = ()
    if adapters is not None:
        cuts = [0, rows // 4, rows // 2, rows - max(rows // 4, 1), rows]
        segments = Segments(*(torch.tensor(each, dtype=torch.int32, device=x.device) for each in (cuts, [0, -1, 1, 2])))
        more = adapters, segments, shrink_for_linear(x, adapters, segments)
    whole = x.new_empty(rows, out_features, dtype=torch.float32)
    launch_linear(x, weight, None, whole, *more)
    found = [("whole", whole)]
    splits = num_splits(out_features, in_features)
    if splits > 1:
        planes = x.new_empty(splits, rows, out_features, dtype=torch.float32)
        written = launch_linear(x, weight, None, planes, *more)
        assert written == (splits if rows <= MOST_MIXED_ROWS else 1)
        total = planes[0].clone()
        for plane in planes[1:written]:
            total += plane
        found.append(("planes", total))
    return found


def _adapters(session: Session, rank: int, in_features: int, out_features: int) -> Adapters:
    """Three adapters of one module, by offset as an engine has them."""
    memory = _draw(session, 3, rank, in_features + out_features, std=WEIGHT_STD).view(3, -1)
    starts = torch.arange(3, dtype=torch.int64).view(1, 3) * memory.shape[1]
    device = session.device
    return Adapters(
        a=(starts // 16).to(device),
        b_t=((starts + rank * in_features) // 16).to(device),
        rank=torch.full((1, 3), rank, dtype=torch.int32, device=device),
        scale=torch.full((1, 3), 2.0, dtype=torch.float32, device=device),
        column_ends=(out_features,),
        max_rank=64 if rank <= 64 else -(-rank // 64) * 64,
        anchor=memory,
    )


# Norm and attention


def _check_norm(session: Session) -> None:
    def check() -> tuple[bool, str]:
        rows, features = max(session.sizes.bits_rows), session.sizes.llama.hidden_size
        x = _draw(session, rows, features).float()
        planes = _draw(session, 2, rows, features).float()
        weight = torch.ones(features, dtype=torch.float32, device=session.device)

        def normed(first: int) -> torch.Tensor:
            part, y = x[first:].clone(), x.new_empty(rows - first, features, dtype=session.dtype)
            rms_norm(part, weight, 1e-5, y, planes=planes[:, first:].contiguous())
            return y

        whole, alone = normed(0), normed(rows - 1)
        total = x.double() + planes.double().sum(dim=0)
        exact = total * torch.rsqrt(total.square().mean(dim=1, keepdim=True) + 1e-5)
        error, same = _error(whole, exact), _same(session, whole[-1], alone[-1])
        return error <= MOST_ERROR and same, f"error {error:.2e}, a row alone {'equal' if same else 'DIFFERENT'}"

    _verify(session, "norm", "rms_norm", check)


def _check_attention(session: Session) -> None:
    for name, config in (("llama-2-7b", session.sizes.llama), ("mistral-7b", session.sizes.mistral)):
        _verify(
            session,
            f"attention {name}",
            "attention, decode as prefill",
            lambda config=config: _attention_bits(session, config),
            model=name,
        )


def _attention_bits(session: Session, config) -> tuple[bool, str]:
    tokens, heads, kv, dim = session.sizes.attention_tokens, config.num_heads, config.num_kv_heads, config.head_dim
    num_pages = -(-tokens // PAGE_TOKENS)
    q = _draw(session, tokens, heads * dim)
    k, v = (_draw(session, num_pages, PAGE_TOKENS, kv, dim) for _ in range(2))

    def ints(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=session.device)

    def attend(rows: list[int], offset: torch.Tensor, table: torch.Tensor, max_query: int) -> torch.Tensor:
        here = q[rows].contiguous()
        out = torch.empty_like(here)
        paged_attention(
            here,
            k,
            v,
            table,
            offset,
            ints(*rows),
            out,
            head_dim=dim,
            scale=dim**-0.5,
            window=config.windows[0],
            max_query=max_query,
            max_context=num_pages * PAGE_TOKENS,
        )
        return out

    pages = ints(*range(num_pages)).view(1, -1)
    whole = attend(list(range(tokens)), ints(0, tokens), pages, tokens)
    some = [0, tokens // 3, tokens // 2, tokens - 1]
    table = pages.repeat(len(some), 1)
    decoded = attend(some, ints(*range(len(some) + 1)), table, 1)
    alone = attend(some[-1:], ints(0, 1), pages, 1)
    same = _same(session, decoded, whole[some]), _same(session, alone[0], whole[-1])
    exact = _exact_attention(q[-1], k, v, tokens, heads, kv, dim)
    error = _error(whole[-1], exact)
    ok = all(same) and error <= MOST_ERROR
    return (
        ok,
        f"error {error:.2e}, four rows {'equal' if same[0] else 'DIFFERENT'}, one {'equal' if same[1] else 'DIFFERENT'}",
    )


def _exact_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tokens: int, heads: int, kv: int, dim: int
) -> torch.Tensor:
    keys, values = (pages.flatten(0, 1)[:tokens].double().repeat_interleave(heads // kv, dim=1) for pages in (k, v))
    scores = torch.einsum("hd,jhd->hj", q.double().view(heads, dim), keys) * dim**-0.5
    return torch.einsum("hj,jhd->hd", scores.softmax(dim=1), values).flatten()


# Whole steps


def _check_steps(session: Session) -> None:
    sizes = session.sizes
    for rank in sizes.model_ranks:
        _verify(
            session,
            f"step {rank}",
            "logits of a row alone and in batches",
            lambda rank=rank: _step_bits(session, rank),
            rank=rank,
        )


def _step_bits(session: Session, rank: int) -> tuple[bool, str]:
    """Row 0 of decodes of many rows; a row decoded and prefilled; and logits beside linears by cuBLAS."""
    sizes = session.sizes
    rows, context = max(sizes.model_rows), 8 * PAGE_TOKENS if not session.job.dry else sizes.context
    rig = Rig(
        with_layers(sizes.llama, 1 if session.job.dry else 2),
        session.dtype,
        session.device,
        rows=rows,
        context=context,
        tokens=sizes.prefilled,
    )
    bank = random_bank(rig.config, rank, 3, session.dtype, session.device)
    rig.load(bank)
    wrong = []
    alone = rig.launch(rig.decode([0]))
    for count in sizes.model_rows:
        slots = [(0, -1, 1, 2)[row * 4 // count] for row in range(count)]
        for padded in (True, False):
            logits, token_ids = rig.launch(rig.decode(slots, padded=padded))
            same = _same(session, logits[0], alone[0][0]) and bool(token_ids[0] == alone[1][0])
            if not same:
                wrong.append(f"{count} rows{', padded' if padded else ''}")
    error = _against_cublas(rig, bank, max(sizes.model_rows))
    if error > MOST_STEP_ERROR:
        wrong.append("far from cuBLAS")
    wrong += _prefill_bits(session, rig, sizes.prefilled)
    return not wrong, f"{'; '.join(wrong) or 'all alike'}; {error:.2e} from cuBLAS"


def _against_cublas(rig: Rig, bank: Bank, rows: int) -> float:
    step = rig.decode([row * 2 // rows for row in range(rows)], padded=False)
    ours, _ = rig.launch(step)
    theirs, _ = rig.launch(step, cublas(rig, step, bank))
    return _error(ours, theirs.double())


def _prefill_bits(session: Session, rig: Rig, tokens: int) -> list[str]:
    """The last row of a prefill, and the same row decoded on the keys that the prefill left."""
    step = rig.prefill([tokens], [1])
    prefilled, _ = rig.launch(step)
    again, _ = rig.launch(step)
    wrong = [] if _same(session, prefilled, again) else ["prefill run to run"]
    context, pages = rig.context, rig.pages
    try:  # decode's row is the last of a context as long as the prefill
        rig.context, rig.pages = tokens, -(-tokens // PAGE_TOKENS)
        decode = rig.decode([1])
    finally:
        rig.context, rig.pages = context, pages
    decode.tensors.token_ids[0] = step.tensors.token_ids[-1]
    ops = DeviceForward(rig.model, rig.adapters, decode.tensors)
    decoded, _ = rig.launch(decode, ops)
    return wrong if _same(session, decoded[0], prefilled[0]) else [*wrong, "a row decoded and prefilled"]
