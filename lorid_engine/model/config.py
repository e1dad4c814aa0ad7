"""ModelConfig: what the forward needs to know of a checkpoint, read from its config.json."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorid_engine.errors import CheckpointError
from lorid_engine.model.families import family_of, has_bias, layer_windows, rotated_layers
from lorid_engine.model.rotary import Rotary

_MOST_LAYERS = 4096  # far above any model: a damaged config should not fill the memory


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint.

    Raises:
        CheckpointError: the file is missing, not JSON, or no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} has no {path.name}; a base is a folder in Hugging Face's format"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object; got {type(value).__name__}")
    return value


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a Llama-family model.

    Attributes:
        max_positions: the longest context, in tokens.
        windows: how many keys a row sees in each layer, its own included; 0 = all before it.
        rotated: which layers have a rotary embedding.
        qkv_bias, output_bias, mlp_bias: whether these projections have one.
        head_norm: whether every query and key head has an RMS norm before it is rotated.

    Raises:
        CheckpointError: numbers that fit no such model.
    """

    model_type: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rms_norm_eps: float
    rotary: Rotary
    max_positions: int
    tie_word_embeddings: bool
    eos_token_ids: tuple[int, ...]
    windows: tuple[int, ...]
    rotated: tuple[bool, ...]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    head_norm: bool

    def __post_init__(self) -> None:
        sizes = (
            "hidden_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "intermediate_size",
            "vocab_size",
        )
        for name in (*sizes, "max_positions"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
                raise CheckpointError(f"config.json: {name} must be a positive whole number; got {value!r}")
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"config.json: {self.num_heads} attention heads cannot share {self.num_kv_heads} key-value heads evenly"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"config.json: head_dim must be even for rotary embedding; got {self.head_dim}")
        if not (math.isfinite(self.rms_norm_eps) and self.rms_norm_eps >= 0):
            raise CheckpointError(f"config.json: rms_norm_eps must be a number of at least 0; got {self.rms_norm_eps}")

    @classmethod
    def from_folder(cls, folder: Path | str) -> ModelConfig:
        """Reads config.json, and generation_config.json where there is one (more end-of-text tokens).

        Raises:
            CheckpointError: a file is missing or damaged, or the model is of a kind that is not supported.
        """
        folder = Path(folder)
        return cls.from_raw(read_json(folder / "config.json"), folder)

    @classmethod
    def from_raw(cls, raw: dict[str, Any], folder: Path = Path()) -> ModelConfig:
        """The configuration of what a config.json holds; `folder` is where it lies, and its generation_config.json.

        Raises:
            CheckpointError: as from_folder.
        """
        family = family_of(folder, raw)
        if raw.get("hidden_act", "silu") != "silu":
            raise CheckpointError(f"{folder}: hidden_act {raw['hidden_act']!r} is not supported; supported: silu")
        try:
            num_layers = raw["num_hidden_layers"]
            if not isinstance(num_layers, int) or not 0 < num_layers <= _MOST_LAYERS:
                raise CheckpointError(
                    f"config.json: num_hidden_layers must be a whole number from 1 to {_MOST_LAYERS}; got {num_layers!r}"
                )
            rotary = Rotary.from_config(folder, raw, family.theta)
            return cls(
                model_type=raw["model_type"],
                hidden_size=raw["hidden_size"],
                num_layers=num_layers,
                num_heads=raw["num_attention_heads"],
                num_kv_heads=raw.get("num_key_value_heads") or raw["num_attention_heads"],
                head_dim=raw.get("head_dim") or family.head_dim or raw["hidden_size"] // raw["num_attention_heads"],
                intermediate_size=raw["intermediate_size"],
                vocab_size=raw["vocab_size"],
                rms_norm_eps=float(raw["rms_norm_eps"]),
                rotary=rotary,
                max_positions=rotary.stretched(raw["max_position_embeddings"]),
                tie_word_embeddings=bool(raw.get("tie_word_embeddings", family.ties)),
                eos_token_ids=_eos_token_ids(folder, raw),
                windows=layer_windows(folder, raw, family, num_layers),
                rotated=rotated_layers(folder, raw, family, num_layers),
                qkv_bias=has_bias(raw, family.qkv_bias),
                output_bias=has_bias(raw, family.output_bias),
                mlp_bias=has_bias(raw, family.mlp_bias),
                head_norm=family.head_norm,
            )
        except CheckpointError:
            raise
        except KeyError as error:
            raise CheckpointError(f"{folder / 'config.json'} has no {error.args[0]}") from None
        except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
            raise CheckpointError(f"{folder / 'config.json'}: {error}") from None


def _eos_token_ids(folder: Path, raw: dict[str, Any]) -> tuple[int, ...]:
    found: set[int] = set()
    generation = folder / "generation_config.json"
    for source in (raw, read_json(generation) if generation.exists() else {}):
        given = source.get("eos_token_id")
        ids = given if isinstance(given, list) else [] if given is None else [given]
        if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
            raise CheckpointError(f"{folder}: eos_token_id must be a token id or a list of them; got {given!r}")
        found.update(ids)
    return tuple(sorted(found))
