"""Random weights of a model's shape, for measuring speed without a download."""

from __future__ import annotations

import math
from typing import Any

import tokenizers
import torch
from tokenizers import models

from lorid_engine.errors import ConfigError
from lorid_engine.model.adapters import LoraAdapter, module_shapes
from lorid_engine.model.config import ModelConfig
from lorid_engine.ops.peft_adapter import LoraWeights

_BLOCK = 1 << 24  # random elements that every tensor is cut from: drawing billions would take minutes
_WEIGHT_STD = 0.02
# What the models' own config.json files say of their shapes.
_SHAPES: dict[str, dict[str, Any]] = {
    "llama-2-7b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 11008,
        "vocab_size": 32000,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
    },
    "mistral-7b": {
        "model_type": "mistral",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 32000,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
    },
    "smollm2-135m": {
        "model_type": "llama",
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
}
SHAPES = tuple(_SHAPES)


def shape_config(name: str) -> ModelConfig:
    """The configuration of one of SHAPES.

    Raises:
        ConfigError: another name.
    """
    if name not in _SHAPES:
        raise ConfigError(f"there is no shape {name!r}; there are {', '.join(_SHAPES)}")
    return ModelConfig.from_raw(_SHAPES[name])


class RandomTensors:
    """A model's tensors, each cut from one block of normal draws; norms are ones. A TensorSource."""

    def __init__(self, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        self._block = (torch.randn(_BLOCK, generator=random) * _WEIGHT_STD).to(torch.bfloat16)
        self._at = 0

    @property
    def names(self) -> frozenset[str]:
        """None are known beforehand: every tensor that is asked for is there."""
        return frozenset()

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A bfloat16 tensor of this shape."""
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=torch.bfloat16)
        size = math.prod(shape)
        self._at = (self._at + 104729) % _BLOCK  # a prime further on: equal shapes get different weights
        begun = torch.roll(self._block, self._at) if self._at else self._block
        return begun.repeat(-(-size // _BLOCK))[:size].reshape(shape)


def random_adapter(name: str, config: ModelConfig, rank: int, targets: tuple[str, ...], seed: int) -> LoraAdapter:
    """An adapter whose A and B are both random, in bfloat16, with alpha = 2 rank.

    Args:
        config: of the base.
        rank: of every module.
        targets: projections of every layer, such as q_proj.
        seed: of the draws.

    Raises:
        ConfigError: a projection that there is not.
    """
    shapes = {module.rsplit(".", 1)[1]: (module, shape) for module, shape in module_shapes(config).items()}
    for target in targets:
        if target not in shapes:
            raise ConfigError(f"there is no projection {target!r} to adapt; there are {', '.join(shapes)}")
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=random) * _WEIGHT_STD).to(torch.bfloat16)

    modules = {}
    for layer in range(config.num_layers):
        for target in targets:
            module, (out_features, in_features) = shapes[target]
            modules[f"layers.{layer}.{module}"] = LoraWeights(draw(rank, in_features), draw(out_features, rank), 2.0)
    return LoraAdapter(name, modules)


def number_tokenizer(vocab_size: int) -> tokenizers.Tokenizer:
    """A tokenizer whose tokens are their own numbers."""
    return tokenizers.Tokenizer(models.WordLevel({str(token): token for token in range(vocab_size)}, unk_token="0"))
