"""Compiles, without a GPU, the binaries that the launchers would launch on one, and looks into them.

    python tests/kernels/offline.py            a table of every binary: --only WORD, --sm 90 choose among them
    python tests/kernels/offline.py --record   writes their registers into registers.json

To add a case: one line in CASES.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from lorid_kernels.embed import embed
from lorid_kernels.lora_dropout import lora_dropout
from lorid_kernels.lora_expand import lora_expand
from lorid_kernels.lora_linear import lora_linear, num_splits
from lorid_kernels.lora_shrink import add_parts, lora_shrink, num_parts, shrink_for_linear
from lorid_kernels.packed_attention import packed_attention, packed_attention_backward, rotate
from lorid_kernels.paged_attention import paged_attention
from lorid_kernels.rms_norm import rms_norm, rms_norm_backward
from lorid_kernels.rope import rope
from lorid_kernels.sample import sample
from lorid_kernels.segments import Adapters, Segments
from lorid_kernels.silu_mul import silu_mul, silu_mul_backward

MAX_SHARED = 99 * 1024  # bytes a block: what sm_86, sm_89 and sm_120 have
SHARED_BYTES = {80: 163 * 1024, 86: MAX_SHARED, 89: MAX_SHARED, 90: 227 * 1024, 100: 227 * 1024, 120: MAX_SHARED}
PROCESSORS = {
    80: 108,
    86: 84,
    89: 128,
    90: 132,
    100: 148,
    120: 188,
}  # A100, RTX 3090, 4090 (L40: 142), H100, B200, 5090
ARCHS = tuple(SHARED_BYTES)
REGISTERS = Path(__file__).with_name("registers.json")
INSTRUCTIONS = ("wgmma", "tcgen05.mma", "mma.sync", "cp.async")


@dataclass(frozen=True)
class Model:
    name: str
    E: int
    H: int
    G: int
    D: int
    F: int
    V: int


LLAMA = Model("llama2-7b", E=4096, H=32, G=32, D=128, F=11008, V=32000)
SMOL = Model("smollm2-135m", E=576, H=9, G=3, D=64, F=1536, V=49152)
VARIANTS = ((LLAMA, torch.bfloat16), (SMOL, torch.bfloat16), (LLAMA, torch.float16))
T, C = 64, 512  # rows, and pages of the pool
INT, LONG, WIDE = torch.int32, torch.int64, torch.float32


@dataclass(frozen=True)
class Case:
    """A call of a launcher.

    Attributes:
        name: of the case.
        launch: takes a model and new(*shape, dtype=the variant's), which makes a tensor on the device meta.
        matrix: names of its kernels that must multiply with wgmma on sm_90.
    """

    name: str
    launch: Callable[[Model, Callable[..., torch.Tensor]], None]
    matrix: tuple[str, ...] = ()


def _rope(m: Model, new: Callable[..., torch.Tensor], *, norms: bool) -> None:
    table, weight = new(4096, m.D // 2, dtype=WIDE), new(m.D, dtype=WIDE) if norms else None
    tensors = new(T, (m.H + 2 * m.G) * m.D), table, table, new(T, dtype=INT), new(T, dtype=LONG), new(T, m.H * m.D)
    pages = new(C, 16, m.G, m.D)
    rope(*tensors, pages, pages, num_heads=m.H, q_norm=weight, k_norm=weight, norm_epsilon=1e-6)


def linears(m: Model, new: Callable[..., torch.Tensor], *, rows: int, max_rank: int, merged: bool = False) -> None:
    """Base and adapted linears of one step: q, k and v; and one whose weight is cut along its features."""
    slots, heads = 128, m.H * m.D
    columns = (heads, heads + m.G * m.D, heads + 2 * m.G * m.D)
    segments = Segments(new(5, dtype=INT), new(4, dtype=INT))
    for ends, features in ((columns, m.E), ((m.E,), m.F)):
        x, weight, bias = new(rows, features), new(ends[-1], features), new(ends[-1], dtype=WIDE)
        splits = num_splits(ends[-1], features)
        y = new(splits, rows, ends[-1], dtype=WIDE) if splits > 1 else new(rows, ends[-1])
        lora_linear(x, weight, None, y)
        if max_rank:
            places = new(len(ends), slots, dtype=LONG)
            rank, scale = new(len(ends), slots, dtype=INT), new(len(ends), slots, dtype=WIDE)
            copies = places if merged else None
            adapters = Adapters(places, places, rank, scale, ends, max_rank, copies, anchor=new(16))
            shrunk = shrink_for_linear(x, adapters, segments)
            lora_linear(x, weight, bias, y, adapters, segments, shrunk, follows_shrink=True)


def _bank(m: Model, new: Callable[..., torch.Tensor], *, rows: int, max_rank: int) -> None:
    """The ops lora_shrink and lora_expand, on a bank."""
    a, rank, scale = new(2 * max_rank, m.E), new(3, dtype=INT), new(2, dtype=WIDE)
    adapters = Adapters(a, a, rank, scale, (m.E,), max_rank)
    segments = Segments(new(3, dtype=INT), new(2, dtype=INT))
    x, parts = new(rows, m.E), new(num_parts(m.E), rows, adapters.width, dtype=WIDE)
    lora_shrink(x, adapters, segments, parts)
    shrunk, scaled = new(rows, max_rank, dtype=WIDE), new(rows, adapters.width)
    add_parts(parts, adapters, segments, shrunk, scales=False)
    add_parts(shrunk.unsqueeze(0), adapters, segments, scaled, scales=True, whole=False)
    lora_expand(x, scaled, adapters, segments)


def _attention(m: Model, new: Callable[..., torch.Tensor], *, window: int, decodes: bool) -> None:
    sequences = 4
    rows = sequences if decodes else 256
    q, pages = new(rows, m.H * m.D), new(C, 16, m.G, m.D)
    tables = new(sequences, 64, dtype=INT), new(sequences + 1, dtype=INT), new(rows, dtype=INT)
    bounds = {"max_query": 1 if decodes else rows, "max_context": 1024}
    out = new(rows, m.H * m.D)
    paged_attention(q, pages, pages, *tables, out, head_dim=m.D, scale=0.125, window=window, **bounds)


def packed_attentions(m: Model, new: Callable[..., torch.Tensor], *, window: int) -> None:
    """Attention of training, forward and backward."""
    rows = 256
    qkv, out, offset = new(rows, (m.H + 2 * m.G) * m.D), new(rows, m.H * m.D), new(5, dtype=INT)
    table = new(rows, m.D // 2, dtype=WIDE)
    rotate(qkv, table, table, qkv, head_dim=m.D, rotated_heads=m.H + m.G)
    shape = {"num_heads": m.H, "num_kv_heads": m.G, "window": window, "max_len": 100}
    packed_attention(qkv, offset, out, **shape)
    packed_attention_backward(out, qkv, offset, qkv, **shape)


def _sample(m: Model, new: Callable[..., torch.Tensor]) -> None:
    rows = new(T, dtype=WIDE)
    keys = new(T, dtype=LONG), new(T, 2, dtype=LONG)
    sample(new(T, m.V, dtype=WIDE), *keys, rows, new(T, dtype=INT), rows, new(T, dtype=INT))


LINEAR, SHRINK, EXPAND = "_lora_linear_kernel", "_lora_shrink_kernel", "_lora_expand_kernel"
PACKED = ("_forward_kernel", "_query_gradient_kernel", "_key_value_gradient_kernel")
CASES = (
    Case("few_rows_low_rank", lambda m, new: linears(m, new, rows=16, max_rank=64), matrix=(LINEAR, SHRINK)),
    Case("few_rows", lambda m, new: linears(m, new, rows=32, max_rank=512), matrix=(LINEAR, SHRINK)),
    Case("some_rows", lambda m, new: linears(m, new, rows=64, max_rank=512), matrix=(LINEAR, SHRINK)),
    Case("more_rows", lambda m, new: linears(m, new, rows=128, max_rank=512), matrix=(LINEAR, SHRINK)),
    Case("many_rows", lambda m, new: linears(m, new, rows=2048, max_rank=512), matrix=(LINEAR, SHRINK)),
    Case("merged", lambda m, new: linears(m, new, rows=16, max_rank=512, merged=True), matrix=(LINEAR, SHRINK)),
    Case("bank", lambda m, new: _bank(m, new, rows=32, max_rank=512), matrix=(SHRINK, EXPAND)),
    Case("bank_many_rows", lambda m, new: _bank(m, new, rows=256, max_rank=64), matrix=(SHRINK, EXPAND)),
    Case("decode", lambda m, new: _attention(m, new, window=0, decodes=True), matrix=("_decode_kernel",)),
    Case("prefill", lambda m, new: _attention(m, new, window=0, decodes=False), matrix=("_prefill_kernel",)),
    Case("prefill_window", lambda m, new: _attention(m, new, window=4096, decodes=False), matrix=("_prefill_kernel",)),
    Case("packed_attention", lambda m, new: packed_attentions(m, new, window=0), matrix=PACKED),
    Case("packed_attention_window", lambda m, new: packed_attentions(m, new, window=4096), matrix=PACKED),
    Case("sample", _sample),
    Case(
        "lora_dropout",
        lambda m, new: lora_dropout(new(T, m.E), new(T, dtype=LONG), 3, 1, 6554, 1.1, new(T, m.E)),
    ),
    Case("embed", lambda m, new: embed(new(T, dtype=INT), new(m.V, m.E), new(T, m.E))),
    Case("rms_norm", lambda m, new: rms_norm(new(T, m.E), new(m.E, dtype=WIDE), 1e-5, new(T, m.E))),
    Case(
        "rms_norm_planes",
        lambda m, new: rms_norm(
            new(T, m.E), new(m.E, dtype=WIDE), 1e-5, new(T, m.E), planes=new(4, T, m.E, dtype=WIDE)
        ),
    ),
    Case(
        "rms_norm_rows",
        lambda m, new: rms_norm(
            new(T, m.E),
            new(m.E, dtype=WIDE),
            1e-5,
            new(8, m.E),
            planes=new(4, T, m.E, dtype=WIDE),
            rows=new(8, dtype=INT),
        ),
    ),
    Case(
        "rms_norm_backward",
        lambda m, new: rms_norm_backward(new(T, m.E), new(T, m.E), new(m.E, dtype=WIDE), 1e-5, new(T, m.E)),
    ),
    Case("silu_mul_backward", lambda m, new: silu_mul_backward(new(T, m.F), new(T, 2 * m.F), new(T, 2 * m.F))),
    Case("silu_mul", lambda m, new: silu_mul(new(T, 2 * m.F), new(T, m.F))),
    Case("rope", lambda m, new: _rope(m, new, norms=False)),
    Case("rope_norms", lambda m, new: _rope(m, new, norms=True)),
)


def variants() -> dict[str, tuple[Case, Model, torch.dtype]]:
    """Every case with every model and dtype, by name."""
    return {
        f"{case.name} {model.name} {str(dtype)[6:]}": (case, model, dtype)
        for case in CASES
        for model, dtype in VARIANTS
    }


def archs_of(name: str) -> tuple[int, ...]:
    """What a variant is compiled for: float16 differs from bfloat16 in no way that an architecture could change, and of the small
    model's shapes one GPU of each generation tells, of two the one with less shared memory."""
    _, model, dtype = variants()[name]
    if dtype == torch.float16:
        return (90,)
    return ARCHS if model is LLAMA else (86, 90, 120)


@dataclass(frozen=True)
class Binary:
    """A compiled kernel.

    Attributes:
        kernel: its name.
        registers: of a thread.
        local: bytes of local memory of a thread: spilled registers, and arrays that no register can hold.
        shared: bytes of shared memory of a block.
        accesses: how a thread reads and writes global memory: "16x4 4x1 > 16x2" is four instructions that load 16 bytes
            each and one that loads 4, two that store 16. The compiler counts loops once.
        instructions: those of INSTRUCTIONS that it has.
    """

    kernel: str
    registers: int
    local: int
    shared: int
    accesses: str
    instructions: tuple[str, ...]


class _Driver:
    """What Triton and the launchers ask of a driver; the device's number is its architecture, so caches stay apart."""

    def __init__(self, arch: int) -> None:
        self.arch = arch
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {
                "max_shared_mem": SHARED_BYTES[arch],
                "multiprocessor_count": PROCESSORS[arch],
                "warpSize": 32,
            }
        )

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0


