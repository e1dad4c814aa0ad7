"""The model families against transformers and PEFT: biases, windows, norms of heads, scaled rotations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from lorid_engine.model.adapters import load_adapter
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.llama import llama_problems
from lorid_engine.model.weights import Checkpoint
from test_llama import Feeder, expect_logits, feed_all, make_runner, token_list
from tiny_models import adapted_model, reference_model, save_adapter

SHAPE = dict(
    vocab_size=131,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    intermediate_size=80,
    max_position_embeddings=512,
    initializer_range=0.2,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
    tie_word_embeddings=False,
)


def rope(kind: str, **more: float) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **more}}


LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
MODELS: dict[str, PretrainedConfig] = {
    "llama biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "llama linear": LlamaConfig(**{**SHAPE, "max_position_embeddings": 64}, **rope("linear", factor=4.0)),
    "llama 3": LlamaConfig(**SHAPE, **rope("llama3", **LLAMA3)),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "mistral window": MistralConfig(**SHAPE, sliding_window=37, head_dim=16),
    "mistral window of one": MistralConfig(**SHAPE, sliding_window=1),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen2 window": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=20, max_window_layers=2),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "qwen3 biases": Qwen3Config(**SHAPE, head_dim=16, attention_bias=True, use_sliding_window=True, sliding_window=9),
    "smollm3": SmolLM3Config(**SHAPE, no_rope_layer_interval=2),
    "smollm3 window": SmolLM3Config(**SHAPE, no_rope_layers=[1, 0, 1], use_sliding_window=True, sliding_window=50),
}


def save_model(folder: Path, config: PretrainedConfig) -> Path:
    """A random checkpoint; biases and norms, which begin as zeros and ones, are random too."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(weight.data, mean=float("norm" in name), std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "drop", [(), ("layer_types",), ("layer_types", "sliding_window"), ("layer_types", "max_window_layers")]
)
@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("llama")])
def test_keys_that_are_not_there_mean_what_transformers_takes(tmp_path: Path, name: str, drop: tuple[str, ...]) -> None:
    """As in checkpoints of earlier versions, which wrote less."""
    MODELS[name].save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    raw = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop}
    path.write_text(json.dumps({**raw, "num_hidden_layers": 40, "no_rope_layers": None} | _for_40_layers(raw)))
    theirs, ours = AutoConfig.from_pretrained(tmp_path), ModelConfig.from_folder(tmp_path)
    kinds = getattr(theirs, "layer_types", None) or ["sliding_attention"] * 40
    used = theirs.sliding_window is not None and getattr(theirs, "use_sliding_window", True)
    assert ours.windows == tuple(theirs.sliding_window if used and kind[0] == "s" else 0 for kind in kinds)
    assert ours.head_dim == getattr(theirs, "head_dim", 8)
    assert list(ours.rotated) == [bool(flag) for flag in getattr(theirs, "no_rope_layers", None) or [1] * 40]


def _for_40_layers(raw: dict) -> dict:
    kinds = raw.get("layer_types")
    return {"layer_types": [kinds[layer % len(kinds)] for layer in range(40)]} if kinds else {}


def test_another_head_in_a_tied_checkpoint_is_used(tmp_path: Path) -> None:
    """As transformers 5 does: the two are one only if they are equal."""
    folder = save_model(tmp_path / "base", MODELS["mistral"])
    tokens = token_list(20)
    apart = feed_all(Feeder(make_runner(folder), [-1]), 0, tokens, [])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    assert np.array_equal(feed_all(Feeder(make_runner(folder), [-1]), 0, tokens, []), apart)


@pytest.mark.parametrize("name", MODELS)
def test_prefill_and_decode_match_transformers(tmp_path: Path, isa: str, name: str) -> None:
    """300 tokens: past every window and every trained length, and across a chunk of attention."""
    folder = save_model(tmp_path / "base", MODELS[name])
    tokens = token_list(200 if name == "llama linear" else 300)
    feeder = Feeder(make_runner(folder), [-1])
    logits = feed_all(feeder, 0, tokens, list(range(len(tokens) - 64, len(tokens))))
    expect_logits(logits, reference_model(folder), tokens)


