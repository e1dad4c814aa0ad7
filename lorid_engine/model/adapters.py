"""Adapters of a model: what a PEFT folder holds, checked against the base."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lorid_engine.errors import AdapterError
from lorid_engine.model.config import ModelConfig
from lorid_engine.ops.peft_adapter import LoraWeights, read_peft_adapter


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter by module, keyed like "layers.3.self_attn.q_proj"."""

    name: str
    modules: dict[str, LoraWeights]


def module_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """(out_features, in_features) of each adaptable module of a layer."""
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    hidden, wide = config.hidden_size, config.intermediate_size
    return {
        "self_attn.q_proj": (heads, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, heads),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }


def load_adapter(name: str, folder: Path | str, config: ModelConfig) -> LoraAdapter:
    """Reads a folder in PEFT's format for a base.

    Raises:
        AdapterError: files missing or damaged, an unsupported feature, or an adapter made for another base.
    """
    read = read_peft_adapter(folder, name)
    for module, weights in read.items():
        _check_fit(name, module, weights, config)
    return LoraAdapter(name, {module.removeprefix("model."): weights for module, weights in read.items()})


def check_adapter(adapter: LoraAdapter, config: ModelConfig) -> None:
    """Raises AdapterError if an adapter's matrices do not fit a base."""
    for module, weights in adapter.modules.items():
        _check_fit(adapter.name, f"model.{module}", weights, config)


def _check_fit(name: str, module: str, weights: LoraWeights, config: ModelConfig) -> None:
    shapes = module_shapes(config)
    match = re.fullmatch(r"model\.layers\.(0|[1-9][0-9]{0,5})\.(.+)", module)
    if match is None or match[2] not in shapes:
        raise AdapterError(f"adapter {name!r} targets {module}, which is not supported; supported: {', '.join(shapes)}")
    if int(match[1]) >= config.num_layers:
        raise AdapterError(
            f"adapter {name!r} was made for another base: it has layer {match[1]}, the base has {config.num_layers} layers"
        )
    out_features, in_features = shapes[match[2]]
    rank = weights.a.shape[0]
    for half, tensor, shape in (("A", weights.a, [rank, in_features]), ("B", weights.b, [out_features, rank])):
        if tensor.device.type != "cpu" or not tensor.is_floating_point():
            raise AdapterError(
                f"adapter {name!r}: {module} lora_{half} must be floating point on the CPU; "
                f"got {tensor.dtype} on {tensor.device}"
            )
        if list(tensor.shape) != shape:
            raise AdapterError(
                f"adapter {name!r} was made for another base: {module} lora_{half} must have shape {shape}; "
                f"got {list(tensor.shape)}"
            )
