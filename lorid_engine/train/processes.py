"""Processes: the processes that train together, as torchrun starts them, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import distributed

from lorid_engine.errors import ConfigError


@dataclass(frozen=True)
class Processes:
    """This process's number among those that share a step's passes.

    Attributes:
        rank: from 0; process 0 writes files and reports.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> Processes:
        """Joins those that torchrun started; without torchrun there is this one.

        Raises:
            ConfigError: they do not find each other.
        """
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return cls()
        try:
            distributed.init_process_group("gloo")
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"the processes of this run do not find each other: {error}; start it by torchrun"
            ) from None
        return cls(distributed.get_rank(), distributed.get_world_size())

    def mine(self, count: int) -> range:
        """Which of so many passes are this process's."""
        return range(self.rank, count, self.size)

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replaces every tensor by its sum over the processes."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether any process says so: all must do the same."""
        flags = torch.tensor([float(flag)])
        self.add_up([flags])
        return bool(flags[0])

    def agree(self, number: int) -> bool:
        """Whether all have the same number."""
        total = torch.tensor([number])
        self.add_up([total])
        return not self.any(int(total[0]) != number * self.size)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            distributed.barrier()

    def leave(self) -> None:
        """Ends the company."""
        if self.size > 1:
            distributed.destroy_process_group()
