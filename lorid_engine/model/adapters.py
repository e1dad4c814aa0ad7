"""LoRA adapters in PEFT's format: read, checked against the base, and refused by name where they use what is not supported."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from lorid_engine.errors import AdapterError, CheckpointError
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.weights import DTYPES, open_safetensors

# Fields of PEFT's LoraConfig that change the result of a plain LoRA; each must be off.
_REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "lora_bias": "a bias on B",
    "fan_in_fan_out": "transposed weights (fan_in_fan_out)",
    "modules_to_save": "fully trained modules (modules_to_save)",
    "trainable_token_indices": "trained token embeddings (trainable_token_indices)",
    "target_parameters": "adapted parameters outside linear layers (target_parameters)",
    "layer_replication": "replicated layers (layer_replication)",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "arrow_config": "Arrow routing (arrow_config)",
    "velora_config": "VeLoRA (velora_config)",
    "monteclora_config": "Monte Carlo LoRA (monteclora_config)",
    "kasa_config": "KaSA (kasa_config)",
}
_TENSOR = re.compile(r"base_model\.model\.model\.(layers\.(\d+)\.(.+))\.lora_([AB])(?:\.default)?\.weight")


@dataclass(frozen=True)
class LoraWeights:
    """One module's adapter: a [R, I], b [O, R] as stored (mapped from the file), and the factor of their product."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter by module, keyed like "layers.3.self_attn.q_proj"."""

    name: str
    folder: Path
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
    """Reads a PEFT folder (adapter_config.json and adapter_model.safetensors) for a base.

    rsLoRA, rank_pattern and alpha_pattern are honoured; what a plain LoRA cannot express is refused by name.

    Raises:
        AdapterError: files missing or damaged, an unsupported feature, or an adapter made for another base.
    """
    folder = Path(folder)
    settings = _read_config(name, folder)
    _refuse_unsupported(name, settings)
    halves = _read_tensors(name, folder)
    modules: dict[str, LoraWeights] = {}
    shapes = module_shapes(config)
    for module, parts in sorted(halves.items()):
        layer, kind = re.fullmatch(r"layers\.(\d+)\.(.+)", module).groups()  # type: ignore[union-attr]
        if kind not in shapes:
            raise AdapterError(
                f"adapter {name!r} targets {kind}, which is not supported; supported: {', '.join(shapes)}"
            )
        if int(layer) >= config.num_layers:
            raise AdapterError(
                f"adapter {name!r} was made for another base: it has layer {layer}, the base has {config.num_layers} layers"
            )
        modules[module] = _check_module(name, module, parts, settings, *shapes[kind])
    return LoraAdapter(name, folder, modules)


def _read_config(name: str, folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(f"adapter {name!r}: {path} is missing; expected a folder in PEFT's format") from None
    except (OSError, ValueError) as error:
        raise AdapterError(f"adapter {name!r}: {path} cannot be read as JSON: {error}") from None
    if not isinstance(settings, dict):
        raise AdapterError(f"adapter {name!r}: {path} must hold a JSON object")
    return settings


def _refuse_unsupported(name: str, settings: dict[str, Any]) -> None:
    if settings.get("peft_type") != "LORA":
        raise AdapterError(f"adapter {name!r} has peft_type {settings.get('peft_type')!r}; supported: 'LORA'")
    for field, meaning in _REFUSED.items():
        if settings.get(field):
            raise AdapterError(f"adapter {name!r} uses {meaning}, which is not supported")
    if settings.get("bias", "none") != "none":
        raise AdapterError(f"adapter {name!r} trains biases (bias={settings['bias']!r}), which is not supported")
    unknown = [key for key, value in settings.items() if key.startswith("use_") and key != "use_rslora" and value]
    if unknown:
        raise AdapterError(f"adapter {name!r} uses {', '.join(unknown)}, which is not supported")
    for field in ("rank_pattern", "alpha_pattern"):
        pattern = settings.get(field) or {}
        if not isinstance(pattern, dict) or any(len(key) > 200 or not _is_number(n) for key, n in pattern.items()):
            raise AdapterError(f"adapter {name!r}: {field} must map module names to numbers")
    for field in ("r", "lora_alpha"):
        if not _is_number(settings.get(field)) or settings[field] <= 0:
            raise AdapterError(f"adapter {name!r}: {field} must be a positive number; got {settings.get(field)!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_tensors(name: str, folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """A and B of every module in the file; a tensor of any other name is refused."""
    path = folder / "adapter_model.safetensors"
    if not path.exists() and (folder / "adapter_model.bin").exists():
        raise AdapterError(
            f"adapter {name!r}: adapter_model.bin is a pickle, which can run code and is never read; save as safetensors"
        )
    try:
        file = open_safetensors(path)
        halves: dict[str, dict[str, torch.Tensor]] = {}
        for key in file.keys():  # noqa: SIM118
            match = _TENSOR.fullmatch(key)
            if match is None:
                raise AdapterError(
                    f"adapter {name!r} has the tensor {key}, which is no LoRA matrix of a supported module"
                )
            halves.setdefault(match[1], {})[match[4]] = file.get_tensor(key)
    except (CheckpointError, SafetensorError, TypeError, AttributeError) as error:
        raise AdapterError(f"adapter {name!r}: {error}") from None
    if not halves:
        raise AdapterError(f"adapter {name!r}: {path} has no LoRA matrices")
    return halves


def _pattern_value(pattern: dict[str, Any] | None, module: str, default: float) -> float:
    """PEFT's rule (peft.utils.other.get_pattern_key): the first key that, as a regex, ends the module's full name."""
    for key, value in (pattern or {}).items():
        try:
            if re.match(rf"(.*\.)?({key})$", f"model.{module}"):
                return value
        except re.error as error:
            raise AdapterError(f"the pattern {key!r} is no regular expression: {error}") from None
    return default


def _check_module(
    name: str,
    module: str,
    parts: dict[str, torch.Tensor],
    settings: dict[str, Any],
    out_features: int,
    in_features: int,
) -> LoraWeights:
    if len(parts) != 2:
        missing = "B" if "A" in parts else "A"
        raise AdapterError(f"adapter {name!r}: {module} has no lora_{missing}")
    rank = _pattern_value(settings.get("rank_pattern"), module, settings["r"])
    alpha = _pattern_value(settings.get("alpha_pattern"), module, settings["lora_alpha"])
    if not isinstance(rank, int) or rank <= 0:
        raise AdapterError(f"adapter {name!r}: the rank of {module} must be a positive whole number; got {rank!r}")
    a, b = parts["A"], parts["B"]
    for half, tensor, shape, width in (
        ("A", a, (rank, in_features), in_features),
        ("B", b, (out_features, rank), out_features),
    ):
        if tensor.dtype not in DTYPES:
            raise AdapterError(f"adapter {name!r}: {module} lora_{half} must be floating point; got {tensor.dtype}")
        if tuple(tensor.shape) != shape:
            other = tensor.dim() == 2 and width not in tensor.shape
            why = "was made for another base" if other else "does not fit its adapter_config.json"
            raise AdapterError(
                f"adapter {name!r} {why}: {module} lora_{half} must have shape {list(shape)}; got {list(tensor.shape)}"
            )
        if not bool(tensor.isfinite().all()):
            raise AdapterError(f"adapter {name!r}: {module} lora_{half} holds NaN or infinity")
    scale = alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
    return LoraWeights(a, b, float(scale))
