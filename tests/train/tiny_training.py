"""Small training runs on tiny models, and PEFT's own losses and gradients of the same examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel

from lorid_engine.model.config import ModelConfig
from lorid_engine.model.llama import load_llama
from lorid_engine.model.weights import Checkpoint
from lorid_engine.train.adapters import RoleAdapters
from lorid_engine.train.examples import Example
from lorid_engine.train.forward import plain_linear
from lorid_engine.train.options import TrainingOptions
from lorid_engine.train.trainer import Trainer
from tiny_models import reference_model

ROLES = ("ir", "kg", "dr")
Examples = Mapping[str, Sequence[Example]]


def random_examples(
    counts: Sequence[int] = (5, 4, 3), vocabulary: int = 131, longest: int = 60, seed: int = 0
) -> dict[str, list[Example]]:
    """Examples of random tokens for every role, of lengths that differ."""
    random = np.random.default_rng(seed)
    examples: dict[str, list[Example]] = {}
    for role, count in zip(ROLES, counts, strict=True):
        examples[role] = []
        for index in range(count):
            length = int(random.integers(3, longest))
            tokens = random.integers(3, vocabulary, length).astype(np.int32)
            examples[role].append(Example(index, index, tokens, int(random.integers(1, length))))
    return examples


def tiny_options(**changes: object) -> TrainingOptions:
    """Options for a few steps: everything that could matter is on."""
    settings: dict[str, object] = dict(
        rank=5, alpha=10.0, dropout=0.0, learning_rate=1e-2, warmup=0.2, epochs=2, batch_size=2, rows_per_pass=100
    )
    return TrainingOptions(**{**settings, **changes})  # type: ignore[arg-type]


def make_adapters(base: Path, options: TrainingOptions, roles: Sequence[str] = ROLES) -> RoleAdapters:
    """Adapters whose B is not zero, so that A has a gradient; a role's do not depend on the others."""
    adapters = RoleAdapters(
        ModelConfig.from_folder(base),
        roles,
        rank=options.rank,
        alpha=options.alpha,
        dropout=options.dropout,
        targets=options.targets,
        seed=options.seed,
    )
    for slot, role in enumerate(roles):
        generator = torch.Generator().manual_seed(ROLES.index(role))
        for name, parameter in adapters.named_parameters(slot):
            if name.endswith(".B"):
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return adapters


def make_trainer(base: Path, adapters: RoleAdapters, examples: Examples, options: TrainingOptions) -> Trainer:
    """A trainer in float32 of the adapters' roles."""
    config = ModelConfig.from_folder(base)
    weights = load_llama(Checkpoint(base), config, torch.float32, plain_linear)
    return Trainer(config, weights, adapters, {role: examples[role] for role in adapters.roles}, options)


def peft_model(base: Path, adapters: RoleAdapters, slot: int, folder: Path) -> PeftModel:
    """PEFT's own model with a role's adapter, to be trained."""
    adapters.save(slot, folder, "base", torch.float32)
    return PeftModel.from_pretrained(reference_model(base), folder, is_trainable=True)


def peft_loss(model: PeftModel, examples: Sequence[Example]) -> torch.Tensor:
    """The mean cross-entropy of all targets, one unpadded sequence after another."""
    total = torch.zeros(())
    for example in examples:
        tokens = torch.from_numpy(example.tokens).long()
        logits = model(tokens[None, :-1]).logits[0, example.prompt - 1 :]
        total = total + torch.nn.functional.cross_entropy(logits, tokens[example.prompt :], reduction="sum")
    return total / sum(example.targets for example in examples)


def peft_gradient(model: PeftModel, module: str, half: str) -> torch.Tensor:
    """The gradient of one matrix, as ours lies: B transposed."""
    layer = model.get_submodule(f"base_model.model.model.{module}")
    grad = (layer.lora_A if half == "A" else layer.lora_B)["default"].weight.grad
    return grad if half == "A" else grad.t()
