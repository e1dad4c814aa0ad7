"""RoleAdapters: the LoRA matrices of all roles, one bank a module, in float32; each role's rows are parameters of its own."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorid_engine.errors import AdapterError, ConfigError, DataError
from lorid_engine.model.adapters import load_adapter, module_shapes
from lorid_engine.model.config import ModelConfig
from lorid_engine.ops import AdapterBank
from lorid_engine.train.order import key64


class ModuleAdapters:
    """One module's matrices of all roles, end to end: a [N R, I] and b_t [N R, O], float32 masters."""

    def __init__(
        self, out_features: int, in_features: int, ranks: Sequence[int], scale: float, device: torch.device
    ) -> None:
        self.ranks = list(ranks)
        self._first = [sum(ranks[:slot]) for slot in range(len(ranks) + 1)]
        self.a = torch.zeros(sum(ranks), in_features, device=device, requires_grad=True)
        self.b_t = torch.zeros(sum(ranks), out_features, device=device, requires_grad=True)
        # On the CPU, where lora_linear reads them without waiting for a GPU.
        self._rank_offset = torch.tensor(self._first, dtype=torch.int32)
        self._scale = torch.full((len(ranks),), scale, dtype=torch.float32)
        # Views of the masters, so that each role has an optimizer, and may end, by itself.
        self.shares = [(self._share(self.a, slot), self._share(self.b_t, slot)) for slot in range(len(ranks))]

    def _share(self, matrix: torch.Tensor, slot: int) -> torch.nn.Parameter:
        return torch.nn.Parameter(matrix.detach()[self._first[slot] : self._first[slot + 1]])

    def bank(self, dtype: torch.dtype) -> AdapterBank:
        """The matrices as the ops take them; gradients flow back to the masters."""
        return AdapterBank(
            self.a.to(dtype), self.b_t.to(dtype), self._rank_offset, self._scale, max(self.ranks, default=0)
        )

    def hand_out_gradients(self) -> None:
        """Shows every role its rows of the masters' gradients."""
        for master, place in ((self.a, 0), (self.b_t, 1)):
            for slot, share in enumerate(self.shares):
                grad = master.grad
                share[place].grad = None if grad is None else grad[self._first[slot] : self._first[slot + 1]]


class RoleAdapters:
    """The adapters of some roles, slot n for role n.

    Args:
        config: of the base.
        roles: their names, in the order of their slots.
        targets: module names such as "q_proj".
        seed: from which A is drawn as PEFT does, uniform within 1 / sqrt(I); B begins at zero.
        device: of the masters.

    Raises:
        ConfigError: a target that is not supported, or none.
    """

    def __init__(
        self,
        config: ModelConfig,
        roles: Sequence[str],
        *,
        rank: int,
        alpha: float,
        dropout: float,
        targets: Sequence[str],
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        shapes = {name.split(".")[1]: (name, shape) for name, shape in module_shapes(config).items()}
        if unknown := [target for target in targets if target not in shapes]:
            raise ConfigError(f"the targets {', '.join(unknown)} are not supported; supported: {', '.join(shapes)}")
        if not targets:
            raise ConfigError(f"no target is named; supported: {', '.join(shapes)}")
        self.roles, self.targets = tuple(roles), tuple(targets)
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self._config, self.device = config, device or torch.device("cpu")
        self.modules: dict[str, ModuleAdapters] = {}
        for layer in range(config.num_layers):
            for target in targets:
                name, (out_features, in_features) = shapes[target]
                ranks = [rank] * len(roles)
                module = ModuleAdapters(out_features, in_features, ranks, alpha / rank, self.device)
                self.modules[f"layers.{layer}.{name}"] = module
                for role, (a, _) in zip(roles, module.shares, strict=True):
                    generator = torch.Generator().manual_seed(key64("A", seed, role, layer, target) >> 1)
                    bound = 1 / math.sqrt(in_features)
                    a.data.copy_(torch.empty(a.shape).uniform_(-bound, bound, generator=generator))
        self._number = {name: number for number, name in enumerate(self.modules)}

    def number(self, module: str) -> int:
        """A module's number, which tells its dropout from the others'."""
        return self._number[module]

    def named_parameters(self, slot: int) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """A role's matrices by module, "....A" [R, I] and "....B" transposed [R, O]."""
        for name, module in self.modules.items():
            a, b_t = module.shares[slot]
            yield f"{name}.A", a
            yield f"{name}.B", b_t

    def zero_gradients(self) -> None:
        """Forgets all gradients."""
        for module in self.modules.values():
            module.a.grad = module.b_t.grad = None

    def hand_out_gradients(self) -> None:
        """Shows every role's parameters their part of the gradients."""
        for module in self.modules.values():
            module.hand_out_gradients()

    def gradients(self) -> list[torch.Tensor]:
        """The masters' gradients, which several processes add up."""
        for module in self.modules.values():
            for master in (module.a, module.b_t):
                if master.grad is None:
                    master.grad = torch.zeros_like(master)
        return [
            grad for module in self.modules.values() for grad in (module.a.grad, module.b_t.grad) if grad is not None
        ]

    def save(self, slot: int, folder: Path, base: str, dtype: torch.dtype = torch.bfloat16) -> None:
        """Writes a role's adapter in PEFT's format; files that are there are replaced when the new ones are whole.

        Args:
            base: what adapter_config.json names as its base.

        Raises:
            DataError: it cannot be written.
        """
        tensors = {}
        for name, module in self.modules.items():
            a, b_t = module.shares[slot]
            prefix = f"base_model.model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = a.detach().to("cpu", dtype).contiguous()
            tensors[f"{prefix}.lora_B.weight"] = b_t.detach().t().to("cpu", dtype).contiguous()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            new = folder / "adapter_model.safetensors.new"
            save_file(tensors, new)
            config = folder / "adapter_config.json.new"
            config.write_text(json.dumps(self._peft_config(base), indent=2), encoding="utf-8")
            for path in (new, config):
                os.replace(path, path.with_suffix(""))
        except Exception as error:  # safetensors has an error of its own for a full disk
            raise DataError(f"the adapter {folder} could not be written: {error}") from None

    def _peft_config(self, base: str) -> Mapping[str, object]:
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": sorted(self.targets),
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "use_rslora": False,
            "use_dora": False,
        }

    def load(self, slot: int, folder: Path) -> None:
        """Begins a role from an adapter in PEFT's format.

        Raises:
            AdapterError: it was made for another base, or has other modules, another rank or another scale.
        """
        name = self.roles[slot]
        found = load_adapter(name, folder, self._config).modules
        if found.keys() != self.modules.keys():
            odd = sorted(found.keys() ^ self.modules.keys())
            raise AdapterError(f"the adapter {folder} does not have the modules that are trained; for example {odd[0]}")
        for module, weights in found.items():
            a, b_t = self.modules[module].shares[slot]
            if weights.a.shape[0] != self.rank or weights.scale != self.alpha / self.rank:
                raise AdapterError(
                    f"the adapter {folder} has rank {weights.a.shape[0]} and scale {weights.scale:g} in {module}; "
                    f"this run has rank {self.rank} and scale {self.alpha / self.rank:g}"
                )
            a.data.copy_(weights.a)
            b_t.data.copy_(weights.b.t())
