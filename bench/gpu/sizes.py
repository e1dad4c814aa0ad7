"""What is measured: full, and tiny for a dry run under Triton's interpreter."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from lorid_engine.model.config import ModelConfig
from lorid_engine.model.random_model import shape_config

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 256,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True)
class Sizes:
    """Shapes and counts of every part.

    Attributes:
        check_features: I and O of the ops' checks. check_rows, check_ranks: theirs.
        bits_weights: [O, I] of the checks of bits. bits_rows: batches in which a row must have the same bits.
        model_rows: likewise of a whole step. attention_tokens: of the sequence that is prefilled and decoded.
        linears: [O, I] of the base linears that are timed. linear_rows: theirs.
        product_rows, product_ranks: of shrink + expand. rotated: bytes of weights that a timing goes through.
        step_rows, step_ranks, context: of decode steps. fewer_rows: for 1 and 3 adapters. merged_rows: for merged copies.
        prefill: tokens. prefill_ranks: of its adapters.
        peft_rows, peft_ranks, peft_steps: of PEFT's steps.
        requests, prompt, new, request_rank: of the engine end to end.
        copy_bytes, matmul: of the peaks.
    """

    llama: ModelConfig = field(default_factory=lambda: shape_config("llama-2-7b"))
    mistral: ModelConfig = field(default_factory=lambda: shape_config("mistral-7b"))
    check_features: tuple[int, int] = (1024, 1536)
    check_rows: tuple[int, ...] = (1, 15, 16, 17, 64, 65, 129, 512)
    check_ranks: tuple[int, ...] = (1, 16, 64, 320, 512)
    bits_weights: tuple[tuple[int, int], ...] = ((4096, 4096), (4096, 11008), (12288, 4096))
    bits_ranks: tuple[int, ...] = (0, 64, 512)
    bits_rows: tuple[int, ...] = (1, 2, 17, 64, 65, 128, 129, 300)
    model_rows: tuple[int, ...] = (1, 2, 17, 64, 65, 128)
    model_ranks: tuple[int, ...] = (64, 512)
    attention_tokens: int = 700
    prefilled: int = 300
    linears: tuple[tuple[int, int], ...] = ((12288, 4096), (4096, 4096), (22016, 4096), (4096, 11008), (32000, 4096))
    linear_rows: tuple[int, ...] = (1, 16, 32, 64, 128, 256, 4096)
    product_rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    product_ranks: tuple[int, ...] = (512, 64, 16)
    rotated: int = 256 << 20
    step_rows: tuple[int, ...] = (32, 8, 2, 64, 16, 4, 1)
    step_ranks: tuple[int, ...] = (512, 64, 16)
    context: int = 512
    fewer_rows: tuple[int, ...] = (8, 32)
    merged_rows: tuple[int, ...] = (3, 8, 16, 32)
    mistral_rows: tuple[int, ...] = (32, 8, 2)
    prefill: int = 4096
    prefill_ranks: tuple[int, ...] = (512, 16)
    peft_rows: tuple[int, ...] = (2, 8, 32)
    peft_ranks: tuple[int, ...] = (16, 512)
    peft_steps: int = 20
    requests: int = 32
    prompt: int = 128
    new: int = 64
    request_rank: int = 64
    copy_bytes: int = 2 << 30
    matmul: int = 8192
    repeats: int = 25


def dry_sizes() -> Sizes:
    """So few and small that the interpreter ends within a minute or two."""
    return Sizes(
        llama=ModelConfig.from_raw(TINY),
        mistral=ModelConfig.from_raw({**TINY, "num_key_value_heads": 1}),
        check_features=(64, 48),
        check_rows=(1, 5),
        check_ranks=(80,),
        bits_weights=((64, 2048),),
        bits_ranks=(0, 80),
        bits_rows=(1, 5),
        model_rows=(3,),
        model_ranks=(80,),
        attention_tokens=18,
        prefilled=5,
        linears=((128, 64), (64, 2048), (256, 64)),
        linear_rows=(2,),
        product_rows=(1, 3),
        product_ranks=(80,),
        rotated=1 << 16,
        step_rows=(2,),
        step_ranks=(80,),
        context=32,
        fewer_rows=(),
        merged_rows=(3,),
        mistral_rows=(2,),
        prefill=8,
        prefill_ranks=(16,),
        peft_rows=(2,),
        peft_ranks=(16,),
        peft_steps=1,
        requests=2,
        prompt=5,
        new=2,
        request_rank=16,
        copy_bytes=1 << 16,
        matmul=64,
        repeats=1,
    )


def with_layers(config: ModelConfig, layers: int) -> ModelConfig:
    """The same shape with so many layers."""
    return replace(config, num_layers=layers, windows=config.windows[:layers], rotated=config.rotated[:layers])
