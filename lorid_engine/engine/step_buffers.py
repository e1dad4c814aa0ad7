"""StepBuffers: a step's arrays on a device, at fixed addresses, filled by one copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lorid_engine.engine.batch import StepBatch
from lorid_engine.model.device_forward import DeviceStep
from lorid_engine.ops.kv_pages import PAGE_TOKENS


@dataclass(frozen=True)
class StepShape:
    """How many of each thing a step has room for; a recorded step has one such shape.

    Attributes:
        rows, samples, sequences, segments: T, K, B, S.
        pages: M, the pages of a sequence.
        max_query: rows of a sequence at most.
    """

    rows: int
    samples: int
    sequences: int
    segments: int
    pages: int
    max_query: int


@dataclass(frozen=True)
class Sampling:
    """What the sampler reads: philox_key int64 [K], philox_counter int64 [K, 2], temperature and top_p float32 [K], top_k int32 [K]."""

    philox_key: torch.Tensor
    philox_counter: torch.Tensor
    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor


class StepBuffers:
    """Room for the largest step.

    Args:
        most: the largest shape.
        pinned: whether the host's side is page-locked, for copies that the host does not wait for.
    """

    def __init__(self, most: StepShape, device: torch.device, *, pinned: bool) -> None:
        self._most = most
        entries = {
            "philox_key": (np.int64, most.samples),
            "philox_counter": (np.int64, 2 * most.samples),
            "cache_slot": (np.int64, most.rows),
            "token_ids": (np.int32, most.rows),
            "positions": (np.int32, most.rows),
            "query_offset": (np.int32, most.sequences + 1),
            "seg_offset": (np.int32, most.segments + 1),
            "seg_slot": (np.int32, most.segments),
            "sample_rows": (np.int32, most.samples),
            "temperature": (np.float32, most.samples),
            "top_k": (np.int32, most.samples),
            "top_p": (np.float32, most.samples),
            "block_table": (np.int32, most.sequences * most.pages),
        }
        self._place, begin = {}, 0
        for name, (dtype, count) in entries.items():
            self._place[name] = (begin, np.dtype(dtype), count)
            begin += -(-np.dtype(dtype).itemsize * count // 64) * 64  # the kernels' loads want aligned starts
        self._host = torch.zeros(begin, dtype=torch.uint8, pin_memory=pinned)
        self._device = torch.zeros(begin, dtype=torch.uint8, device=device)
        self._copied = torch.cuda.Event() if device.type == "cuda" else None
        host = self._host.numpy()
        self._arrays = {
            name: host[at : at + dtype.itemsize * count].view(dtype) for name, (at, dtype, count) in self._place.items()
        }

    def fill(self, batch: StepBatch, shape: StepShape) -> None:
        """Copies a batch to the device, with padding up to the shape: rows that no sequence and no segment has."""
        if self._copied is not None:
            self._copied.synchronize()  # a step that draws nothing is not waited for: its copy may be under way
        arrays, rows = self._arrays, len(batch.token_ids)
        samples, sequences, segments = len(batch.sample_rows), len(batch.block_table), len(batch.seg_slot)
        for name in ("token_ids", "positions"):
            arrays[name][:rows] = getattr(batch, name)
            arrays[name][rows : shape.rows] = 0
        arrays["cache_slot"][:rows] = _cache_slots(batch)
        arrays["cache_slot"][rows : shape.rows] = -1
        arrays["query_offset"][: sequences + 1] = batch.query_offset
        arrays["query_offset"][sequences + 1 : shape.sequences + 1] = rows
        if shape.segments:
            arrays["seg_offset"][: segments + 1] = batch.seg_offset
            arrays["seg_offset"][segments + 1 : shape.segments + 1] = rows
            arrays["seg_slot"][:segments] = batch.seg_slot
            arrays["seg_slot"][segments : shape.segments] = -1
        for name in ("sample_rows", "philox_key", "temperature", "top_k", "top_p"):
            given = getattr(batch, name)
            arrays[name][:samples] = given.view(np.int64) if name == "philox_key" else given
            arrays[name][samples : shape.samples] = 0
        arrays["top_p"][samples : shape.samples] = 1
        arrays["philox_counter"][: 2 * samples] = batch.philox_counter.astype(np.int64).ravel()
        arrays["philox_counter"][2 * samples : 2 * shape.samples] = 0
        table = arrays["block_table"][: shape.sequences * shape.pages].reshape(shape.sequences, shape.pages)
        used = min(batch.block_table.shape[1], shape.pages)
        table[:sequences, :used] = batch.block_table[:, :used]
        table[:sequences, used:] = -1
        table[sequences:] = -1
        end = self._place["block_table"][0] + table.nbytes
        self._device[:end].copy_(self._host[:end], non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def view(self, shape: StepShape) -> tuple[DeviceStep, Sampling]:
        """The device's arrays as a step of this shape."""
        counts = {
            "philox_key": shape.samples,
            "philox_counter": 2 * shape.samples,
            "cache_slot": shape.rows,
            "token_ids": shape.rows,
            "positions": shape.rows,
            "query_offset": shape.sequences + 1,
            "seg_offset": shape.segments + 1,
            "seg_slot": shape.segments,
            "sample_rows": shape.samples,
            "temperature": shape.samples,
            "top_k": shape.samples,
            "top_p": shape.samples,
            "block_table": shape.sequences * shape.pages,
        }
        views = {}
        for name, count in counts.items():
            at, dtype, _ = self._place[name]
            kind = {np.dtype(np.int64): torch.int64, np.dtype(np.int32): torch.int32}.get(dtype, torch.float32)
            views[name] = self._device[at : at + dtype.itemsize * count].view(kind)
        sampling = Sampling(
            views["philox_key"],
            views["philox_counter"].view(-1, 2),
            views["temperature"],
            views["top_k"],
            views["top_p"],
        )
        step = DeviceStep(
            token_ids=views["token_ids"],
            positions=views["positions"],
            cache_slot=views["cache_slot"],
            query_offset=views["query_offset"],
            block_table=views["block_table"].view(shape.sequences, shape.pages),
            seg_offset=views["seg_offset"],
            seg_slot=views["seg_slot"],
            sample_rows=views["sample_rows"],
            max_query=shape.max_query,
            max_context=shape.pages * PAGE_TOKENS,
        )
        return step, sampling


def _cache_slots(batch: StepBatch) -> np.ndarray:
    """Page times 16 plus the place in the page, of every row."""
    sequence = np.repeat(np.arange(len(batch.block_table)), np.diff(batch.query_offset))
    page, place = np.divmod(batch.positions, PAGE_TOKENS)
    return batch.block_table[sequence, page].astype(np.int64) * PAGE_TOKENS + place
