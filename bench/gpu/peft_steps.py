"""Decode steps of transformers with PEFT: one batch of two adapters by adapter_names, in a process of its own."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from session import Session


def time_peft(session: Session) -> None:
    """Steps on a cache of the same context as ours, launched one by one as PEFT does, waited for."""
    if session.warms:
        return
    import peft
    import transformers

    session.record("versions", transformers=transformers.__version__, peft=peft.__version__)
    begin = time.monotonic()
    model = _model(session)
    session.record("model made", seconds_wall=time.monotonic() - begin)
    for rank in session.sizes.peft_ranks:
        for rows in session.sizes.peft_rows:
            if session.left <= 0:
                session.refuse("step", "no time left", rank=rank, rows=rows)
                continue
            session.guard(
                "step", lambda rank=rank, rows=rows: _time_steps(session, model, rank, rows), rank=rank, rows=rows
            )
            session.free()


def _model(session: Session) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = session.sizes.llama
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=shape.max_positions,
        rms_norm_eps=shape.rms_norm_eps,
    )
    usual = torch.get_default_dtype()
    torch.set_default_dtype(session.dtype)
    try:
        with session.device:
            model = LlamaForCausalLM(config).eval()
            for rank in session.sizes.peft_ranks:
                for name in ("first", "second"):
                    lora = LoraConfig(
                        r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"], init_lora_weights=False
                    )
                    if isinstance(model, PeftModel):
                        model.add_adapter(f"{name}_{rank}", lora)
                    else:
                        model = get_peft_model(model, lora, adapter_name=f"{name}_{rank}")
    finally:
        torch.set_default_dtype(usual)
    for each in model.parameters():  # PEFT makes adapters float32 by default, which costs it time
        each.data = each.data.to(device=session.device, dtype=session.dtype)
    return model.eval()


def _cache(session: Session, rows: int) -> Any:
    """A cache of random keys and values, one token short of our context."""
    from transformers import DynamicCache

    shape, cache = session.sizes.llama, DynamicCache()
    kv = (rows, shape.num_kv_heads, session.sizes.context - 1, shape.head_dim)
    for layer in range(shape.num_layers):
        keys, values = (torch.empty(kv, dtype=session.dtype, device=session.device).normal_() for _ in range(2))
        cache.update(keys, values, layer)
    return cache


def _time_steps(session: Session, model: Any, rank: int, rows: int) -> None:
    names = [f"{'first' if row * 2 < rows else 'second'}_{rank}" for row in range(rows)]
    cache = _cache(session, rows)
    ids = torch.zeros(rows, 1, dtype=torch.int64, device=session.device)
    seconds, warm_ups = [], 1 if session.job.dry else 4
    with torch.inference_mode():
        for _ in range(session.sizes.peft_steps + warm_ups):
            begin = time.perf_counter()
            logits = model(input_ids=ids, past_key_values=cache, use_cache=True, adapter_names=names).logits
            ids = logits[:, -1].argmax(dim=-1, keepdim=True)
            if session.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
    timed = sorted(seconds[warm_ups:])
    median = statistics.median(timed)
    session.record(
        "step",
        form="peft",
        rank=rank,
        rows=rows,
        adapters=2,
        seconds=median,
        quartiles=[timed[len(timed) // 4], timed[3 * len(timed) // 4]],
        repeats=len(timed),
        tok_s=rows / median,
    )
