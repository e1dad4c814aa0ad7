"""Checkpoints: the state of a run in a folder that is there whole or not at all; the one before stays until then."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lorid_engine.errors import TrainingError

_NAME = re.compile(r"step-(\d{8})\.safetensors")


class Checkpoints:
    """The states of one run, in a folder of their own; only the last is kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def found(self) -> dict[int, Path]:
        """Files by the steps that were done."""
        paths = self._folder.glob("step-*.safetensors")
        return {int(match[1]): path for path in paths if (match := _NAME.fullmatch(path.name))}

    def load(self) -> tuple[int, dict[str, torch.Tensor]] | None:
        """The last state and how many steps it has, or None.

        Raises:
            TrainingError: it is damaged.
        """
        found = self.found
        if not found:
            return None
        step = max(found)
        try:
            return step, load_file(found[step])
        except (SafetensorError, OSError) as error:
            raise TrainingError(
                f"the checkpoint {found[step]} cannot be read: {error}; delete it to begin anew"
            ) from None

    def save(self, step: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keeps a state; when this returns, no kill can lose it.

        Raises:
            TrainingError: it cannot be written; the state before is kept.
        """
        before = self.found
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".new.", dir=self._folder) as scratch:
                new = Path(scratch, "state")
                save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, new)
                with open(new, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(new, self._folder / f"step-{step:08d}.safetensors")
        except (SafetensorError, OSError) as error:
            kept = f"; that of step {max(before)} is kept" if before else ""
            raise TrainingError(f"the checkpoint of step {step} could not be written: {error}{kept}") from None
        for other, path in before.items():
            if other != step:
                path.unlink(missing_ok=True)
        for left in self._folder.glob(".new.*"):  # of processes that were killed
            shutil.rmtree(left, ignore_errors=True)
