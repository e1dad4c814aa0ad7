"""One pass over all roles against PEFT and transformers, one role at a time: the same losses and gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorid_engine.train import forward
from test_families import MODELS, save_model
from tiny_training import (
    ROLES,
    make_adapters,
    make_trainer,
    peft_gradient,
    peft_loss,
    peft_model,
    random_examples,
    tiny_options,
)

ALL_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FAMILIES = ["llama biases", "llama 3", "mistral window", "qwen2 window", "qwen3 biases", "smollm3"]


@pytest.fixture(params=["segments", "dense"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapters' products on a CPU, and on a GPU where ranks are small."""
    monkeypatch.setattr(forward, "is_worth_it", lambda device, ranks, dropout: request.param == "dense" and not dropout)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_losses_and_gradients_are_pefts(tmp_path: Path, name: str, recompute: bool) -> None:
    base = save_model(tmp_path / "base", MODELS[name])
    options = tiny_options(
        targets=ALL_TARGETS, batch_size=8, recompute=recompute, max_grad_norm=1e9, learning_rate=1e-9
    )
    adapters, examples = make_adapters(base, options), random_examples()
    trainer = make_trainer(base, adapters, examples, options)
    report = trainer.step()
    for slot, role in enumerate(ROLES):
        model = peft_model(base, make_adapters(base, options), slot, tmp_path / role)
        loss = peft_loss(model, examples[role])
        loss.backward()
        assert report.loss[role] == pytest.approx(loss.item(), rel=1e-5)
        for name, parameter in adapters.named_parameters(slot):
            module, half = name.rsplit(".", 1)
            expected = peft_gradient(model, module, half)
            assert parameter.grad is not None
            assert (parameter.grad - expected).abs().max() <= 2e-5 * expected.abs().max() + 1e-8, name


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_roles_together_train_as_they_would_alone(tmp_path: Path, dropout: float) -> None:
    """Also a role that ends before the others."""
    base = save_model(tmp_path / "base", MODELS["llama biases"])
    options, examples = tiny_options(dropout=dropout), random_examples(counts=(7, 3, 5))
    together = make_adapters(base, options)
    trainer = make_trainer(base, together, examples, options)
    reports = [trainer.step() for _ in range(trainer.steps)]
    for slot, role in enumerate(ROLES):
        alone = make_adapters(base, options, [role])
        trainer = make_trainer(base, alone, examples, options)
        for step in range(trainer.steps):
            assert trainer.step().loss[role] == pytest.approx(reports[step].loss[role], rel=1e-5)
        assert all(role not in report.loss for report in reports[trainer.steps :])
        for (name, ours), (_, theirs) in zip(together.named_parameters(slot), alone.named_parameters(0), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5, msg=name)


def test_a_pass_may_hold_any_number_of_rows(tmp_path: Path) -> None:
    """One sequence, some, or all: rounding apart, the same step."""
    base = save_model(tmp_path / "base", MODELS["qwen3 biases"])
    losses = []
    for rows in (1, 90, 10_000):
        options = tiny_options(batch_size=4, rows_per_pass=rows, dropout=0.2, targets=ALL_TARGETS)
        trainer = make_trainer(base, make_adapters(base, options), random_examples(), options)
        losses.append([list(trainer.step().loss.values()) for _ in range(2)])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-5, atol=0)
