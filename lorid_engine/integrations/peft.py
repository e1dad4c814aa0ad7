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
from lorid_engine.ops import AdapterBank, LoraDropout, LoraLinear, PackedLinear, SegmentPlan, lora_linear, pack_linear
from lorid_engine.ops import cpu as cpu_backend

_Matrices = Sequence[tuple[torch.nn.Parameter, torch.nn.Parameter]]  # A and B of each adapter
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
    deleted, switched, disabled and merged as before; after a change of weights that torch does not count (through `.data`, as PEFT's
    hotswap_adapter makes), call accelerate again. Where no gradient is asked for, a layer on the CPU keeps a packed copy
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
        lora_model._enable_peft_forward_hooks = _TrainingHooks(lora_model)
    else:
        lora_model.__dict__.pop("_enable_peft_forward_hooks", None)
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


class _TrainingHooks:
    """A model's _enable_peft_forward_hooks without the ban of adapter_names in training, where PEFT's own mixed forward was not tried;
    ours has gradients. A class, so that a copy of the model has its own."""

    def __init__(self, lora_model: LoraModel) -> None:
        self._model = lora_model

    @contextmanager
    def __call__(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        model = self._model
        with ExitStack() as stack:
            training, model.training = model.training, False  # for the check alone
            try:
                stack.enter_context(type(model)._enable_peft_forward_hooks(model, *args, **kwargs))
            finally:
                model.training = training
            yield


def _version_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Another one once a tensor is another, or was changed in place by torch (not so through .data)."""
    return tensor.data_ptr(), tensor._version, tensor.dtype, tensor.shape


def _aliases(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach() for tensor in tensors]


class _FastForward:
    """One layer's forward; what it keeps between calls is made anew once a weight has changed."""

    def __init__(self, layer: Linear, number: int) -> None:
        self._layer, self._number = layer, number
        # Each with its key. While the weights that a key names are held, no other can come to lie at their addresses.
        self._weight: tuple[Any, PackedLinear, list[torch.Tensor]] | None = None
        self._linear: tuple[Any, LoraLinear, list[torch.Tensor]] | None = None
        self._plan: tuple[Any, SegmentPlan] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which make what they keep themselves."""
        return {"_layer": self._layer, "_number": self._number, "_weight": None, "_linear": None, "_plan": None}

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        layer = self._layer
        names = self._names(x, kwargs.get("adapter_names"))
        others = args or any(value is not None for key, value in kwargs.items() if key != "adapter_names")
        base, matrices = layer.get_base_layer(), self._matrices()
        if names is None or others or not self._takes(x, base, matrices):
            return type(layer).forward(layer, x, *args, **kwargs)
        layer._check_forward_args(x, *args, **kwargs)
        rows = x.reshape(-1, x.shape[-1])
        if rows.stride(1) != 1:  # torch's own linear takes such rows, too
            rows = rows.contiguous()
        trains = torch.is_grad_enabled() and (
            rows.requires_grad or any(p.requires_grad for pair in matrices for p in pair)
        )
        plan, dropout = self._plan_of(names, rows, trains), self._dropout(names, rows)
        if trains or dropout is not None:
            self._linear = None  # its copies would lie idle
            bank = self._bank_of(x.dtype, matrices, trains)
            y = lora_linear(rows, self._weight_of(base, packs=False), bank, plan, dropout)
        else:
            y = self._linear_of(base, matrices)(rows, plan)
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

    def _matrices(self) -> list[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
        """A and B of each adapter."""
        a, b = self._layer.lora_A, self._layer.lora_B
        return [(a[name].weight, b[name].weight) for name in a]

    def _takes(self, x: torch.Tensor, base: torch.nn.Linear, matrices: _Matrices) -> bool:
        weight, frozen = base.weight, [base.weight] if base.bias is None else [base.weight, base.bias]
        return (
            x.dim() >= 2
            and x.numel() > 0
            and bool(matrices)
            and x.dtype == weight.dtype
            and x.device == weight.device
            and not any(p.requires_grad for p in frozen)  # which get no gradient from ours
            and _why_not_adapters(self._layer) is None
            and all(p.device == x.device and not p.is_inference() for pair in matrices for p in pair)
            and not any(p.is_inference() for p in frozen)  # whose changes torch does not count
        )

    def _linear_of(self, base: torch.nn.Linear, matrices: _Matrices) -> LoraLinear:
        """The layer without gradients, on copies of its weights."""
        layer = self._layer
        tensors = [base.weight, *(() if base.bias is None else (base.bias,)), *itertools.chain.from_iterable(matrices)]
        scales = (float(layer.scaling[name]) for name in layer.lora_A)
        key = *layer.lora_A, *scales, *map(_version_of, tensors)
        held = self._linear
        if held is None or held[0] != key:
            weight = self._weight_of(base, packs=True)
            linear = LoraLinear(weight, self._bank_of(base.weight.dtype, matrices, trains=False))
            self._linear = held = key, linear, _aliases(tensors)
        return held[1]

    def _weight_of(self, base: torch.nn.Linear, packs: bool) -> PackedLinear:
        """The base's weight, packed where the C++ backend would take it and packs says so."""
        tensors = [base.weight] if base.bias is None else [base.weight, base.bias]
        key = packs, *map(_version_of, tensors)
        held = self._weight
        if held is None or held[0] != key:
            weight, bias = base.weight.detach(), None if base.bias is None else base.bias.detach().float()
            if packs and cpu_backend.why_not_tensors(weight) is None:
                made = pack_linear(weight, bias)
            else:
                made = PackedLinear(weight.contiguous(), base.out_features, base.in_features, bias)
            self._weight = held = key, made, _aliases(tensors)
        return held[1]

    def _bank_of(self, dtype: torch.dtype, matrices: _Matrices, trains: bool) -> AdapterBank:
        layer = self._layer
        ranks = [a.shape[0] for a, _ in matrices]
        tables = "cpu" if trains else matrices[0][0].device  # what computes gradients reads them on the CPU
        return AdapterBank(
            torch.cat([a.to(dtype) for a, _ in matrices]),
            torch.cat([b.t().to(dtype) for _, b in matrices]).contiguous(),
            torch.tensor([0, *itertools.accumulate(ranks)], dtype=torch.int32, device=tables),
            torch.tensor([float(layer.scaling[name]) for name in layer.lora_A], device=tables),
            max(ranks),
        )

    def _plan_of(self, names: tuple[str, ...], rows: torch.Tensor, trains: bool) -> SegmentPlan:
        """A segment for each run of samples with one adapter."""
        slots = {name: slot for slot, name in enumerate(self._layer.lora_A)}
        count = rows.shape[0]
        key = names, count, tuple(slots), trains, rows.device
        held = self._plan
        if held is None or held[0] != key:
            of_samples = [slots.get(name, -1) for name in names]
            runs = [(slot, len(list(run))) for slot, run in itertools.groupby(of_samples)]
            each = count // len(names)
            device = "cpu" if trains else rows.device
            offset = [0, *itertools.accumulate(each * length for _, length in runs)]
            plan = SegmentPlan(
                torch.tensor(offset, dtype=torch.int32, device=device),
                torch.tensor([slot for slot, _ in runs], dtype=torch.int32, device=device),
            )
            self._plan = held = key, plan
        return held[1]

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
