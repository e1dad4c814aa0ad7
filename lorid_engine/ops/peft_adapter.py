"""LoRA adapters in PEFT's format, without a model: matrices and scales by module, everything else refused by name."""

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
from lorid_engine.tensor_files import DTYPES, open_safetensors

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
# Ways to begin training that change the base's own weights, and would have to change ours.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")


# A pattern comes from a file, and matching one with nested or many repetitions can take longer than anyone waits.
_REPEATS = re.compile(r"[*+?{]")
_REPEATED_GROUP = re.compile(r"\)[*+?{]")


@dataclass(frozen=True)
class LoraWeights:
    """One module's adapter: a [R, I], b [O, R] as stored (mapped from the file), and the factor of their product."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float


def read_peft_adapter(folder: Path | str, name: str) -> dict[str, LoraWeights]:
    """Reads a PEFT folder (adapter_config.json and adapter_model.safetensors).

    rsLoRA, rank_pattern and alpha_pattern are honoured; what a plain LoRA cannot express is refused.

    Args:
        folder: where the two files are.
        name: of the adapter, for messages.

    Returns:
        The weights by module, keyed as in the model, like "model.layers.3.self_attn.q_proj".

    Raises:
        AdapterError: files missing or damaged, or an unsupported feature.
    """
    folder = Path(folder)
    settings = _read_config(name, folder)
    _refuse_unsupported(name, settings)
    halves = _read_tensors(name, folder)
    return {module: _check_module(name, module, parts, settings) for module, parts in sorted(halves.items())}


def _read_config(name: str, folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(f"adapter {name!r}: {path} is missing; expected a folder in PEFT's format") from None
    except (OSError, ValueError, RecursionError) as error:
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
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise AdapterError(
            f"adapter {name!r} changes the base's weights (init_lora_weights={start!r}), which is not supported; "
            "save it converted to a plain LoRA (PEFT: path_initial_model_for_weight_conversion)"
        )
    for field in ("rank_pattern", "alpha_pattern"):
        pattern = settings.get(field) or {}
        if not isinstance(pattern, dict) or any(len(key) > 200 or not _is_number(n) for key, n in pattern.items()):
            raise AdapterError(f"adapter {name!r}: {field} must map module names to numbers")
    for field in ("r", "lora_alpha"):
        if not _is_number(settings.get(field)) or settings[field] <= 0:
            raise AdapterError(f"adapter {name!r}: {field} must be a positive number; got {settings.get(field)!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e30 < value < 1e30


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
            parts = halves.setdefault(match[1], {})
            if match[2] in parts:
                raise AdapterError(f"adapter {name!r} has lora_{match[2]} of {match[1]} twice")
            parts[match[2]] = file.get_tensor(key)
    except (CheckpointError, SafetensorError, TypeError, AttributeError) as error:
        raise AdapterError(f"adapter {name!r}: {error}") from None
    if not halves:
        raise AdapterError(f"adapter {name!r}: {path} has no LoRA matrices")
    return halves


def _pattern_value(name: str, pattern: dict[str, Any] | None, module: str, default: float) -> float:
    """PEFT's rule (peft.utils.other.get_pattern_key): the first key that, as a regex, ends the module's full name."""
    for key, value in (pattern or {}).items():
        if len(_REPEATS.findall(key)) > 3 or key.count("|") > 8 or _REPEATED_GROUP.search(key):
            raise AdapterError(
                f"adapter {name!r}: the pattern {key!r} is too intricate: matching it could take for ever"
            )
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except (re.error, OverflowError, RecursionError) as error:
            raise AdapterError(f"adapter {name!r}: the pattern {key!r} is no regular expression: {error}") from None
    return default


def _check_module(name: str, module: str, parts: dict[str, torch.Tensor], settings: dict[str, Any]) -> LoraWeights:
    if len(parts) != 2:
        missing = "B" if "A" in parts else "A"
        raise AdapterError(f"adapter {name!r}: {module} has no lora_{missing}")
    rank = _pattern_value(name, settings.get("rank_pattern"), module, settings["r"])
    alpha = _pattern_value(name, settings.get("alpha_pattern"), module, settings["lora_alpha"])
    if not isinstance(rank, int) or rank <= 0:
        raise AdapterError(f"adapter {name!r}: the rank of {module} must be a positive whole number; got {rank!r}")
    for half, axis in (("A", 0), ("B", 1)):
        tensor = parts[half]
        if tensor.dtype not in DTYPES:
            raise AdapterError(
                f"adapter {name!r}: {module} lora_{half} must be bfloat16, float16 or float32; got {tensor.dtype}"
            )
        if tensor.dim() != 2 or tensor.shape[axis] != rank:
            shape = f"[{rank}, I]" if half == "A" else f"[O, {rank}]"
            raise AdapterError(
                f"adapter {name!r} does not fit its adapter_config.json: {module} lora_{half} must have shape {shape}; "
                f"got {list(tensor.shape)}"
            )
        if not bool(tensor.isfinite().all()):
            raise AdapterError(f"adapter {name!r}: {module} lora_{half} holds NaN or infinity")
    scale = alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
    return LoraWeights(parts["A"], parts["B"], float(scale))
