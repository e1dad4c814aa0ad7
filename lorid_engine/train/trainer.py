"""Trainer: all roles in one run over one frozen base; each role has its own loss, clipping, schedule and step count."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils import clip_grad_norm_
from transformers import get_cosine_schedule_with_warmup

from lorid_engine.errors import TrainingError
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.llama import LlamaWeights
from lorid_engine.train.adapters import RoleAdapters
from lorid_engine.train.examples import Example
from lorid_engine.train.forward import Angles, TrainingOps, target_features
from lorid_engine.train.losses import target_losses
from lorid_engine.train.micro_batch import MicroBatch, TrainingSequence, split_step
from lorid_engine.train.options import TrainingOptions
from lorid_engine.train.order import ExampleOrder, key64
from lorid_engine.train.processes import Processes


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    Attributes:
        step: how many steps are done, this one included.
        loss: by role, the mean cross-entropy of its targets before the step.
        grad_norm: by role, before clipping.
        learning_rate: by role, that the step used.
        tokens: rows that went through the model, in all processes.
        seconds: of this process.
    """

    step: int
    loss: dict[str, float]
    grad_norm: dict[str, float]
    learning_rate: dict[str, float]
    tokens: int
    seconds: float


class NotANumberError(TrainingError):
    """A role's loss or gradient is not finite.

    Attributes:
        examples: of the step, by role.
    """

    def __init__(self, message: str, examples: dict[str, list[Example]]) -> None:
        super().__init__(message)
        self.examples = examples


class _Role:
    """One role's data and optimizer."""

    def __init__(
        self, name: str, slot: int, examples: Sequence[Example], adapters: RoleAdapters, options: TrainingOptions
    ) -> None:
        self.name, self.slot, self.examples = name, slot, examples
        lengths = [len(example.tokens) for example in examples]
        self.order = ExampleOrder(lengths, options.batch_size, options.epochs, options.seed, name)
        self.steps = min(self.order.steps, options.planned_steps or self.order.steps)
        self.parameters = dict(adapters.named_parameters(slot))
        fused = True if adapters.device.type == "cuda" else None
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=fused
        )
        warm = math.ceil(options.warmup * self.steps)
        self.schedule = get_cosine_schedule_with_warmup(self.optimizer, warm, self.steps)

    def batch(self, step: int) -> list[Example]:
        return [self.examples[i] for i in self.order.batch(step)]


