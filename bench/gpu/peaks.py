"""What the device can do at best: bytes copied a second, and a large product of random numbers."""

from __future__ import annotations

import platform
import subprocess
import time

import torch
import triton
from session import Session


def measure_peaks(session: Session) -> None:
    """Device-to-device copies (bytes read and written), a square product, and copies from the host."""
    session.record("machine", **_machine(session))
    _measure_copy(session)
    session.free()
    _measure_matmul(session)
    if session.device.type == "cuda" and not session.warms:
        _measure_upload(session)


def _measure_copy(session: Session) -> None:
    source = torch.empty(session.sizes.copy_bytes // 4, dtype=torch.float32, device=session.device).normal_()
    target = torch.empty_like(source)
    moved = 2 * source.nbytes
    # A kernel's copy: in a graph, copy_ is the copy engine's, which is slower.
    timing = session.measure(
        "copy",
        "copy",
        lambda: torch.neg(source, out=target),
        facts=lambda s: {"bytes_per_s": moved / s},
        moved_bytes=moved,
    )
    if timing is not None:
        session.peaks["bytes_per_s"] = moved / timing.median


def _measure_matmul(session: Session) -> None:
    n = session.sizes.matmul
    a, b = (torch.empty(n, n, dtype=session.dtype, device=session.device).normal_() for _ in range(2))
    flops = 2 * n**3
    timing = session.measure(
        "matmul", "matmul", lambda: torch.mm(a, b), facts=lambda s: {"flop_per_s": flops / s}, size=n
    )
    if timing is not None:
        session.peaks["flop_per_s"] = flops / timing.median


def _measure_upload(session: Session) -> None:
    host = torch.ones(256 << 20, dtype=torch.uint8)
    host.to(session.device)
    rates = []
    for _ in range(3):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        host.to(session.device)
        torch.cuda.synchronize()
        rates.append(host.nbytes / (time.perf_counter() - begin))
    session.record("upload", bytes_per_s=sorted(rates)[1], moved_bytes=host.nbytes, memory="pageable")


def _machine(session: Session) -> dict[str, str]:
    about = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    if session.device.type != "cuda":
        return {"device": "the CPU, by Triton's interpreter", **about}
    properties = torch.cuda.get_device_properties(session.device)
    about |= {"cuda": str(torch.version.cuda), "memory": f"{properties.total_memory / 2**30:.0f} GiB"}
    about |= {"device": properties.name, "processors": str(properties.multi_processor_count)}
    command = [
        "nvidia-smi",
        "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem,power.limit",
        "--format=csv,noheader",
    ]
    try:
        about["driver, clocks, power"] = subprocess.run(
            command, capture_output=True, text=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        about["driver, clocks, power"] = f"not told: {error}"
    return about