def _widths(ptx: str, direction: str) -> str:
    """The widths in bytes of the accesses to global memory, each with its number of instructions."""
    found = re.findall(rf"\b{direction}\.global(?:\.\w+)*?(?:\.v(\d))?\.[bfsu](\d+)\b", ptx)
    widths = Counter(int(count or 1) * int(bits) // 8 for count, bits in found)
    if direction == "ld":
        widths.update(int(size, 0) for size in re.findall(r"\bcp\.async\.c[ag]\S* \[.*?\], \[.*?\], (0x\w+|\d+)", ptx))
    return " ".join(f"{width}x{widths[width]}" for width in sorted(widths, reverse=True))


def inspect(name: str, compiled: Any) -> Binary:
    """Reads registers and local memory from the cubin, the rest from the PTX."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(rf"Function {re.escape(compiled.name)}:\s*REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage)
    assert found, f"cuobjdump does not say what {name} uses: {usage}"
    registers, stack, local = map(int, found.groups())
    ptx = compiled.asm["ptx"]
    accesses = " > ".join(_widths(ptx, direction) or "none" for direction in ("ld", "st"))
    has = tuple(each for each in INSTRUCTIONS if each in ptx)
    return Binary(name, registers, stack + local, compiled.metadata.shared, accesses, has)


@contextlib.contextmanager
def offline(arch: int) -> Iterator[list[tuple[str, Any]]]:
    """Makes launches compile for an architecture and launch nothing.

    Tensors are to be on the device meta: their address is 0, so pointers count as aligned, as torch's allocations are.

    Yields:
        the name and Triton's CompiledKernel of every launch so far.
    """
    compiled: list[tuple[str, Any]] = []
    functions: set[JITFunction] = set()
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        functions.add(self)
        compiled.append((self.__name__, run(self, *args, grid=grid, warmup=True, **kwargs)))

    properties = SimpleNamespace(
        name=f"sm_{arch}",
        major=arch // 10,
        minor=arch % 10,
        multi_processor_count=PROCESSORS[arch],
        shared_memory_per_block_optin=SHARED_BYTES[arch],
        warp_size=32,
    )
    active = triton.runtime.driver._active
    triton.runtime.driver.set_active(_Driver(arch))
    try:
        with (
            mock.patch.object(JITFunction, "run", compile_only),
            mock.patch.object(torch.cuda, "get_device_capability", lambda device=None: divmod(arch, 10)),
            mock.patch.object(torch.cuda, "get_device_properties", lambda device=None: properties),
        ):
            yield compiled
    finally:
        triton.runtime.driver.set_active(active)
        for function in functions:
            function.device_caches.pop(arch, None)


def compile_variant(name: str, arch: int) -> list[Binary] | str:
    """The binaries of one variant in the order of their launches, or how its launcher failed."""
    case, model, dtype = variants()[name]
    try:
        with offline(arch) as compiled:
            case.launch(model, lambda *shape, dtype=dtype: torch.empty(*shape, dtype=dtype, device="meta"))
        return [inspect(*each) for each in compiled]
    except Exception:
        return traceback.format_exc()


def compile_all(names: list[str], archs: list[int]) -> dict[str, dict[int, list[Binary] | str]]:
    """The binaries by variant and architecture, compiled on every core."""
    work = [(name, arch) for name in names for arch in archs if arch in archs_of(name)]
    results: dict[str, dict[int, list[Binary] | str]] = {name: {} for name in names}
    # Forked: the modules are imported once. Nothing has run on torch's threads yet.
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), multiprocessing.get_context("fork")) as pool:
        for (name, arch), result in zip(work, pool.map(compile_variant, *zip(*work, strict=True)), strict=True):
            results[name][arch] = result
    return results


def complaints(binary: Binary, arch: int, *, matrix: bool = False) -> list[str]:
    """What is wrong with a binary whatever Triton's version."""
    wrong = []
    if binary.local:
        wrong.append(f"{binary.kernel} spills: {binary.local} bytes of local memory a thread")
    if binary.shared > MAX_SHARED:
        wrong.append(f"{binary.kernel} takes {binary.shared} bytes of shared memory; at most {MAX_SHARED} are there")
    if matrix and arch == 90 and "wgmma" not in binary.instructions:
        wrong.append(f"{binary.kernel} does not multiply with wgmma; it has {', '.join(binary.instructions) or 'none'}")
    return wrong


def registers_of(results: dict[str, dict[int, list[Binary] | str]]) -> dict[str, dict[str, int]]:
    """The most registers of each variant's kernels: {"variant/kernel": {sm: registers}}."""
    table: dict[str, dict[str, int]] = {}
    for name, by_arch in results.items():
        for arch, binaries in by_arch.items():
            if isinstance(binaries, str):
                raise SystemExit(f"{name} does not compile for sm_{arch}:\n{binaries}")
            for binary in binaries:
                row = table.setdefault(f"{name}/{binary.kernel}", {})
                row[str(arch)] = max(row.get(str(arch), 0), binary.registers)
    return table


def record(results: dict[str, dict[int, list[Binary] | str]]) -> None:
    """Adds what is missing, lowers what fell, drops what is gone; a bound that must rise is an edit by hand."""
    bounds = json.loads(REGISTERS.read_text(encoding="utf-8")) if REGISTERS.exists() else {}
    before, after = bounds.get(triton.__version__, {}), registers_of(results)
    for key, row in after.items():
        for sm, registers in row.items():
            bound = before.get(key, {}).get(sm, registers)
            row[sm] = min(bound, registers)
            if registers > bound:
                print(
                    f"{key} on sm_{sm}: {registers} registers, over its bound {bound}; raise it by hand if it must be"
                )
    bounds[triton.__version__] = after
    versions = []
    for version, table in sorted(bounds.items()):
        rows = [f"    {json.dumps(key)}: {json.dumps(row)}" for key, row in sorted(table.items())]
        versions.append(f"  {json.dumps(version)}: {{\n" + ",\n".join(rows) + "\n  }")
    REGISTERS.write_text("{\n" + ",\n".join(versions) + "\n}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compiles the kernels without a GPU and says what they use.")
    parser.add_argument("--record", action="store_true", help="write the registers into registers.json")
    parser.add_argument("--json", type=Path, help="write what was found into a file, for test_compile.py")
    parser.add_argument("--only", default="", help="variants whose name has this in it")
    parser.add_argument("--sm", type=int, choices=ARCHS, help="one architecture")
    options = parser.parse_args()
    names = [name for name in variants() if options.only in name]
    if not names:
        parser.error(f"no variant's name has {options.only!r} in it; there are {', '.join(variants())}")
    if options.record and (options.only or options.sm):
        parser.error("--record takes every variant and architecture")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        results = compile_all(names, [options.sm] if options.sm else list(ARCHS))
    if options.json:
        options.json.write_text(json.dumps(results, default=dataclasses.asdict), encoding="utf-8")
        return
    for name, by_arch in results.items():
        for arch, binaries in by_arch.items():
            if isinstance(binaries, str):
                print(f"{name}, sm_{arch}:\n{binaries}", file=sys.stderr)
                continue
            for each in binaries:
                print(
                    f"{name:38} sm_{arch:<4} {each.kernel:26} {each.registers:4} registers {each.local:5} B local "
                    f"{each.shared:6} B shared  {each.accesses:24} {' '.join(each.instructions)}"
                )
    if options.record:
        record(results)


if __name__ == "__main__":
    main()