class Trainer:
    """Trains the adapters of some roles step by step.

    A step takes a batch of every role that has steps left; its gradients equal those of as many separate runs. What it
    computes depends on the options and on (seed, role, step) alone, so that a run can be stopped and gone on with.

    Args:
        weights, adapters: on one device.
        examples: of every role of the options, to be trained on.
        processes: that share the passes of each step.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: LlamaWeights,
        adapters: RoleAdapters,
        examples: Mapping[str, Sequence[Example]],
        options: TrainingOptions,
        processes: Processes | None = None,
    ) -> None:
        self._config, self._weights, self._adapters, self._options = config, weights, adapters, options
        self._processes = processes or Processes()
        self._roles = [_Role(name, slot, examples[name], adapters, options) for slot, name in enumerate(adapters.roles)]
        positions = min(options.max_tokens, config.max_positions)
        self._device = adapters.device
        self._angles = Angles(*(table.to(self._device) for table in config.rotary.tables(config.head_dim, positions)))
        self.steps_done = 0

    @property
    def steps(self) -> int:
        """Of the whole run: of the role that has most."""
        steps = max(role.steps for role in self._roles)
        return min(steps, self._options.max_steps or steps)

    @property
    def steps_per_epoch(self) -> int:
        """Of the role that has most."""
        return max(role.order.steps_per_epoch for role in self._roles)

    def sequences(self, step: int) -> list[TrainingSequence]:
        """The examples of a step, with what their dropout is drawn from."""
        seed = self._options.seed
        return [
            TrainingSequence(role.slot, example, key64("dropout", seed, role.name, step, place))
            for role in self._roles
            if step < role.steps
            for place, example in enumerate(role.batch(step))
        ]

    def step(self) -> StepReport:
        """Trains one step.

        Raises:
            NotANumberError: a loss or a gradient is not finite; no adapter has changed.
        """
        start = time.perf_counter()
        sequences = self.sequences(self.steps_done)
        active = [role for role in self._roles if self.steps_done < role.steps]
        self._adapters.zero_gradients()
        losses = torch.zeros(len(self._roles), device=self._device)
        for part in self._losses(sequences, self._options.dropout):
            part.sum().backward()
            losses += part.detach()
        self._processes.add_up([losses, *self._adapters.gradients()])
        self._adapters.hand_out_gradients()
        clipped = [clip_grad_norm_(role.parameters.values(), self._options.max_grad_norm) for role in active]
        # One read for all of them: a GPU is waited for once a step.
        numbers = torch.cat([losses[[role.slot for role in active]], torch.stack(clipped)]).tolist()
        names = [role.name for role in active]
        loss = dict(zip(names, numbers[: len(active)], strict=True))
        norms = dict(zip(names, numbers[len(active) :], strict=True))
        self._refuse_nan(sequences, loss, norms)
        rates = {role.name: role.schedule.get_last_lr()[0] for role in active}
        for role in active:
            role.optimizer.step()
            role.schedule.step()
        self.steps_done += 1
        tokens = sum(sequence.example.rows for sequence in sequences)
        return StepReport(self.steps_done, loss, norms, rates, tokens, time.perf_counter() - start)

    def _refuse_nan(
        self, sequences: Sequence[TrainingSequence], loss: dict[str, float], norms: dict[str, float]
    ) -> None:
        bad = [name for name in loss if not (abs(loss[name]) < float("inf") and norms[name] < float("inf"))]
        if not bad:
            return
        batch: dict[str, list[Example]] = {name: [] for name in loss}
        for sequence in sequences:
            batch[self._adapters.roles[sequence.slot]].append(sequence.example)
        name, others = bad[0], f" (so it is with {', '.join(bad[1:])}, perhaps by the same fault)" if bad[1:] else ""
        raise NotANumberError(
            f"step {self.steps_done + 1}: the loss of {name} is {loss[name]:g} and its gradient's norm {norms[name]:g}{others}; "
            "a lower --lr may help",
            batch,
        )

    def evaluate(self, examples: Mapping[str, Sequence[Example]]) -> dict[str, float]:
        """The mean cross-entropy of the targets by role, without dropout."""
        sequences = [
            TrainingSequence(slot, example, 0)
            for slot, name in enumerate(self._adapters.roles)
            for example in examples[name]
        ]
        if not sequences:
            return {}
        losses = torch.zeros(len(self._roles), device=self._device)
        with torch.no_grad():
            for part in self._losses(sequences, 0.0):
                losses += part
        self._processes.add_up([losses])
        means = losses.tolist()
        return {name: means[slot] for slot, name in enumerate(self._adapters.roles) if examples[name]}

    def _losses(self, sequences: Sequence[TrainingSequence], dropout: float) -> Iterator[torch.Tensor]:
        """By slot, the share of each pass in the mean over all targets of these sequences."""
        counts = torch.zeros(len(self._roles))
        for sequence in sequences:
            counts[sequence.slot] += sequence.example.targets
        weight = (1 / counts.clamp(min=1)).to(self._device)
        passes = split_step(sequences, self._options.rows_per_pass, self._processes.size)
        for place in self._processes.mine(len(passes)):
            batch = MicroBatch.of(passes[place]).to(self._device)
            ops = TrainingOps(self._config, self._adapters, batch, self._angles, dropout)
            recompute = self._options.recompute and torch.is_grad_enabled()
            features = target_features(ops, self._weights, recompute=recompute)
            yield target_losses(features, self._weights.head.weight.data, batch.label, batch.label_slot, weight)

    def state(self) -> dict[str, torch.Tensor]:
        """Masters and optimizer of all roles, by name: with steps_done, all that a run needs to go on."""
        tensors = {}
        for role in self._roles:
            for name, parameter in role.parameters.items():
                tensors[f"{role.name}.{name}"] = parameter.detach()
                for moment in ("exp_avg", "exp_avg_sq"):
                    if parameter in role.optimizer.state:
                        tensors[f"{role.name}.{name}.{moment}"] = role.optimizer.state[parameter][moment]
        return tensors

    def restore(self, steps_done: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Goes back to a state.

        Raises:
            TrainingError: the tensors are not this run's.
        """
        for role in self._roles:
            done = min(steps_done, role.steps)
            for name, parameter in role.parameters.items():
                names = (f"{role.name}.{name}", *(f"{role.name}.{name}.{m}" for m in ("exp_avg", "exp_avg_sq")))
                if any(each not in tensors or tensors[each].shape != parameter.shape for each in names):
                    raise TrainingError(
                        f"the checkpoint does not fit this run: {names[0]} is missing or of another shape"
                    )
                parameter.data.copy_(tensors[names[0]])
                role.optimizer.state[parameter] = {
                    "step": torch.tensor(float(done), device=self._device),
                    "exp_avg": tensors[names[1]].to(self._device, copy=True),
                    "exp_avg_sq": tensors[names[2]].to(self._device, copy=True),
                }
            rates = [
                base * rate(done) for base, rate in zip(role.schedule.base_lrs, role.schedule.lr_lambdas, strict=True)
            ]
            role.schedule.load_state_dict({**role.schedule.state_dict(), "last_epoch": done, "_last_lr": rates})
            for group, rate in zip(role.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        self.steps_done = steps_done
