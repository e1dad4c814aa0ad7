"""The parts, and a process that does some of them."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from correctness import check_all
from linears import time_linears
from peaks import measure_peaks
from peft_steps import time_peft
from products import time_products
from serve import measure_engine
from session import Job, Session
from steps import time_llama_decode, time_mistral_decode, time_prefill

from lorid_engine.ops import use_backend

PARTS: dict[str, Callable[[Session], None]] = {
    "correctness": check_all,
    "peaks": measure_peaks,
    "linears": time_linears,
    "products": time_products,
    "decode": time_llama_decode,
    "prefill": time_prefill,
    "peft": time_peft,
    "engine": measure_engine,
    "mistral": time_mistral_decode,
}


def do(job: Job) -> int:
    """Does a job's parts; returns how many things failed."""
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    session = Session(job)
    session.use_tiles()
    with use_backend("triton"):
        for name in job.parts:
            session.part, begin = name, time.monotonic()
            if session.left <= 0:
                session.refuse("part", "no time left")
                continue
            session.guard("part", lambda name=name: PARTS[name](session))
            session.free()
            session.record("seconds of the part", part_seconds=time.monotonic() - begin)
    return session.failures
