"""The Llama forward, written once in terms of the ops, and its weights as the kernels take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from lorid_engine.model.config import ModelConfig
from lorid_engine.model.weights import Checkpoint, HeaderSource, TensorSource
from lorid_engine.ops import PackedLinear, pack_linear

Activations = TypeVar("Activations")
Pack = Callable[[torch.Tensor, torch.Tensor | None], PackedLinear]


@dataclass(frozen=True)
class Target:
    """An adaptable module of a fused linear: its name in an adapter and its columns of the product."""

    name: str
    col_begin: int
    col_end: int


@dataclass(frozen=True)
class FusedLinear:
    """Linear layers that read the same input, as one weight [sum O, I]."""

    weight: PackedLinear
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True)
class LayerWeights:
    """One transformer layer; the norms are float32 [E], those of heads [D] where the family has them."""

    input_norm: torch.Tensor
    qkv: FusedLinear
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    output: FusedLinear
    feed_forward_norm: torch.Tensor
    gate_up: FusedLinear
    down: FusedLinear


@dataclass(frozen=True)
class LlamaWeights:
    """A whole model; embedding and head are one object where they are tied."""

    embedding: PackedLinear
    layers: tuple[LayerWeights, ...]
    norm: torch.Tensor
    head: FusedLinear


class ForwardOps(Protocol, Generic[Activations]):
    """What the forward needs: recorded into a step program, or computed at once on tensors."""

    def embed(self, weight: PackedLinear) -> Activations:
        """The step's tokens as hidden states [T, E]."""

    def rms_norm(self, x: Activations, weight: torch.Tensor) -> Activations:
        """Normalised rows [T, E]."""

    def rms_norm_sampled(self, x: Activations, weight: torch.Tensor) -> Activations:
        """Normalised rows [K, E] of those that are sampled."""

    def lora_linear(self, x: Activations, linear: FusedLinear) -> Activations:
        """W x and the adapters' shares, [rows of x, O]."""

    def lora_linear_add(self, x: Activations, linear: FusedLinear, residual: Activations) -> Activations:
        """residual + W x and the adapters' shares, in the residual's place."""

    def rope(
        self, qkv: Activations, layer: int, q_norm: torch.Tensor | None, k_norm: torch.Tensor | None
    ) -> Activations:
        """Rotated queries [T, H D], heads normalised first where there are norms; keys and values go to the layer's pages."""

    def paged_attention(self, q: Activations, layer: int) -> Activations:
        """Attention of every row over its sequence, [T, H D]."""

    def silu_mul(self, x: Activations) -> Activations:
        """The gated half, [T, F]."""


def attend(ops: ForwardOps[Activations], index: int, layer: LayerWeights, hidden: Activations) -> Activations:
    """The first half of a layer up to its attention, [T, H D]: all that a row takes from other rows."""
    qkv = ops.lora_linear(ops.rms_norm(hidden, layer.input_norm), layer.qkv)
    return ops.paged_attention(ops.rope(qkv, index, layer.q_norm, layer.k_norm), index)


def finish(
    ops: ForwardOps[Activations], layer: LayerWeights, attended: Activations, hidden: Activations
) -> Activations:
    """The rest of a layer: attention, then the gated feed-forward, each added to the hidden states [T, E]."""
    hidden = ops.lora_linear_add(attended, layer.output, hidden)
    gate_up = ops.lora_linear(ops.rms_norm(hidden, layer.feed_forward_norm), layer.gate_up)
    return ops.lora_linear_add(ops.silu_mul(gate_up), layer.down, hidden)


def block(ops: ForwardOps[Activations], index: int, layer: LayerWeights, hidden: Activations) -> Activations:
    """One transformer layer, hidden states [T, E] to hidden states."""
    return finish(ops, layer, attend(ops, index, layer, hidden), hidden)


def forward(ops: ForwardOps[Activations], weights: LlamaWeights) -> Activations:
    """Logits [K, V] of the rows that are sampled (Touvron et al., arXiv 2302.13971)."""
    hidden = ops.embed(weights.embedding)
    for index, layer in enumerate(weights.layers):
        hidden = block(ops, index, layer, hidden)
    return ops.lora_linear(ops.rms_norm_sampled(hidden, weights.norm), weights.head)


