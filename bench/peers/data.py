"""The base and random adapters in the formats that the peers read, each written once under a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gguf
import torch
from peers.job import ADAPTERS
from safetensors import safe_open
from safetensors.torch import save_file

from lorid_engine.model.adapters import LoraAdapter
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.random_model import random_adapter

TARGETS = ("q_proj", "v_proj")
# A layer's tensors by Hugging Face's names, and by GGUF's.
_GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GGUF_ENDS = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
_BF16 = gguf.GGMLQuantizationType.BF16
Paths = dict[str, dict[str, str]]  # by rank and adapter


def peft_adapters(base: Path, folder: Path, ranks: Sequence[int]) -> Paths:
    """Random bfloat16 adapters of every rank above 0, as folders in PEFT's format."""

    def write(adapter: LoraAdapter, rank: int, target: Path) -> None:
        tensors = {
            f"base_model.model.model.{module}.lora_{half}.weight": matrix
            for module, weights in adapter.modules.items()
            for half, matrix in (("A", weights.a), ("B", weights.b))
        }
        about = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank}
        target.mkdir(exist_ok=True)
        save_file(tensors, target / "adapter_model.safetensors")
        (target / "adapter_config.json").write_text(json.dumps({**about, "target_modules": list(TARGETS)}))

    return _adapters(base, folder, ranks, "", write)


def gguf_adapters(base: Path, folder: Path, ranks: Sequence[int]) -> Paths:
    """The same adapters as GGUF files."""
    config = ModelConfig.from_folder(base)

    def write(adapter: LoraAdapter, rank: int, target: Path) -> None:
        writer = gguf.GGUFWriter(target, "llama")
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 2.0 * rank)
        for module, weights in adapter.modules.items():
            name = _gguf_name(f"model.{module}.weight")
            _add(writer, f"{name}.lora_a", weights.a)
            _add(writer, f"{name}.lora_b", _rotary_order(name, weights.b, config))
        _close(writer)

    return _adapters(base, folder, ranks, ".gguf", write)


def gguf_base(base: Path, folder: Path) -> str:
    """A base of the Llama family as a GGUF file of bfloat16; it has no tokenizer, since the prompts are tokens."""
    config = ModelConfig.from_folder(base)

    def write(target: Path) -> None:
        writer = gguf.GGUFWriter(target, "llama")
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(config.vocab_size)
        writer.add_context_length(config.max_positions)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_heads)
        writer.add_head_count_kv(config.num_kv_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_rope_freq_base(config.rotary.theta)
        for name, tensor in _tensors(base):
            gguf_name = _gguf_name(name)
            _add(writer, gguf_name, _rotary_order(gguf_name, tensor, config))
        _close(writer)

    return _once(folder / "base.gguf", write)


def _adapters(
    base: Path, folder: Path, ranks: Sequence[int], suffix: str, write: Callable[[LoraAdapter, int, Path], None]
) -> Paths:
    config = ModelConfig.from_folder(base)
    paths: Paths = {}
    for rank in filter(None, ranks):
        for seed, name in enumerate(ADAPTERS):
            target = folder / f"{name}-rank-{rank}{suffix}"
            paths.setdefault(str(rank), {})[name] = _once(
                target,
                lambda path, rank=rank, seed=seed: write(random_adapter("", config, rank, TARGETS, seed), rank, path),
            )
    return paths


def _once(target: Path, write: Callable[[Path], None]) -> str:
    """Has a file or folder written beside its place, and moved there when it is whole; returns its path."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        write(partial)
        os.replace(partial, target)
    return str(target)


def _tensors(base: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                yield name, file.get_tensor(name)


def _gguf_name(name: str) -> str:
    """GGUF's name of a weight that Hugging Face calls model.layers.3.self_attn.q_proj.weight, say."""
    stem = name.removeprefix("model.").removesuffix(".weight")
    if not stem.startswith("layers."):
        return f"{_GGUF_ENDS[stem]}.weight"
    _, layer, module = stem.split(".", 2)
    return f"blk.{layer}.{_GGUF_NAMES[module]}.weight"


def _rotary_order(name: str, matrix: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """A matrix with its output rows as GGUF has them: the two halves of every query and key head interleaved."""
    heads = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return matrix
    return matrix.reshape(heads, 2, config.head_dim // 2, -1).transpose(1, 2).reshape(matrix.shape)


def _add(writer: gguf.GGUFWriter, name: str, tensor: torch.Tensor) -> None:
    values = tensor.float().contiguous().numpy()
    if values.ndim == 1:  # llama.cpp wants its norms in float32
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, _BF16), raw_dtype=_BF16)


def _close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
