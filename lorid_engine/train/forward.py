"""TrainingOps: the ops of model.llama's forward, differentiable, over a MicroBatch without padding."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lorid_engine.model.config import ModelConfig
from lorid_engine.model.llama import FusedLinear, LayerWeights, LlamaWeights, attend, block, finish, load_llama
from lorid_engine.model.weights import Checkpoint
from lorid_engine.ops import PackedLinear, lora_fused_linear, packed_attention, rms_norm, silu_mul
from lorid_engine.train.adapters import RoleAdapters
from lorid_engine.train.dense_lora import dense_lora_linear, is_worth_it, row_factors
from lorid_engine.train.micro_batch import MicroBatch


def plain_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLinear:
    """A weight as it is: what the backward pass can multiply by, too."""
    return PackedLinear(weight.contiguous(), weight.shape[0], weight.shape[1], bias)


def load_frozen(
    base: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device | None = None
) -> LlamaWeights:
    """A base's weights, rounded to bfloat16 as the engine has them, and held in the dtype that is computed in.

    Args:
        device: where they are held; None = the CPU.

    Raises:
        CheckpointError: as load_llama.
    """

    def moved(tensor: torch.Tensor | None) -> Any:
        return None if tensor is None else tensor.to(device=device)

    weights = load_llama(
        Checkpoint(base),
        config,
        torch.bfloat16,
        lambda weight, bias: plain_linear(weight.to(device=device, dtype=dtype), moved(bias)),
    )
    norms = ("input_norm", "q_norm", "k_norm", "feed_forward_norm")
    layers = (replace(layer, **{name: moved(getattr(layer, name)) for name in norms}) for layer in weights.layers)
    return replace(weights, layers=tuple(layers), norm=moved(weights.norm))


@dataclass(frozen=True)
class Angles:
    """cos and sin [positions, D / 2] float32."""

    cos: torch.Tensor
    sin: torch.Tensor


class TrainingOps:
    """Implements model.llama.ForwardOps on tensors with gradients; made anew for every MicroBatch.

    Args:
        adapters: of the roles.
        dropout: of LoRA's inputs; 0 = none, as in evaluation.
    """

    def __init__(
        self, config: ModelConfig, adapters: RoleAdapters, batch: MicroBatch, angles: Angles, dropout: float
    ) -> None:
        self._config, self._adapters, self._batch, self._dropout = config, adapters, batch, dropout
        self._cos, self._sin = angles.cos[batch.positions], angles.sin[batch.positions]
        self._plan, self._dropout_key = batch.plan, batch.dropout_key
        self._is_dense = is_worth_it(batch.tokens.device, adapters.rank * len(adapters.roles), dropout)
        self._factors: torch.Tensor | None = None  # of the rows, made at the first adapters

    def embed(self, weight: PackedLinear) -> Any:
        """Hidden states [T, E]."""
        return functional.embedding(self._batch.tokens, weight.data)

    def rms_norm(self, x: Any, weight: torch.Tensor) -> Any:
        """Normalised rows [T, E]."""
        return rms_norm(x, weight, self._config.rms_norm_eps)

    def rms_norm_sampled(self, x: Any, weight: torch.Tensor) -> Any:
        """Normalised rows [K, E]: no others are left."""
        return self.rms_norm(x, weight)

    def lora_linear(self, x: Any, linear: FusedLinear) -> Any:
        """W x and the adapters' shares, [T, O]."""
        adapted = [target for target in linear.targets if target.name in self._adapters.modules]
        weight = linear.weight
        if not adapted:
            return functional.linear(x, weight.data, None if weight.bias is None else weight.bias.to(x.dtype))
        banks = [(target.col_begin, self._adapters.modules[target.name].bank(x.dtype)) for target in adapted]
        if self._is_dense:
            if self._factors is None:
                self._factors = row_factors(self._plan, banks[0][1], x.dtype)
            return dense_lora_linear(x, weight, banks, self._factors)
        dropout = None
        if self._dropout:
            numbers = [self._adapters.number(target.name) for target in adapted]
            dropout = self._dropout, self._dropout_key, numbers
        return lora_fused_linear(x, weight, banks, self._plan, dropout)

    def lora_linear_add(self, x: Any, linear: FusedLinear, residual: Any) -> Any:
        """residual + W x and the adapters' shares."""
        return residual + self.lora_linear(x, linear)

    def rope(self, qkv: Any, layer: int, q_norm: torch.Tensor | None, k_norm: torch.Tensor | None) -> Any:
        """Queries, keys and values; the attention rotates them. Heads are normalised here where there are norms."""
        if q_norm is None or k_norm is None:
            return qkv
        config = self._config
        heads = [count * config.head_dim for count in (config.num_heads, config.num_kv_heads, config.num_kv_heads)]
        q, k, v = qkv.split(heads, dim=1)
        normed = [
            self.rms_norm(part.reshape(-1, config.head_dim), norm).view(part.shape)
            for part, norm in ((q, q_norm), (k, k_norm))
        ]
        return torch.cat([*normed, v], dim=1)

    def paged_attention(self, q: Any, layer: int) -> Any:
        """Causal attention of every sequence over itself, [T, H D]; there are no pages in training."""
        config, rotates = self._config, self._config.rotated[layer]
        return packed_attention(
            q,
            self._batch.seq_offset,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            cos=self._cos if rotates else None,
            sin=self._sin if rotates else None,
            window=config.windows[layer],
            max_len=self._batch.max_len,
        )

    def silu_mul(self, x: Any) -> Any:
        """The gated half, [T, F]."""
        return silu_mul(x)

    def targets(self, x: torch.Tensor) -> torch.Tensor:
        """The rows of x [T, ...] that predict a target, [K, ...]."""
        return x.index_select(0, self._batch.target_row)

    def of_targets(self) -> TrainingOps:
        """The same for those rows alone, past the last attention."""
        ops, batch = copy.copy(self), self._batch
        ops._plan, ops._dropout_key = batch.target_plan, self.targets(batch.dropout_key)
        ops._factors = None
        return ops


def last_block(ops: TrainingOps, index: int, layer: LayerWeights, hidden: torch.Tensor) -> torch.Tensor:
    """The last layer, [T, E] to [K, E]: past its attention nobody reads the rows that predict no target."""
    attended = attend(ops, index, layer, hidden)
    return finish(ops.of_targets(), layer, ops.targets(attended), ops.targets(hidden))


def target_features(ops: TrainingOps, weights: LlamaWeights, *, recompute: bool) -> torch.Tensor:
    """What the head turns into logits, [K, E]: of the rows that predict a target.

    Args:
        recompute: keep a layer's input alone, and compute the layer again in the backward pass, all but the last, which comes first.
    """
    hidden = ops.embed(weights.embedding)
    *layers, last = weights.layers
    for index, layer in enumerate(layers):
        if recompute:
            hidden = checkpoint(block, ops, index, layer, hidden, use_reentrant=False)
        else:
            hidden = block(ops, index, layer, hidden)
    return ops.rms_norm_sampled(last_block(ops, len(layers), last, hidden), weights.norm)
