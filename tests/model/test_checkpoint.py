"""Configs, weights and GGUF files: read as transformers writes them, refused clearly where damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorid_engine.errors import CheckpointError
from lorid_engine.model import gguf
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.llama import load_llama
from lorid_engine.model.weights import Checkpoint
from tiny_models import reference_model, save_llama


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_llama(tmp_path / "base")


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    raw = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in raw.items() if value != "drop"}))


def load(folder: Path) -> object:
    return load_llama(Checkpoint(folder), ModelConfig.from_folder(folder), torch.float32)


def test_config_of_both_transformers_generations(base: Path) -> None:
    new = ModelConfig.from_folder(base)
    assert (new.num_heads, new.num_kv_heads, new.head_dim, new.eos_token_ids) == (6, 2, 8, (2,))
    edit(
        base, rope_parameters="drop", rope_theta=1234.5, rope_scaling=None, head_dim="drop", num_key_value_heads="drop"
    )
    old = ModelConfig.from_folder(base)
    assert (old.rotary.theta, old.head_dim, old.num_kv_heads) == (1234.5, 8, 6)
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 2]}))
    assert ModelConfig.from_folder(base).eos_token_ids == (2, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "gpt2"},
            "model_type 'gpt2' is not supported; supported: llama, mistral, qwen2, qwen3, smollm3",
        ),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope type 'yarn' is not supported"),
        ({"rope_parameters": {"rope_type": "linear"}}, "the rope factor must be a number above 0; got None"),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 1}},
            "low_freq_factor 4 must be below high_freq_factor 1",
        ),
        ({"rope_theta": "big", "rope_parameters": {}}, "rope_theta must be a number above 0; got 'big'"),
        ({"head_dim": 2**61}, "head_dim must be a positive whole number"),
        ({"rms_norm_eps": 10**400}, "too large to convert to float"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers must be a whole number from 1 to 4096"),
        ({"model_type": ["llama"]}, r"model_type \['llama'\] is not supported"),
        ({"model_type": "mistral", "sliding_window": 2**31}, "sliding_window must be a whole number"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window must be a whole number of at least 1"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "layer_types": ["chunked", "x"]},
            "layer_types must name full_attention or sliding_attention for each of 2 layers",
        ),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "no_rope_layers must have an entry for each of 2 layers"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"num_hidden_layers": "drop"}, "has no num_hidden_layers"),
        ({"num_attention_heads": 5}, "5 attention heads cannot share 2"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"vocab_size": -3}, "vocab_size must be a positive whole number; got -3"),
        ({"hidden_size": "big"}, "hidden_size must be"),
        ({"rms_norm_eps": "small"}, "could not convert string to float: 'small'"),
        ({"rms_norm_eps": -1}, "rms_norm_eps must be a number of at least 0"),
        ({"rope_parameters": [1]}, "rope parameters must be a JSON object"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be a token id or a list of them; got '</s>'"),
        ({"eos_token_id": [2, None]}, r"got \[2, None\]"),
    ],
)
def test_configs_that_do_not_fit(base: Path, changes: dict, message: str) -> None:
    edit(base, **changes)
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.from_folder(base)


def test_sharded_checkpoints(base: Path, tmp_path: Path) -> None:
    reference_model(base).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    whole, sharded = load(base), load(tmp_path / "sharded")
    assert torch.equal(whole.layers[1].down.weight.data, sharded.layers[1].down.weight.data)
    index = tmp_path / "sharded" / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    first = next(iter(raw["weight_map"]))
    for name, message in (
        ("../evil.safetensors", "not a file of its own folder"),
        ("gone.safetensors", "gone.safetensors is missing"),
    ):
        index.write_text(json.dumps({"weight_map": {**raw["weight_map"], first: name}}))
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path / "sharded")


def test_damaged_weights(base: Path, tmp_path: Path) -> None:
    path = base / "model.safetensors"
    whole, tensors = path.read_bytes(), load_file(path)
    name = "model.layers.0.self_attn.q_proj.weight"
    for change, message in (
        ({name: tensors[name].to(torch.int8)}, "must be bfloat16, float16 or float32; got torch.int8"),
        ({name: tensors[name][:-1].contiguous()}, r"must have shape \[48, 48\]; got \[47, 48\]"),
        ({name: None}, f"has no tensor {name}"),
    ):
        save_file({key: value for key, value in {**tensors, **change}.items() if value is not None}, path)
        with pytest.raises(CheckpointError, match=message):
            load(base)
    for damage in (whole[:-1000], whole[:100], b""):
        path.write_bytes(damage)
        with pytest.raises(CheckpointError, match="no complete safetensors file"):
            load(base)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor"):
        load(base)
    (base / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=r"is a pickle"):
        load(base)
    with pytest.raises(CheckpointError, match="there is no folder"):
        Checkpoint(tmp_path / "nowhere")


class TestGguf:
    """The conversion itself is transformers'; what is ours is that it happens once and whole."""

    @pytest.fixture
    def conversions(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        done: list[Path] = []

        def convert(file: Path, folder: Path) -> None:
            (folder / "config.json").write_text("{}")
            done.append(file)

        monkeypatch.setattr(gguf, "_convert", convert)
        return done

    def test_converts_once_by_content(self, tmp_path: Path, conversions: list[Path]) -> None:
        one, same, other = (tmp_path / name for name in ("a.gguf", "b.gguf", "c.gguf"))
        one.write_bytes(b"x")
        same.write_bytes(b"x")
        other.write_bytes(b"y")
        folder = gguf.hf_folder_from_gguf(one, tmp_path / "cache")
        assert gguf.hf_folder_from_gguf(same, tmp_path / "cache") == folder
        assert gguf.hf_folder_from_gguf(other, tmp_path / "cache") != folder
        assert conversions == [one, other]

    def test_a_conversion_that_was_cut_short_starts_again(self, tmp_path: Path, conversions: list[Path]) -> None:
        file = tmp_path / "a.gguf"
        file.write_bytes(b"x")
        folder = gguf.hf_folder_from_gguf(file, tmp_path / "cache")
        (folder / "converted").unlink()
        (folder / "config.json").write_text("half")
        assert gguf.hf_folder_from_gguf(file, tmp_path / "cache") == folder
        assert (folder / "config.json").read_text() == "{}" and len(conversions) == 2

    def test_failures_leave_nothing(self, tmp_path: Path) -> None:
        file = tmp_path / "a.gguf"
        file.write_bytes(b"no model at all")
        with pytest.raises(CheckpointError, match=r"cannot be converted from GGUF: .* magic bytes"):
            gguf.hf_folder_from_gguf(file, tmp_path / "cache")
        assert [path.suffix for path in (tmp_path / "cache" / "bases").iterdir()] == [".lock"]
        with pytest.raises(CheckpointError, match="cannot be read"):
            gguf.hf_folder_from_gguf(tmp_path / "none.gguf", tmp_path / "cache")
        (tmp_path / "file").write_text("")
        with pytest.raises(CheckpointError, match="set LORID_CACHE to another"):
            gguf.hf_folder_from_gguf(file, tmp_path / "file")
