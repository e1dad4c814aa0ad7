"""Whole-model steps: decode and prefill by our kernels, by cuBLAS, and on merged copies stepped in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from baselines import add_by_groups, cublas, grouped_product, reason
from rig import (
    Bank,
    Rig,
    adapter_bytes,
    copied_weights,
    kv_bytes,
    linear_shapes,
    random_bank,
    slots_of,
    weight_bytes,
)
from session import Session

from lorid_engine.model.config import ModelConfig
from lorid_engine.model.llama import LlamaWeights
from lorid_kernels import tuning

ROLES = (2, 3)


def time_llama_decode(session: Session) -> None:
    """Decode of the Llama-2-7B shape, and merged copies."""
    sizes = session.sizes
    decode = _Decode(session, "llama-2-7b", sizes.llama)
    decode.time_base(sizes.step_rows)
    if not session.warms:
        decode.time_tuned_base(sizes.step_rows)
    for rank in sizes.step_ranks:
        cells = [(min(2, rows), rows) for rows in sizes.step_rows]
        if rank in sizes.step_ranks[:2]:
            cells += [(count, rows) for rows in sizes.fewer_rows for count in (1, 3)]
            cells += [(roles, rows) for rows in sizes.merged_rows for roles in ROLES]
        decode.time_rank(rank, cells)
    if not session.warms:
        decode.time_merged(sizes.merged_rows)
        decode.record_memory()
        session.free()


def time_mistral_decode(session: Session) -> None:
    """Decode of the Mistral-7B shape, whose values have few columns."""
    sizes = session.sizes
    decode = _Decode(session, "mistral-7b", sizes.mistral)
    decode.time_base(sizes.mistral_rows)
    for rank in sizes.step_ranks[:2]:
        decode.time_rank(rank, [(min(2, rows), rows) for rows in sizes.mistral_rows])


class _Decode:
    """Decode steps of one model."""

    def __init__(self, session: Session, name: str, config: ModelConfig) -> None:
        self._session, self._name = session, name
        self._config = session.timed(config)
        begin = time.monotonic()
        sizes = session.sizes
        rows = max(*sizes.step_rows, *sizes.merged_rows, *sizes.mistral_rows)
        self._rig = Rig(self._config, session.dtype, session.device, rows=rows, context=sizes.context)
        if session.device.type == "cuda":
            torch.cuda.synchronize()
        session.record("weights drawn on the device", model=name, seconds_wall=time.monotonic() - begin)
        self._has_groups: bool | None = None

    def time_base(self, rows_list: Sequence[int]) -> None:
        """No adapters: ours, and linears by cuBLAS."""
        self._rig.load(None)
        for rows in rows_list:
            slots = slots_of(rows, 0)
            self._measure("ours", slots, 0, 0, self._rig.launcher(self._rig.decode(slots)))
            plain = self._rig.decode(slots, padded=False)
            self._measure("cublas", slots, 0, 0, self._rig.launcher(plain, cublas(self._rig, plain)))

    def time_tuned_base(self, rows_list: Sequence[int]) -> None:
        """No adapters, with the tiles that were fastest on their own."""
        path = Path(self._session.job.tiles)
        if not path.is_file():
            self._session.refuse("step", "no tiles were measured", form="ours, tuned")
            return
        tuning.use_measured(path)
        try:
            for rows in rows_list:
                slots = slots_of(rows, 0)
                self._measure("ours, tuned", slots, 0, 0, self._rig.launcher(self._rig.decode(slots)))
        finally:
            self._session.use_tiles()

    def time_rank(self, rank: int, cells: Sequence[tuple[int, int]]) -> None:
        """Adapters of one rank: (how many of them, rows) each; beside the same by cuBLAS where there are two."""
        rig, session = self._rig, self._session
        bank = random_bank(self._config, rank, max(ROLES), session.dtype, session.device)
        begin = time.monotonic()
        rig.load(bank)
        if session.device.type == "cuda":
            torch.cuda.synchronize()
        session.record("adapters loaded", model=self._name, rank=rank, count=3, seconds_wall=time.monotonic() - begin)
        for adapters, rows in dict.fromkeys(cells):
            slots = slots_of(rows, adapters)
            self._measure("ours", slots, rank, adapters, rig.launcher(rig.decode(slots)))
            if adapters == min(2, rows):
                self._measure_others(bank, slots, adapters)
        rig.load(None)
        session.free()

    def _measure_others(self, bank: Bank, slots: list[int], adapters: int) -> None:
        rig = self._rig
        plain = rig.decode(slots, padded=False)
        launch = rig.launcher(plain, cublas(rig, plain, bank))
        self._measure("cublas per segment", slots, bank.rank, adapters, launch)
        if self._groups_work(bank):
            launch = rig.launcher(plain, cublas(rig, plain, bank, groups=True))
            self._measure("grouped_mm", slots, bank.rank, adapters, launch, optional=True)

    def _groups_work(self, bank: Bank) -> bool:
        if self._has_groups is None:
            self._has_groups, why = groups_work(self._session, bank)
            if not self._has_groups:
                self._session.refuse("grouped_mm", why)
        return self._has_groups

    def time_merged(self, rows_list: Sequence[int]) -> None:
        """Every role's rows as a step of its own on a full copy of the weights, the steps recorded one after another."""
        session, rig = self._session, self._rig
        copies: list[LlamaWeights] = [rig.weights]
        about = "own copies"
        try:
            while len(copies) < max(ROLES):
                copies.append(copied_weights(rig.weights))
        except torch.OutOfMemoryError:
            about = "the same weights: no memory for copies"
            copies = [rig.weights] * max(ROLES)
        for roles in ROLES:
            for rows in rows_list:
                shares = [slots_of(rows, roles).count(role) for role in range(roles)]
                for form in ("ours", "cublas"):
                    launch = session.guard("merged", lambda s=shares, f=form: self._in_turn(copies, s, f))
                    if launch is None:
                        continue
                    facts = {"model": self._name, "form": form, "rows": rows, "roles": roles, "weights": about}
                    session.measure("merged", "merged", launch, facts=lambda s, r=rows: {"tok_s": r / s}, **facts)
        if session.device.type == "cuda":
            session.record("memory with copies", allocated=torch.cuda.memory_allocated(), weights=about)

    def _in_turn(self, copies: Sequence[LlamaWeights], shares: Sequence[int], form: str) -> Callable[[], Any]:
        launches, first = [], 0
        for weights, rows in zip(copies, shares, strict=False):
            step = self._rig.decode([-1] * rows, first=first, padded=form == "ours")
            ops = None if form == "ours" else cublas(self._rig, step)
            launches.append(self._rig.launcher(step, ops, weights))
            first += rows
        return lambda: [launch() for launch in launches]

    def record_memory(self) -> None:
        """Bytes of weights, adapters and copies."""
        config, size = self._config, self._session.dtype.itemsize
        most = torch.cuda.max_memory_allocated() if self._session.device.type == "cuda" else 0
        weights = weight_bytes(config, size)
        shares = {
            f"share_{roles}": (weights + roles * adapter_bytes(config, rank, size)) / (roles * weights)
            for rank in self._session.sizes.step_ranks[:1]
            for roles in ROLES
        }
        rank = self._session.sizes.step_ranks[0]
        self._session.record("memory", model=self._name, rank=rank, weights=weights, most_allocated=most, **shares)

    def _measure(
        self,
        form: str,
        slots: list[int],
        rank: int,
        adapters: int,
        launch: Callable[[], Any],
        *,
        optional: bool = False,
    ) -> None:
        session, config, rows, size = self._session, self._config, len(slots), self._session.dtype.itemsize
        moved = weight_bytes(config, size) + kv_bytes(config, rows * session.sizes.context, size)
        if rank:
            moved += adapters * adapter_bytes(config, rank, size)
        limit = moved / session.bandwidth()
        room = 0 if not rank else 64 if rank <= 64 else 512
        bucket = max(rows, 16) if form == "ours" else rows >= 32
        kind = f"{self._name} {form == 'ours'} {bucket} {room if form == 'ours' else ''}"
        session.measure(
            "step",
            kind,
            launch,
            optional=optional,
            facts=lambda seconds: {"tok_s": rows / seconds, "limit_share": limit / seconds},
            model=self._name,
            form=form,
            rank=rank,
            rows=rows,
            adapters=adapters,
            limit_s=limit,
            moved_bytes=moved,
        )


