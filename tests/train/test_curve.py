"""A short run against PEFT and torch on the same batches: the same curve of losses, role by role."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from lorid_engine.train.order import ExampleOrder
from test_families import MODELS, save_model
from tiny_training import ROLES, make_adapters, make_trainer, peft_loss, peft_model, random_examples, tiny_options


def test_losses_follow_pefts_curve(tmp_path: Path) -> None:
    """Clipping, warm-up, decay and AdamW included; within a hundredth everywhere, while the loss falls a long way."""
    base = save_model(tmp_path / "base", MODELS["llama biases"])
    options = tiny_options(epochs=8, batch_size=3, learning_rate=2e-2, max_grad_norm=0.5, weight_decay=0.01)
    adapters, examples = make_adapters(base, options), random_examples(counts=(9, 7, 5), longest=24)
    trainer = make_trainer(base, adapters, examples, options)
    ours = [trainer.step() for _ in range(trainer.steps)]
    for slot, role in enumerate(ROLES):
        model = peft_model(base, make_adapters(base, options), slot, tmp_path / role).eval()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)
        order = ExampleOrder([len(e.tokens) for e in examples[role]], 3, options.epochs, options.seed, role)
        schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(options.warmup * order.steps), order.steps)
        theirs = []
        for step in range(order.steps):
            loss = peft_loss(model, [examples[role][i] for i in order.batch(step)])
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, options.max_grad_norm)
            assert ours[step].grad_norm[role] == pytest.approx(norm.item(), rel=2e-2)
            assert ours[step].learning_rate[role] == schedule.get_last_lr()[0]
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            theirs.append(loss.item())
        assert [report.loss[role] for report in ours[: order.steps]] == pytest.approx(theirs, rel=1e-2)
        assert theirs[-1] < 0.8 * theirs[0]
        assert all(role not in report.loss for report in ours[order.steps :])