class _Reader:
    """Reads a checkpoint's tensors in the engine's dtype, fusing those that share an input."""

    def __init__(self, checkpoint: TensorSource, config: ModelConfig, dtype: torch.dtype, pack: Pack) -> None:
        self._checkpoint, self._config, self._dtype, self._pack = checkpoint, config, dtype, pack

    def norm(self, name: str, width: int) -> torch.Tensor:
        return self._checkpoint.tensor(f"{name}.weight", (width,)).float().contiguous()

    def table(self, name: str) -> PackedLinear:
        shape = (self._config.vocab_size, self._config.hidden_size)
        return self._pack(self._checkpoint.tensor(name, shape).to(self._dtype), None)

    def linear(self, prefix: str, parts: dict[str, int], in_features: int, has_bias: bool) -> FusedLinear:
        """parts: module name to out_features, in the order of their columns."""
        targets, pieces, biases, column = [], [], [], 0
        for name, out_features in parts.items():
            weight = self._checkpoint.tensor(f"model.{prefix}.{name}.weight", (out_features, in_features))
            pieces.append(weight.to(self._dtype))
            if has_bias:
                biases.append(self._checkpoint.tensor(f"model.{prefix}.{name}.bias", (out_features,)).float())
            targets.append(Target(f"{prefix}.{name}", column, column + out_features))
            column += out_features
        bias = torch.cat(biases) if has_bias else None
        return FusedLinear(self._pack(torch.cat(pieces), bias), tuple(targets))

    def layer(self, index: int) -> LayerWeights:
        config, prefix = self._config, f"layers.{index}"
        heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        attention = {"self_attn.q_proj": heads, "self_attn.k_proj": kv, "self_attn.v_proj": kv}
        hidden, wide = config.hidden_size, config.intermediate_size
        feed_forward = {"mlp.gate_proj": wide, "mlp.up_proj": wide}
        q_norm, k_norm = (
            self.norm(f"model.{prefix}.self_attn.{name}", config.head_dim) if config.head_norm else None
            for name in ("q_norm", "k_norm")
        )
        return LayerWeights(
            input_norm=self.norm(f"model.{prefix}.input_layernorm", hidden),
            qkv=self.linear(prefix, attention, hidden, config.qkv_bias),
            q_norm=q_norm,
            k_norm=k_norm,
            output=self.linear(prefix, {"self_attn.o_proj": hidden}, heads, config.output_bias),
            feed_forward_norm=self.norm(f"model.{prefix}.post_attention_layernorm", hidden),
            gate_up=self.linear(prefix, feed_forward, hidden, config.mlp_bias),
            down=self.linear(prefix, {"mlp.down_proj": hidden}, wide, config.mlp_bias),
        )


def llama_problems(checkpoint: Checkpoint, config: ModelConfig) -> list[str]:
    """What of a checkpoint is missing, or has another shape or dtype than the config says; no weight is read."""
    headers = HeaderSource(checkpoint)
    nothing = PackedLinear.__new__(PackedLinear)
    load_llama(headers, config, torch.bfloat16, lambda weight, bias: nothing)
    return headers.problems


def _is_tied(checkpoint: TensorSource, config: ModelConfig) -> bool:
    """Whether the head is the embedding: the config says so, and no other head lies in the file (transformers' rule)."""
    if not config.tie_word_embeddings or "lm_head.weight" not in checkpoint.names:
        return config.tie_word_embeddings
    shape = (config.vocab_size, config.hidden_size)
    return torch.equal(*(checkpoint.tensor(name, shape) for name in ("model.embed_tokens.weight", "lm_head.weight")))


def load_llama(
    checkpoint: TensorSource, config: ModelConfig, dtype: torch.dtype, pack: Pack = pack_linear
) -> LlamaWeights:
    """Reads and packs a checkpoint's weights, one layer at a time.

    Raises:
        CheckpointError: a tensor is missing or has another shape or dtype than the config says.
    """
    reader = _Reader(checkpoint, config, dtype, pack)
    embedding = reader.table("model.embed_tokens.weight")
    head = embedding if _is_tied(checkpoint, config) else reader.table("lm_head.weight")
    return LlamaWeights(
        embedding=embedding,
        layers=tuple(reader.layer(index) for index in range(config.num_layers)),
        norm=reader.norm("model.norm", config.hidden_size),
        head=FusedLinear(head),
    )
