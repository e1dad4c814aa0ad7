"""The engine end to end: requests of two adapters, and what a step takes beside its graph."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from rig import DeviceTensors, kv_bytes
from session import Session

from lorid_engine.engine import Engine, Request, SamplingParams
from lorid_engine.engine.options import EngineOptions
from lorid_engine.engine.tokenizer import Tokenizer
from lorid_engine.model.random_model import number_tokenizer, random_adapter

ADAPTERS = ("first", "second")


def measure_engine(session: Session) -> None:
    """Requests that arrive together, greedy, half of them of each adapter."""
    if session.warms:
        return
    sizes, device = session.sizes, str(session.device)
    config = sizes.llama
    tokens = sizes.prompt + sizes.new + 16
    options = EngineOptions(
        dtype=session.dtype,
        device=device,
        max_batch_rows=sizes.requests,
        max_batch_tokens=sizes.requests * sizes.prompt,
        kv_memory=kv_bytes(config, 3 * sizes.requests * tokens, session.dtype.itemsize),
    )
    tokenizer = Tokenizer(number_tokenizer(config.vocab_size), {})
    begin = time.perf_counter()
    engine = Engine.from_tensors(DeviceTensors(session.device, session.dtype), config, tokenizer, options)
    made = time.perf_counter() - begin
    session.use_tiles()  # not those of this machine's user
    begin = time.perf_counter()
    for number, name in enumerate(ADAPTERS):
        adapter = random_adapter(name, config, sizes.request_rank, ("q_proj", "v_proj"), number)
        engine.load_adapter(name, adapter)
    session.record("engine made", seconds_wall=made, adapters_s=time.perf_counter() - begin)
    for run in range(1 if session.job.dry else 3):  # the first compiles and records
        if session.left <= 0:
            session.refuse("engine", "no time left")
            break
        _run(session, engine, run)
    if session.device.type == "cuda":
        _time_graph(session, engine)


def _run(session: Session, engine: Engine, run: int) -> None:
    sizes = session.sizes
    random = np.random.default_rng(run)
    params = SamplingParams(temperature=0, max_tokens=sizes.new, ignore_eos=True)
    for number in range(sizes.requests):
        prompt = random.integers(0, engine.config.vocab_size, sizes.prompt).tolist()
        engine.add_request(Request(prompt, adapter=ADAPTERS[number % 2], sampling=params))
    steps, tokens, begin = [], 0, time.perf_counter()
    while engine.has_unfinished_requests():
        start = time.perf_counter()
        outputs = engine.step()
        steps.append(time.perf_counter() - start)
        tokens += len(outputs)
        for output in outputs:
            if output.error is not None:
                raise output.error
    seconds = time.perf_counter() - begin
    decodes = sorted(steps[1:])
    session.record(
        "engine",
        run=run,
        seconds=seconds,
        generated=tokens,
        tok_s=tokens / seconds,
        steps=len(steps),
        first_step_s=steps[0],
        step_s=statistics.median(decodes),
        quartiles=[decodes[len(decodes) // 4], decodes[3 * len(decodes) // 4]],
        rows=sizes.requests,
        rank=sizes.request_rank,
        prompt=sizes.prompt,
    )


def _time_graph(session: Session, engine: Engine) -> None:
    """The graph of the last decode step, alone."""
    graphs = list(engine._runner._graphs.values())
    if not graphs:
        session.refuse("engine's graph", "no step was recorded")
        return
    torch.cuda.synchronize()
    seconds = session.timer.replay(graphs[-1].graph.replay, session.sizes.repeats)
    session.record("engine's graph", seconds=statistics.median(seconds), repeats=len(seconds), graphs=len(graphs))
