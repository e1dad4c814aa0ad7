"""Tiny random Llama checkpoints and PEFT adapters, saved as users have them, with transformers' and PEFT's own answers."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

# config.json of a model that needs no checkpoint.
TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 300,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 256,
}

SHAPES: dict[str, dict] = {
    "grouped": dict(hidden_size=48, num_attention_heads=6, num_key_value_heads=2, intermediate_size=80),
    "one_kv_head": dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=1, intermediate_size=48),
    "head_dim_apart": dict(
        hidden_size=40, num_attention_heads=4, num_key_value_heads=2, intermediate_size=72, head_dim=24
    ),
    "whole_blocks": dict(  # heads and gates in blocks of 32 columns: what follows a product is done with it
        hidden_size=64, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96, head_dim=32
    ),
    "odd_widths": dict(hidden_size=36, num_attention_heads=3, num_key_value_heads=3, intermediate_size=67, head_dim=10),
}


def save_llama(folder: Path, shape: str = "grouped", *, tied: bool = False, seed: int = 0, vocab: int = 131) -> Path:
    """Writes a random two-layer checkpoint whose logits are far from uniform."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        num_hidden_layers=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
        **SHAPES[shape],
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def reference_model(folder: Path) -> PreTrainedModel:
    """transformers' own model of a checkpoint, in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def save_adapter(base: Path, folder: Path, *, seed: int = 0, **options: object) -> Path:
    """Writes a random PEFT adapter whose A and B both matter; options are LoraConfig's."""
    torch.manual_seed(seed)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **options}
    model = get_peft_model(reference_model(base), LoraConfig(**settings))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight.data, std=0.2)
    model.save_pretrained(folder)
    return folder


def adapted_model(base: Path, adapter: Path) -> PeftModel:
    """PEFT's own model of a base with one adapter, in float32."""
    return PeftModel.from_pretrained(reference_model(base), adapter).eval()