@pytest.mark.filterwarnings("ignore:.*past_key_values.*:FutureWarning")  # its later name is not in all versions
def test_dynamic_rotation_matches_transformers_token_by_token(tmp_path: Path, isa: str) -> None:
    """Past the trained length a position's angles are those of a sequence that ends there, however the prompt is cut."""
    config = LlamaConfig(**{**SHAPE, "max_position_embeddings": 64}, **rope("dynamic", factor=4.0))
    folder = save_model(tmp_path / "base", config)
    tokens, model = token_list(120), reference_model(folder)
    with torch.no_grad():
        out = model(torch.tensor([tokens[:64]]), use_cache=True)
        pieces, cache = [out.logits[0]], out.past_key_values
        for token in tokens[64:]:
            out = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            pieces.append(out.logits[0])
    expected = torch.cat(pieces).double().numpy()
    once = feed_all(Feeder(make_runner(folder), [-1]), 0, tokens, [])
    assert np.abs(once - expected).max() <= 1e-4 * np.abs(expected).max()
    stepwise = feed_all(Feeder(make_runner(folder), [-1]), 0, tokens, list(range(40, 120)))
    assert np.array_equal(once, stepwise)
    assert ModelConfig.from_folder(folder).max_positions == 256


@pytest.mark.parametrize("name", ["qwen2 window", "qwen3 biases", "mistral window", "llama biases", "smollm3"])
def test_adapters_match_peft(tmp_path: Path, isa: str, name: str) -> None:
    base = save_model(tmp_path / "base", MODELS[name])
    folder = save_adapter(base, tmp_path / "adapter", r=5, target_modules="all-linear")
    runner = make_runner(base)
    runner.load_adapter(1, load_adapter("a", folder, ModelConfig.from_folder(base)))
    feeder, tokens = Feeder(runner, [1, -1]), token_list(60)
    mixed = feeder.step({0: tokens, 1: tokens})
    expect_logits(mixed[0], adapted_model(base, folder), tokens)
    expect_logits(mixed[1], reference_model(base), tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_chunks_or_company(tmp_path: Path, isa: str, dtype: torch.dtype) -> None:
    """Invariant 1 with a bias, norms of heads, and a window that crosses pages and chunks."""
    config = Qwen3Config(**SHAPE, head_dim=16, attention_bias=True, use_sliding_window=True, sliding_window=261)
    config.layer_types = ["sliding_attention", "full_attention", "sliding_attention"]
    folder, tokens = save_model(tmp_path / "base", config), token_list(300)
    alone = feed_all(Feeder(make_runner(folder, dtype, 1), [-1]), 0, tokens, [])
    feeder = Feeder(make_runner(folder, dtype, 2), [-1, -1])
    pieces = []
    for begin, end in zip([0, 1, 17, 256, 262], [1, 17, 256, 262, 300], strict=True):
        pieces.append(feeder.step({1: token_list(9, seed=end), 0: tokens[begin:end]})[0])
    assert np.array_equal(np.concatenate(pieces).view(np.int32), alone.view(np.int32))


@pytest.mark.parametrize("name", MODELS)
def test_headers_tell_whether_a_checkpoint_fits(tmp_path: Path, name: str) -> None:
    folder = save_model(tmp_path / "model", MODELS[name])
    config = ModelConfig.from_folder(folder)
    assert llama_problems(Checkpoint(folder), config) == []
    wider = replace(config, intermediate_size=config.intermediate_size + 1, num_layers=config.num_layers + 1)
    wrong = "\n".join(llama_problems(Checkpoint(folder), replace(wider, windows=(), rotated=())))
    for part in ("layers.0.mlp.up_proj.weight must have shape [81, 48]; got [80, 48]", "no tensor model.layers.3.mlp"):
        assert part in wrong
