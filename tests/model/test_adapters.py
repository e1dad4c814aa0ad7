"""Adapters: PEFT's semantics honoured, everything else refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from lorid_engine.errors import AdapterError
from lorid_engine.model.adapters import load_adapter
from lorid_engine.model.config import ModelConfig
from lorid_engine.ops import AdapterBank
from tiny_models import adapted_model, save_adapter, save_llama


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return save_adapter(base, tmp_path / "adapter")


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, change) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


def refuse(base: Path, folder: Path, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        load_adapter("mine", folder, ModelConfig.from_folder(base))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {r"layers\.0\..*v_proj": 7}},
        {"rank_pattern": {"model.layers.1.self_attn.q_proj": 5, "q_proj": 2}},
        {"alpha_pattern": {"v_proj": 5, ".*v_proj": 9}},
        {"target_modules": r".*layers\.1\..*(q|up)_proj"},
        {"layers_to_transform": [1]},
    ],
)
def test_ranks_and_scales_are_pefts(base: Path, tmp_path: Path, options: dict) -> None:
    folder = save_adapter(base, tmp_path / "a", **options)
    loaded = load_adapter("a", folder, ModelConfig.from_folder(base))
    layers = {
        name.removeprefix("base_model.model.model."): module
        for name, module in adapted_model(base, folder).named_modules()
        if hasattr(module, "lora_A")
    }
    assert loaded.modules.keys() == layers.keys()
    for name, weights in loaded.modules.items():
        assert math.isclose(weights.scale, layers[name].scaling["default"])
        assert torch.equal(weights.a, layers[name].lora_A["default"].weight)
        assert torch.equal(weights.b, layers[name].lora_B["default"].weight)


def test_banks_of_all_modules_from_folders(base: Path, tmp_path: Path) -> None:
    """For those who embed the ops: no model is needed."""
    folders = [
        save_adapter(base, tmp_path / "a", seed=1, r=3, target_modules=["q_proj"]),
        None,
        save_adapter(base, tmp_path / "b", seed=2, r=5, target_modules=["q_proj", "up_proj"], use_rslora=True),
    ]
    banks = AdapterBank.from_peft(folders, dtype=torch.bfloat16)
    q_proj, up_proj = (banks[f"model.layers.1.{name}"] for name in ("self_attn.q_proj", "mlp.up_proj"))
    assert len(banks) == 4 and q_proj.num_slots == up_proj.num_slots == 3
    assert q_proj.rank_offset.tolist() == [0, 3, 3, 8] and up_proj.rank_offset.tolist() == [0, 0, 0, 5]
    stored = load_file(folders[2] / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.1.self_attn.q_proj.lora"
    assert torch.equal(q_proj.a[3:], stored[f"{prefix}_A.weight"].bfloat16())
    assert torch.equal(q_proj.b_t[3:], stored[f"{prefix}_B.weight"].bfloat16().t())
    settings = json.loads((folders[2] / "adapter_config.json").read_text())
    assert math.isclose(q_proj.scale[2], settings["lora_alpha"] / math.sqrt(5), rel_tol=1e-6)
    with pytest.raises(AdapterError, match="missing"):
        AdapterBank.from_peft([tmp_path])


def test_pattern_rule_is_pefts() -> None:
    """The first key that ends the name wins, as in peft.utils.other.get_pattern_key."""
    assert get_pattern_key(["q_proj", "layers.1.self_attn.q_proj"], "model.layers.1.self_attn.q_proj") == "q_proj"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "adapter 'mine' uses DoRA"),
        ({"bias": "all"}, "trains biases"),
        ({"lora_bias": True}, "a bias on B"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"use_new_thing": True}, "use_new_thing"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base's weights .init_lora_weights='pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"r": 0}, "r must be a positive number"),
        ({"lora_alpha": "x"}, "lora_alpha must be"),
        ({"rank_pattern": {"q_proj": "x"}}, "rank_pattern must map"),
        ({"r": 10**400}, "r must be a positive number"),
        ({"rank_pattern": {"(": 3}}, "no regular expression"),
        ({"rank_pattern": {"a{99999999999999999999}": 3}}, "no regular expression"),
        ({"rank_pattern": {"(([a-z0-9]|[a-z._0-9])+)+!": 3}}, "too intricate"),
        ({"alpha_pattern": {"(.|.)" * 12: 3}}, "too intricate"),
        (
            {"r": 5},
            r"does not fit its adapter_config.json: model.layers.0.self_attn.q_proj lora_A must have shape \[5, I\]",
        ),
    ],
)
def test_unsupported_features_are_refused_by_name(base: Path, adapter: Path, changes: dict, message: str) -> None:
    edit_config(adapter, **changes)
    refuse(base, adapter, message)


def test_every_known_switch_of_peft_is_off_or_refused(base: Path, adapter: Path) -> None:
    """A feature that a future PEFT adds as use_...: true is not ignored either."""
    for field in vars(LoraConfig()):
        if field.startswith("use_") and field != "use_rslora":
            edit_config(adapter, **{field: True})
            refuse(base, adapter, "not supported")
            edit_config(adapter, **{field: False})


def test_adapters_for_another_base(base: Path, tmp_path: Path) -> None:
    other = save_llama(tmp_path / "other", "one_kv_head")
    refuse(
        base,
        save_adapter(other, tmp_path / "a"),
        r"was made for another base: .* must have shape \[8, 48\]; got \[8, 32\]",
    )
    deep = save_adapter(base, tmp_path / "b")
    prefix = "base_model.model.model.layers."
    edit_tensors(
        deep,
        lambda t: [
            t.__setitem__(k.replace(f"{prefix}1", f"{prefix}7"), t.pop(k)) for k in list(t) if f"{prefix}1" in k
        ],
    )
    refuse(base, deep, "it has layer 7, the base has 2 layers")


def test_damaged_files(base: Path, adapter: Path, tmp_path: Path) -> None:
    tensors = adapter / "adapter_model.safetensors"
    whole = tensors.read_bytes()
    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    for change, message in (
        (lambda t: t.__setitem__("stray", torch.zeros(1)), "has the tensor stray"),
        (lambda t: t.pop(first), "layers.0.self_attn.q_proj has no lora_A"),
        (lambda t: t[first].fill_(float("nan")), "NaN or infinity"),
        (
            lambda t: t.__setitem__(first, t[first].to(torch.int8)),
            "must be bfloat16, float16 or float32; got torch.int8",
        ),
    ):
        edit_tensors(adapter, change)
        refuse(base, adapter, message)
        tensors.write_bytes(whole)
    other = first.replace("weight", "default.weight")
    edit_tensors(adapter, lambda t: t.__setitem__(other, t[first].clone()))
    refuse(base, adapter, "has lora_A of model.layers.0.self_attn.q_proj twice")
    for number in ("00", "\u0660", "9" * 5000):
        tensors.write_bytes(whole)
        edit_tensors(adapter, lambda t, n=number: t.__setitem__(first.replace("layers.0", f"layers.{n}"), t.pop(first)))
        refuse(base, adapter, "has no lora_[AB]|targets model")
    for damage in (whole[:-100], whole[:50], b"", b"\x80\x04pickle"):
        tensors.write_bytes(damage)
        refuse(base, adapter, "no complete safetensors file")
    tensors.unlink()
    refuse(base, adapter, "is missing")
    (adapter / "adapter_model.bin").write_bytes(b"")
    refuse(base, adapter, "never read; save as safetensors")
    for text in ("{", "[" * 100_000):
        (adapter / "adapter_config.json").write_text(text)
        refuse(base, adapter, "cannot be read as JSON")
    refuse(base, tmp_path / "nowhere", "adapter_config.json is missing")


def test_unknown_modules_are_refused(base: Path, adapter: Path) -> None:
    old = "base_model.model.model.layers.0.self_attn.q_proj"
    new = "base_model.model.model.layers.0.mlp.router"
    edit_tensors(adapter, lambda t: [t.__setitem__(k.replace(old, new), t.pop(k)) for k in list(t) if old in k])
    refuse(base, adapter, "targets model.layers.0.mlp.router, which is not supported; supported: self_attn.q_proj")
