"""accelerate: PEFT's own outputs and gradients, on our ops; what it leaves; and restore."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import assert_close
from lorid_engine.errors import ConfigError
from lorid_engine.integrations.peft import accelerate, restore

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NAMES = ["one", "two", "__base__", "two", "one"]


def make_model(dtype: torch.dtype = torch.float32, bias: bool = False, **changes: object) -> PeftModel:
    """A tiny Llama with adapters "one" (rank 4) and "two" (rank 7, of some modules alone), none of them zero."""
    torch.manual_seed(0)
    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=90)
    model = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, attention_bias=bias)).to(dtype)
    options = {"r": 4, "lora_alpha": 8, "target_modules": ALL, "init_lora_weights": False, **changes}
    peft = get_peft_model(model, LoraConfig(**options), adapter_name="one")
    second = {"r": 7, "use_rslora": True, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    peft.add_adapter("two", LoraConfig(**{**options, **second}))
    return peft.eval()


def tokens(rows: int = len(NAMES), length: int = 6) -> torch.Tensor:
    return torch.randint(0, 90, (rows, length), generator=torch.Generator().manual_seed(1))


def logits(model: PeftModel, **named: object) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens(), **named).logits


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("names", [None, NAMES, ["one"] * 5, ["__base__"] * 5])
def test_outputs_are_pefts(names: list[str] | None, bias: bool) -> None:
    model = make_model(bias=bias)
    named = {} if names is None else {"adapter_names": names}
    expected = logits(model, **named)
    report = accelerate(model)
    assert len(report.accelerated) == 14 and not report.left
    assert_close(logits(model, **named), expected, 1e-5)


@pytest.mark.parametrize("names", [None, NAMES])
def test_in_bfloat16_outputs_are_as_close_to_float32_as_pefts(names: list[str] | None) -> None:
    model, named = make_model(torch.bfloat16, bias=True), {} if names is None else {"adapter_names": names}
    wide = logits(copy.deepcopy(model).float(), **named)
    theirs = logits(model, **named)
    accelerate(model)
    ours = logits(model, **named)
    assert ours.dtype == torch.bfloat16 and not torch.equal(ours, theirs)
    assert float((ours - wide).norm()) <= 1.1 * float((theirs - wide).norm())


def test_rows_keep_their_bits_in_any_company() -> None:
    model = make_model()
    accelerate(model)
    mixed = logits(model, adapter_names=NAMES)
    with torch.no_grad():
        for row, name in enumerate(NAMES):
            q = model.base_model.model.model.layers[0].self_attn.q_proj
            x = torch.randn(5, 6, 32, generator=torch.Generator().manual_seed(2))
            alone = q(x[row : row + 1], adapter_names=[name])
            assert torch.equal(q(x, adapter_names=NAMES)[row : row + 1], alone)
    assert mixed.isfinite().all()


@torch.no_grad()
def test_strided_inputs() -> None:
    layer = make_model().base_model.model.model.layers[0].self_attn.q_proj
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(2)).t()
    expected = layer(x, adapter_names=["one", "two"] * 3)
    model = make_model()
    accelerate(model)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert_close(layer(x, adapter_names=["one", "two"] * 3), expected, 1e-5)


def gradients(model: PeftModel, **named: object) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = (model(tokens(), **named).logits.float() ** 2).mean()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpoints", [False, True])
def test_gradients_are_pefts(checkpoints: bool) -> None:
    model = make_model().train()
    if checkpoints:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    expected = gradients(model)
    accelerate(model)
    actual = gradients(model)
    assert actual.keys() == expected.keys() and len(actual) == 28
    for name, grad in actual.items():
        assert_close(grad, expected[name], 1e-5)


def test_a_bias_that_trains_has_pefts_gradient() -> None:
    model = make_model(bias=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("base_layer.bias" in name or parameter.requires_grad)
    expected = gradients(model)
    accelerate(model)
    found = gradients(model)
    assert found.keys() == expected.keys() and any("bias" in name for name in found)
    for name, gradient in found.items():
        assert_close(gradient, expected[name], 1e-5)


def test_a_mixed_batch_trains() -> None:
    """PEFT refuses it; each adapter's gradients are those of its samples in PEFT's inference mode."""
    model = make_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    expected = gradients(model, adapter_names=NAMES)  # its mixed forward has gradients, outside training
    model.train()
    with pytest.raises(ValueError, match="training mode"):
        gradients(model, adapter_names=NAMES)
    accelerate(model)
    actual = gradients(model, adapter_names=NAMES)
    assert model.training and model.base_model.training
    assert actual.keys() == expected.keys() and len(actual) == 28 + 12
    for name, grad in actual.items():
        assert_close(grad, expected[name], 1e-5)
    restore(model)
    with pytest.raises(ValueError, match="training mode"):
        gradients(model, adapter_names=NAMES)


def test_dropout_is_drawn_anew_and_by_torchs_seed() -> None:
    model = make_model(lora_dropout=0.4).train()
    accelerate(model)
    runs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        runs.append(model(tokens(), adapter_names=NAMES).logits)
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    model.eval()
    assert_close(logits(model, adapter_names=NAMES), logits(make_model(lora_dropout=0.4), adapter_names=NAMES), 1e-5)


def test_generate_draws_pefts_tokens() -> None:
    model = make_model()
    prompt, options = tokens(), {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(input_ids=prompt, adapter_names=NAMES, **options)
    accelerate(model)
    assert torch.equal(model.generate(input_ids=prompt, adapter_names=NAMES, **options), expected)
    beams = {**options, "num_beams": 3}
    mine = model.generate(input_ids=prompt, adapter_names=NAMES, **beams)
    restore(model)
    assert torch.equal(mine, model.generate(input_ids=prompt, adapter_names=NAMES, **beams))


def test_adapters_come_change_and_go() -> None:
    model, plain = make_model(), make_model()
    accelerate(model)

    def same() -> None:
        assert_close(logits(model), logits(plain), 1e-5)

    def both(method: str, *args: object) -> None:
        for each in (model, plain):
            torch.manual_seed(3)
            getattr(each, method)(*args)
            each.eval()

    same()
    both("set_adapter", "two")
    same()
    both("add_adapter", "three", LoraConfig(r=3, target_modules=["q_proj"], init_lora_weights=False))
    both("set_adapter", "three")
    same()
    for each in (model, plain):
        with torch.no_grad():  # in place: what was kept of it is stale
            each.base_model.model.model.layers[0].self_attn.q_proj.lora_A["three"].weight.mul_(-3)
            each.base_model.model.model.layers[1].mlp.up_proj.base_layer.weight.mul_(0.5)
    same()
    both("delete_adapter", "three")
    both("set_adapter", "one")
    same()
    with model.disable_adapter(), plain.disable_adapter():
        same()
    both("merge_adapter")
    same()
    both("unmerge_adapter")
    same()
    model.base_model.set_adapter(["one", "two"])
    plain.base_model.set_adapter(["one", "two"])
    same()  # several at once: PEFT's own path


def test_what_is_no_plain_lora_is_left_and_named() -> None:
    model = make_model()
    model.add_adapter("dora", LoraConfig(r=2, target_modules=["k_proj"], use_dora=True))
    report = accelerate(model)
    assert len(report.accelerated) == 12 and len(report.left) == 2
    assert all(name.endswith("k_proj") and "no plain LoRA: dora" in reason for name, reason in report.left.items())
    with pytest.raises(ValueError, match="training mode"):  # not lifted: one layer would run PEFT's mixed forward
        model.train()(tokens(), adapter_names=NAMES)
    biased = make_model(lora_bias=True)
    assert set(accelerate(biased).left.values()) == {"its B has a bias"}


def test_an_adapter_that_is_no_plain_lora_and_comes_later() -> None:
    model, plain = make_model(), make_model()
    accelerate(model)
    for each in (model, plain):
        torch.manual_seed(4)
        each.add_adapter("dora", LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, init_lora_weights=False))
        each.set_adapter("dora")
        each.eval()
    assert_close(logits(model), logits(plain), 1e-5)


def test_restore_and_copies() -> None:
    model = make_model()
    before, keys = logits(model), model.state_dict().keys()
    accelerate(model)
    accelerate(model)
    assert model.state_dict().keys() == keys
    copied = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert_close(logits(copied), before, 1e-5)
    restore(copied)
    assert torch.equal(logits(copied), before)
    restore(copied)


def test_copies_and_pickles_of_a_model_that_has_run(tmp_path: Path) -> None:
    model = make_model()
    accelerate(model)
    before = logits(model, adapter_names=NAMES)
    assert_close(logits(copy.deepcopy(model), adapter_names=NAMES), before, 1e-5)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert_close(logits(loaded, adapter_names=NAMES), before, 1e-5)


def test_weights_that_are_replaced() -> None:
    """By other tensors of the same size, which may come to lie where those before lay."""
    model, plain = make_model(bias=True), make_model(bias=True)
    accelerate(model)
    for seed in range(4):
        for each in (model, plain):
            random = torch.Generator().manual_seed(seed)
            layer = each.base_model.model.model.layers[0].self_attn.q_proj
            layer.base_layer.bias = torch.nn.Parameter(torch.randn(32, generator=random), requires_grad=False)
            layer.lora_B["one"].weight = torch.nn.Parameter(torch.randn(32, 4, generator=random))
            layer.scaling["one"] = torch.tensor(0.5 + seed)
        assert_close(logits(model), logits(plain), 1e-5)
    scaling = model.base_model.model.model.layers[0].self_attn.q_proj.scaling
    scaling["one"].fill_(9.0)
    assert not torch.equal(logits(model), logits(plain))


def test_changes_through_data_need_accelerate_again() -> None:
    model, plain = make_model(), make_model()
    accelerate(model)
    logits(model)
    for each in (model, plain):
        each.base_model.model.model.layers[0].self_attn.q_proj.lora_B["one"].weight.data.mul_(-2)
    accelerate(model)
    assert_close(logits(model), logits(plain), 1e-5)


@torch.no_grad()
def test_traced_models_compute() -> None:
    model = make_model()
    accelerate(model)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(2))
    expected = layer(x)
    traced = make_fx(layer)(torch.zeros(2, 3, 32))
    assert torch.equal(traced(x), expected)


def test_bad_input() -> None:
    model = make_model()
    accelerate(model)
    with pytest.raises(ValueError, match="non-existing adapter"):
        logits(model, adapter_names=["three"] * 5)
    with pytest.raises(ValueError, match="Length of `adapter_names`"):
        logits(model, adapter_names=["one"] * 4)
    with pytest.raises(ConfigError, match="takes a PeftModel with LoRA adapters; got Linear"):
        accelerate(torch.nn.Linear(2, 2))
    model = make_model()
    accelerate(model)
    nothing = model.base_model.model.model.layers[0].self_attn.q_proj(torch.zeros(0, 3, 32), adapter_names=[])
    assert nothing.shape == (0, 3, 32)
