"""Shrink + expand of a layer's adapters alone: ours, a cuBLAS product per segment, and grouped products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from baselines import add_by_groups, add_by_segment
from rig import WEIGHT_STD, Bank, segments_of, slots_of
from session import Session
from steps import groups_work

from lorid_kernels.lora_expand import lora_expand
from lorid_kernels.lora_shrink import MOST_ROWS_IN_PARTS, add_parts, lora_shrink, num_parts
from lorid_kernels.segments import Adapters, Segments

MOST_COPIES = 256
SEGMENTS = 4  # an engine records its steps with room for so many


def time_products(session: Session) -> None:
    """Shrink + expand of q and v of one layer, two adapters: ours, a cuBLAS product per segment, and grouped ones."""
    for rank in session.sizes.product_ranks:
        session.guard("products", lambda rank=rank: _time_rank(session, rank), rank=rank)
        session.free()


def _time_rank(session: Session, rank: int) -> None:
    sizes, config = session.sizes, session.sizes.llama
    heads, kv, hidden = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim, config.hidden_size
    columns = {"q": (0, heads), "k": (heads, heads + kv), "v": (heads + kv, heads + 2 * kv)}
    one = session.dtype.itemsize * 2 * rank * (2 * hidden + heads + kv)  # two adapters of q and v
    copies = 1 if session.warms else min(max(2, -(-sizes.rotated // one)), MOST_COPIES)
    banks = [_bank(session, rank, {"q": (hidden, heads), "v": (hidden, kv)}) for _ in range(copies)]
    tables = [_tables(bank, columns, session.device) for bank in banks]
    has_groups, why = groups_work(session, banks[0])
    if not has_groups:
        session.refuse("grouped_mm", why, rank=rank)
    for rows in sizes.product_rows:
        slots = slots_of(rows, min(2, rows))
        x = torch.empty(rows, hidden, dtype=session.dtype, device=session.device).normal_()
        y = torch.zeros(rows, heads + 2 * kv, dtype=session.dtype, device=session.device)
        moved = one * min(2, rows) // 2 + x.nbytes + 2 * rows * (heads + kv) * session.dtype.itemsize
        limit = moved / session.bandwidth()
        about = {
            "calls": copies,
            "rank": rank,
            "rows": rows,
            "adapters": min(2, rows),
            "moved_bytes": moved,
            "limit_s": limit,
            "facts": lambda s, limit=limit: {"limit_share": limit / s},
        }
        kind = f"products {next((most for most in (16, 32, 64, 128) if rows <= most), 256)} {rank <= 64}"
        session.measure("product", kind, _ours(x, y, tables, slots), form="ours", **about)
        if session.warms:
            continue
        segments = segments_of(slots)
        views = {module: y[:, slice(*columns[module])] for module in banks[0].pairs}
        session.measure("product", kind, _by_segment(x, views, banks, segments), form="cublas per segment", **about)
        if has_groups:
            ends = torch.tensor([end for _, end, _ in segments], dtype=torch.int32, device=session.device)
            launch = _by_groups(x, views, banks, ends)
            session.measure("product", kind, launch, form="grouped_mm", optional=True, **about)


def _bank(session: Session, rank: int, shapes: dict[str, tuple[int, int]]) -> Bank:
    def draw(width: int) -> torch.Tensor:
        return torch.empty(2, rank, width, dtype=session.dtype, device=session.device).normal_(0, WEIGHT_STD)

    return Bank(rank, 2.0, {name: (draw(into), draw(out)) for name, (into, out) in shapes.items()})


def _tables(bank: Bank, columns: dict[str, tuple[int, int]], device: torch.device) -> Adapters:
    """The bank as the kernels look it up; a module without adapters has rank 0."""
    anchor = next(iter(bank.pairs.values()))[0]
    unit = 16 * anchor.element_size()
    places = torch.zeros(2, len(columns), 2, dtype=torch.int64)
    ranks = torch.zeros(len(columns), 2, dtype=torch.int32)
    for module, name in enumerate(columns):
        for slot in range(2) if name in bank.pairs else ():
            ranks[module, slot] = bank.rank
            for which, stack in enumerate(bank.pairs[name]):
                offset, rest = divmod(stack[slot].data_ptr() - anchor.data_ptr(), unit)
                assert rest == 0, "a multiple of 16 elements, as rank times features is"
                places[which, module, slot] = offset
    a, b_t = places.to(device)
    scale = torch.full((len(columns), 2), bank.scale, dtype=torch.float32, device=device)
    ends = tuple(end for _, end in columns.values())
    room = 64 if bank.rank <= 64 else -(-bank.rank // 64) * 64
    return Adapters(a, b_t, ranks.to(device), scale, ends, room, anchor=anchor)


def _ours(x: torch.Tensor, y: torch.Tensor, tables: list[Adapters], slots: list[int]) -> Callable[[], Any]:
    found = segments_of(slots)
    offset = [0, *(end for _, end, _ in found)]
    offset += [len(slots)] * (SEGMENTS + 1 - len(offset))
    numbers = [slot for *_, slot in found] + [-1] * (SEGMENTS - len(found))
    segments = Segments(*(torch.tensor(each, dtype=torch.int32, device=x.device) for each in (offset, numbers)))
    rows, parts = x.shape[0], num_parts(x.shape[1])

    def launch() -> None:
        for adapters in tables:
            width = adapters.modules * adapters.width
            shrunk = x.new_empty(rows, width)
            if rows > MOST_ROWS_IN_PARTS:
                lora_shrink(x, adapters, segments, shrunk)
            else:
                sums = x.new_empty(parts, rows, width, dtype=torch.float32)
                lora_shrink(x, adapters, segments, sums)
                add_parts(sums, adapters, segments, shrunk, scales=True)
            lora_expand(y, shrunk, adapters, segments)

    return launch


def _by_segment(
    x: torch.Tensor, views: dict[str, torch.Tensor], banks: list[Bank], segments: list[tuple[int, int, int]]
) -> Callable[[], Any]:
    return lambda: [
        add_by_segment(views[name], x, a, b_t, bank.scale, segments)
        for bank in banks
        for name, (a, b_t) in bank.pairs.items()
    ]


def _by_groups(
    x: torch.Tensor, views: dict[str, torch.Tensor], banks: list[Bank], ends: torch.Tensor
) -> Callable[[], Any]:
    return lambda: [
        add_by_groups(views[name], x, a, b_t, bank.scale, ends)
        for bank in banks
        for name, (a, b_t) in bank.pairs.items()
    ]