def groups_work(session: Session, bank: Bank) -> tuple[bool, str]:
    """Whether grouped products run here with this bank, and why not."""
    if grouped_product() is None:
        return False, "this torch has no grouped_mm"
    a, b_t = next(iter(bank.pairs.values()))
    x = torch.ones(2, a.shape[2], dtype=a.dtype, device=a.device)
    y = torch.zeros(2, b_t.shape[2], dtype=a.dtype, device=a.device)
    try:
        add_by_groups(y, x, a, b_t, bank.scale, torch.tensor([1, 2], dtype=torch.int32, device=a.device))
        if session.device.type == "cuda":
            torch.cuda.synchronize()
    except Exception as error:
        return False, reason(error)
    return True, ""


def time_prefill(session: Session) -> None:
    """One step of as many tokens as a step may have: one sequence, and two with an adapter each."""
    sizes = session.sizes
    config = session.timed(sizes.llama)
    tokens = sizes.prefill
    rig = Rig(config, session.dtype, session.device, rows=1, context=16, tokens=tokens)
    for lengths in ([tokens], [tokens // 2] * 2):
        step = rig.prefill(lengths, [-1] * len(lengths))
        _measure_prefill(session, rig, "ours", lengths, 0, rig.launcher(step))
        _measure_prefill(session, rig, "cublas", lengths, 0, rig.launcher(step, cublas(rig, step)))
    lengths = [tokens // 2] * 2
    for rank in sizes.prefill_ranks:
        bank = random_bank(config, rank, 2, session.dtype, session.device)
        rig.load(bank)
        step = rig.prefill(lengths, [0, 1])
        _measure_prefill(session, rig, "ours", lengths, rank, rig.launcher(step))
        _measure_prefill(session, rig, "cublas per segment", lengths, rank, rig.launcher(step, cublas(rig, step, bank)))
        session.free()


def _measure_prefill(
    session: Session, rig: Rig, form: str, lengths: list[int], rank: int, launch: Callable[[], Any]
) -> None:
    tokens = sum(lengths)
    flops = 2 * tokens * rig.config.num_layers * sum(out * into for out, into in linear_shapes(rig.config))
    room = 0 if not rank else 64 if rank <= 64 else 512
    session.measure(
        "prefill",
        f"prefill {len(lengths)} {form} {room}",
        launch,
        facts=lambda seconds: {"tok_s": tokens / seconds, "peak_share": flops / seconds / session.matmul_rate()},
        form=form,
        rank=rank,
        tokens=tokens,
        sequences=len(lengths),
        linear_flops=flops,
    )
