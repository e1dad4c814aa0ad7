"""The model families: what differs between them, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorid_engine.errors import CheckpointError


@dataclass(frozen=True)
class Family:
    """What a family's checkpoints have, beyond the sizes that every config.json states.

    A bias is there always, never, or where a named entry of config.json is true.

    Attributes:
        qkv_bias: of q_proj, k_proj and v_proj. output_bias: of o_proj. mlp_bias: of gate_proj, up_proj and down_proj.
        head_norm: every query and key head has an RMS norm before it is rotated.
        head_dim: where config.json has none; None = hidden_size / num_attention_heads.
        theta: of the rotary embedding, where config.json has none.
        ties: whether embedding and head are one weight, where config.json does not say.
        window: "never"; "always": in every layer where sliding_window is a number; "chosen": with use_sliding_window, in the
            layers that layer_types names, else in those without rotation, or from max_window_layers (28) on.
        window_size: where config.json has no sliding_window (null is another matter: no window).
        unrotated: some layers have no rotary embedding: those with 0 in no_rope_layers, or each no_rope_layer_interval-th.
    """

    qkv_bias: bool | str = False
    output_bias: bool | str = False
    mlp_bias: bool | str = False
    head_norm: bool = False
    head_dim: int | None = None
    theta: float = 10000.0
    ties: bool = False
    window: str = "never"
    window_size: int | None = None
    unrotated: bool = False


FAMILIES = {
    "llama": Family("attention_bias", "attention_bias", "mlp_bias"),
    "mistral": Family(window="always", window_size=4096),
    "qwen2": Family(qkv_bias=True, window="chosen", window_size=4096),
    "qwen3": Family(
        "attention_bias", "attention_bias", head_norm=True, head_dim=128, window="chosen", window_size=4096
    ),
    "smollm3": Family(
        "attention_bias", "attention_bias", "mlp_bias", theta=2e6, ties=True, window="chosen", unrotated=True
    ),
}


def family_of(folder: Path, raw: dict[str, Any]) -> Family:
    """The family that config.json names.

    Raises:
        CheckpointError: one that is not supported; the message lists those that are.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(f"{folder}: model_type {model_type!r} is not supported; supported: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def has_bias(raw: dict[str, Any], rule: bool | str) -> bool:
    """Whether a rule of Family gives this config a bias."""
    return bool(raw.get(rule)) if isinstance(rule, str) else rule


def layer_windows(folder: Path, raw: dict[str, Any], family: Family, num_layers: int) -> tuple[int, ...]:
    """How many keys a row sees in each layer, its own included; 0 = all before it.

    Raises:
        CheckpointError: a window that is no positive number, or kinds of layers that are not supported.
    """
    window = raw.get("sliding_window", family.window_size)
    used = family.window == "always" or (family.window == "chosen" and bool(raw.get("use_sliding_window")))
    if not used or window is None:
        return (0,) * num_layers
    if not isinstance(window, int) or isinstance(window, bool) or not 1 <= window < 2**31:
        raise CheckpointError(f"{folder}: sliding_window must be a whole number of at least 1; got {window!r}")
    if family.window == "always":
        return (window,) * num_layers
    kinds = raw.get("layer_types")
    if kinds is None and family.unrotated:
        return tuple(0 if turns else window for turns in rotated_layers(folder, raw, family, num_layers))
    if kinds is None:
        first = raw.get("max_window_layers", 28)
        return tuple(window if layer >= first else 0 for layer in range(num_layers))
    widths = {"full_attention": 0, "sliding_attention": window}
    if not isinstance(kinds, list) or len(kinds) != num_layers or any(kind not in widths for kind in kinds):
        raise CheckpointError(f"{folder}: layer_types must name {' or '.join(widths)} for each of {num_layers} layers")
    return tuple(widths[kind] for kind in kinds)


def rotated_layers(folder: Path, raw: dict[str, Any], family: Family, num_layers: int) -> tuple[bool, ...]:
    """Which layers have a rotary embedding.

    Raises:
        CheckpointError: no_rope_layers has another number of layers.
    """
    if not family.unrotated:
        return (True,) * num_layers
    flags = raw.get("no_rope_layers")
    if flags is None:
        interval = raw.get("no_rope_layer_interval", 4)
        return tuple((layer + 1) % interval != 0 for layer in range(num_layers))
    if not isinstance(flags, list) or len(flags) < num_layers:
        raise CheckpointError(f"{folder}: no_rope_layers must have an entry for each of {num_layers} layers")
    return tuple(bool(flag) for flag in flags[:num_layers])
