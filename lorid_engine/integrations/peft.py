"""accelerate: a PEFT model's LoRA linear layers on our segmented ops, mixed batches and training included; restore undoes it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer, LoraModel

from lorid_engine.errors import ConfigError
from lorid_engine.ops import AdapterBank, LoraDropout, PackedLinear, SegmentPlan, lora_linear, pack_linear
from lorid_engine.ops import cpu as cpu_backend

_BASE = "__base__"  # PEFT's name for rows without an adapter
_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Acceleration:
    """What accelerate did.

    Attributes:
        accelerated: names of the layers that run our ops.
        left: names of the layers that keep PEFT's own path, and why.
    """

    accelerated: tuple[str, ...]
    left: dict[str, str]


def accelerate(model: PeftModel) -> Acceleration:
    """Has the LoRA linear layers of a model run lorid_engine's ops, forward and backward; weights and state_dict stay as they are.

    One adapter at a time and batches of mixed ones (`adapter_names=[...]`, a name or "__base__" for each sample) take one op a
    layer. Mixed batches then work in training, too, which PEFT itself refuses, if no layer is left. Adapters may be added,
    deleted, switched, disabled and merged as before. Where no gradient is asked for, a layer on the CPU keeps a packed copy
    of its base weight: as much memory again as the accelerated layers' weights.

    Args:
        model: with LoRA adapters; float32 or bfloat16.

    Returns:
        Which layers are accelerated, and which are left and why: several active adapters at once, DoRA and other variants,
        quantised or unusual base layers.

    Raises:
        ConfigError: not a PeftModel with LoRA adapters.
    """
    lora_model = _lora_model(model)
    accelerated, left = [], {}
    numbers = itertools.count()
    for name, layer in lora_model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        reason = _why_not(layer)
        if reason is None:
            accelerated.append(name)
            layer.forward = _FastForward(layer, next(numbers))
        else:
            left[name] = reason
    if not left:
        _lift_training_ban(lora_model)
    return Acceleration(tuple(accelerated), left)


def restore(model: PeftModel) -> None:
    """Gives every layer PEFT's own path back.

    Raises:
        ConfigError: not a PeftModel with LoRA adapters.
    """
    lora_model = _lora_model(model)
    lora_model.__dict__.pop("_enable_peft_forward_hooks", None)
    for layer in lora_model.modules():
        if isinstance(layer.__dict__.get("forward"), _FastForward):
            del layer.__dict__["forward"]


def _lora_model(model: PeftModel) -> LoraModel:
    base = getattr(model, "base_model", None)
    if not isinstance(model, PeftModel) or not isinstance(base, LoraModel):
        raise ConfigError(f"accelerate takes a PeftModel with LoRA adapters; got {type(model).__name__}")
    return base


def _why_not(layer: Any) -> str | None:
    """Why a layer keeps PEFT's path, or None."""
    base = layer.get_base_layer()
    if type(layer) is not Linear or type(base) is not torch.nn.Linear:
        return f"it is {type(layer).__name__} over {type(base).__name__}; a plain linear layer is needed"
    if layer.fan_in_fan_out:
        return "its weight is transposed (fan_in_fan_out)"
    if base.weight.dtype not in _DTYPES and base.weight.device.type == "cpu":
        return f"its weight is {base.weight.dtype}; float32 or bfloat16 is needed on the CPU"
    return _why_not_adapters(layer)


def _why_not_adapters(layer: Any) -> str | None:
    if layer.lora_variant:
        return f"its adapters are no plain LoRA: {', '.join(sorted(layer.lora_variant))}"
    if any(layer.lora_bias.values()):
        return "its B has a bias"
    return None


def _lift_training_ban(lora_model: LoraModel) -> None:
    """PEFT refuses adapter_names in training, where its own mixed forward was not tried; ours has gradients."""
    original = type(lora_model)._enable_peft_forward_hooks

    @contextmanager
    def hooks(*args: Any, **kwargs: Any) -> Iterator[None]:
        with ExitStack() as stack:
            training, lora_model.training = lora_model.training, False  # for the check alone
            try:
                stack.enter_context(original(lora_model, *args, **kwargs))
            finally:
                lora_model.training = training
            yield

    lora_model._enable_peft_forward_hooks = hooks


