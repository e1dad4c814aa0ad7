"""A run on torch's kernels beside one on ours; and a device that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorid_engine.errors import BackendUnavailableError, ConfigError
from lorid_engine.ops import use_backend
from lorid_engine.train.device import training_device, training_dtype
from test_families import MODELS, save_model
from test_gradients import ALL_TARGETS
from tiny_training import ROLES, make_adapters, make_trainer, random_examples, tiny_options


@pytest.mark.parametrize("name", ["llama biases", "mistral window", "qwen3 biases"])
def test_torchs_kernels_train_the_same(tmp_path: Path, name: str) -> None:
    """Losses, gradients and adapters of some steps, with dropout, in float32."""
    base = save_model(tmp_path / "base", MODELS[name])
    options, examples = tiny_options(targets=ALL_TARGETS, dropout=0.2, rows_per_pass=10_000), random_examples()
    runs = {}
    for backend in ("cpu", "torch"):
        adapters = make_adapters(base, options)
        trainer = make_trainer(base, adapters, examples, options)
        if backend == "torch":
            with use_backend(backend):
                reports = [trainer.step() for _ in range(3)]
        else:
            reports = [trainer.step() for _ in range(3)]
        runs[backend] = reports, [dict(adapters.named_parameters(slot)) for slot in range(len(ROLES))]
    for ours, theirs in zip(*(reports for reports, _ in runs.values()), strict=True):
        assert theirs.loss == pytest.approx(ours.loss, rel=1e-4)
        assert theirs.grad_norm == pytest.approx(ours.grad_norm, rel=1e-3)
    for ours, theirs in zip(*(adapters for _, adapters in runs.values()), strict=True):
        for key, tensor in ours.items():
            torch.testing.assert_close(theirs[key], tensor, rtol=1e-2, atol=1e-3, msg=key)


def test_planned_steps_end_with_the_schedule(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", MODELS["llama biases"])
    options = tiny_options(epochs=8, planned_steps=5)
    trainer = make_trainer(base, make_adapters(base, options), random_examples(), options)
    assert trainer.steps == 5
    rates = [trainer.step().learning_rate["ir"] for _ in range(5)]
    assert rates[1] == options.learning_rate and rates[4] < 0.2 * rates[1]


def test_devices_are_named_and_there() -> None:
    assert training_device("cpu").type == "cpu"
    assert training_dtype("auto", torch.device("cuda")) == torch.bfloat16
    with pytest.raises(ConfigError, match="must be cpu or cuda; got 'tpu'"):
        training_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(BackendUnavailableError, match="finds no GPU that it can use"):
        training_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_the_same(tmp_path: Path) -> None:
    """In float32, dropout included; a state goes from one device to the other."""
    from lorid_engine.model.config import ModelConfig
    from lorid_engine.train.adapters import RoleAdapters
    from lorid_engine.train.forward import load_frozen
    from lorid_engine.train.trainer import Trainer

    base = save_model(tmp_path / "base", MODELS["llama biases"])
    options, config = tiny_options(targets=ALL_TARGETS, dropout=0.2), ModelConfig.from_folder(base)
    shape = {name: getattr(options, name) for name in ("rank", "alpha", "dropout", "targets", "seed")}
    trainers = []
    for device in map(torch.device, ("cpu", "cuda")):
        adapters = RoleAdapters(config, ROLES, **shape, device=device)
        weights = load_frozen(base, config, torch.float32, device)
        trainers.append(Trainer(config, weights, adapters, random_examples(), options))
    for _ in range(2):
        ours, theirs = (trainer.step() for trainer in trainers)
        assert theirs.loss == pytest.approx(ours.loss, rel=1e-3)
    trainers[0].restore(2, {name: tensor.cpu() for name, tensor in trainers[1].state().items()})
    ours, theirs = (trainer.step() for trainer in trainers)
    assert theirs.loss == pytest.approx(ours.loss, rel=1e-3)