class _FastForward:
    """One layer's forward; what it keeps between calls is made anew once a weight has changed."""

    def __init__(self, layer: Linear, number: int) -> None:
        self._layer, self._number = layer, number
        self._weight: tuple[Any, PackedLinear] | None = None
        self._bank: tuple[Any, AdapterBank] | None = None
        self._plan: tuple[Any, SegmentPlan] | None = None

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        layer = self._layer
        names = self._names(x, kwargs.get("adapter_names"))
        others = args or any(value is not None for key, value in kwargs.items() if key != "adapter_names")
        if names is None or others or not self._takes(x):
            return type(layer).forward(layer, x, *args, **kwargs)
        layer._check_forward_args(x, *args, **kwargs)
        rows = x.reshape(-1, x.shape[-1])
        if rows.stride(1) != 1:  # torch's own linear takes such rows, too
            rows = rows.contiguous()
        trains = torch.is_grad_enabled() and (rows.requires_grad or any(p.requires_grad for p in self._matrices()))
        plan = self._plan_of(names, rows, trains)
        y = lora_linear(rows, self._weight_of(trains), self._bank_of(x.dtype, trains), plan, self._dropout(names, rows))
        return y.view(*x.shape[:-1], y.shape[1])

    def _names(self, x: torch.Tensor, given: Sequence[str] | None) -> tuple[str, ...] | None:
        """The adapter of each sample; None where it is not one each."""
        layer = self._layer
        if layer.disable_adapters or layer.merged:
            return None
        if given is not None:
            return tuple(given)
        there = [name for name in layer.active_adapters if name in layer.lora_A]
        return (there[0],) if len(there) == 1 else None

    def _takes(self, x: torch.Tensor) -> bool:
        weight = self._layer.get_base_layer().weight
        return (
            x.dim() >= 2
            and x.numel() > 0
            and x.dtype == weight.dtype
            and x.device == weight.device
            and not weight.requires_grad
            and _why_not_adapters(self._layer) is None
            and all(p.device == x.device for p in self._matrices())
        )

    def _matrices(self) -> Iterator[torch.nn.Parameter]:
        for name in self._layer.lora_A:
            yield self._layer.lora_A[name].weight
            yield self._layer.lora_B[name].weight

    def _weight_of(self, trains: bool) -> PackedLinear:
        base = self._layer.get_base_layer()
        key = trains, base.weight.data_ptr(), base.weight._version, None if base.bias is None else base.bias._version
        if self._weight is None or self._weight[0] != key:
            weight, bias = base.weight.detach(), None if base.bias is None else base.bias.detach().float()
            packs = not trains and cpu_backend.why_not_tensors(weight) is None
            plain = PackedLinear(weight.contiguous(), base.out_features, base.in_features, bias)
            self._weight = key, pack_linear(weight, bias) if packs else plain
        return self._weight[1]

    def _bank_of(self, dtype: torch.dtype, trains: bool) -> AdapterBank:
        layer, names = self._layer, tuple(self._layer.lora_A)
        key = dtype, names, *((p.data_ptr(), p._version) for p in self._matrices()), *layer.scaling.values()
        if not trains and self._bank is not None and self._bank[0] == key:
            return self._bank[1]
        matrices = [layer.lora_A[name].weight for name in names], [layer.lora_B[name].weight for name in names]
        ranks = [a.shape[0] for a in matrices[0]]
        tables = "cpu" if trains else matrices[0][0].device  # what computes gradients reads them on the CPU
        bank = AdapterBank(
            torch.cat([a.to(dtype) for a in matrices[0]]),
            torch.cat([b.t().to(dtype) for b in matrices[1]]).contiguous(),
            torch.tensor([0, *itertools.accumulate(ranks)], dtype=torch.int32, device=tables),
            torch.tensor([float(layer.scaling[name]) for name in names], device=tables),
            max(ranks),
        )
        self._bank = None if trains else (key, bank)
        return bank

    def _plan_of(self, names: tuple[str, ...], rows: torch.Tensor, trains: bool) -> SegmentPlan:
        """A segment for each run of samples with one adapter."""
        slots = {name: slot for slot, name in enumerate(self._layer.lora_A)}
        count = rows.shape[0]
        key = names, count, tuple(slots), trains, rows.device
        if self._plan is None or self._plan[0] != key:
            of_samples = [slots.get(name, -1) for name in names]
            runs = [(slot, len(list(run))) for slot, run in itertools.groupby(of_samples)]
            each = count // len(names)
            device = "cpu" if trains else rows.device
            offset = [0, *itertools.accumulate(each * length for _, length in runs)]
            plan = SegmentPlan(
                torch.tensor(offset, dtype=torch.int32, device=device),
                torch.tensor([slot for slot, _ in runs], dtype=torch.int32, device=device),
            )
            self._plan = key, plan
        return self._plan[1]

    def _dropout(self, names: tuple[str, ...], rows: torch.Tensor) -> LoraDropout | None:
        """PEFT's dropout of A's input, its mask drawn by our generator from keys that torch draws."""
        layer = self._layer
        shares = {getattr(layer.lora_dropout[name], "p", 0.0) for name in {*names} & {*layer.lora_A}}
        if not layer.training or not any(shares):
            return None
        if len(shares) > 1:
            raise ConfigError(f"the adapters of one batch must have one dropout; got {', '.join(map(str, shares))}")
        key = torch.randint(-(2**63), 2**63 - 1, rows.shape[:1], device=rows.device)
        return LoraDropout(shares.pop(), key, self._number)
