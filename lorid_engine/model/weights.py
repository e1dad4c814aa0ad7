"""Where a model's tensors come from: a safetensors checkpoint, mapped and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError

from lorid_engine.errors import CheckpointError
from lorid_engine.model.config import read_json
from lorid_engine.tensor_files import DTYPES, open_safetensors

_HEADER_DTYPES = ("BF16", "F16", "F32")  # as safetensors writes DTYPES


class TensorSource(Protocol):
    """Tensors by the names of Hugging Face's checkpoints."""

    @property
    def names(self) -> frozenset[str]:
        """The names of all tensors, as far as they are known beforehand."""

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor of exactly this shape; raises CheckpointError if there is none."""


class Checkpoint:
    """A folder's model.safetensors, or the shards that model.safetensors.index.json lists, memory-mapped.

    Raises:
        CheckpointError: no such files, or one is damaged; also from tensor().
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)
        index = self._folder / "model.safetensors.index.json"
        if index.exists():
            files = self._shards(index)
        elif (self._folder / "model.safetensors").exists():
            files = [self._folder / "model.safetensors"]
        else:
            raise CheckpointError(self._nothing_found())
        self._files = {path: open_safetensors(path) for path in files}
        self._where = {name: path for path, file in self._files.items() for name in file.keys()}  # noqa: SIM118

    def _nothing_found(self) -> str:
        if not self._folder.is_dir():
            return f"there is no folder {self._folder}"
        if pickled := sorted(self._folder.glob("*.bin")) + sorted(self._folder.glob("*.pth")):
            return f"{pickled[0]} is a pickle, which can run code and is never read; save the model as safetensors"
        return f"{self._folder} has neither model.safetensors nor model.safetensors.index.json"

    def _shards(self, index: Path) -> list[Path]:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index} has no weight_map")
        names = sorted({str(name) for name in weight_map.values()})
        for name in names:
            if Path(name).name != name:
                raise CheckpointError(f"{index} names {name!r}, which is not a file of its own folder")
        return [self._folder / name for name in names]

    @property
    def names(self) -> frozenset[str]:
        """The names of all tensors."""
        return frozenset(self._where)

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor, mapped from its file, of exactly this shape."""
        if name not in self._where:
            raise CheckpointError(f"{self._folder} has no tensor {name}; the checkpoint does not fit its config.json")
        path = self._where[name]
        try:
            tensor = self._files[path].get_tensor(name)
        except (SafetensorError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: {name} cannot be read: {error}") from None
        if tensor.dtype not in DTYPES:
            raise CheckpointError(f"{path}: {name} must be bfloat16, float16 or float32; got {tensor.dtype}")
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"{path}: {name} must have shape {list(shape)}; got {list(tensor.shape)}")
        return tensor

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Looks at a tensor's header; raises CheckpointError as tensor() would."""
        if name not in self._where:
            raise CheckpointError(f"{self._folder} has no tensor {name}; the checkpoint does not fit its config.json")
        header = self._files[self._where[name]].get_slice(name)
        if header.get_dtype() not in _HEADER_DTYPES:
            raise CheckpointError(
                f"{self._where[name]}: {name} must be bfloat16, float16 or float32; got {header.get_dtype()}"
            )
        if tuple(header.get_shape()) != shape:
            raise CheckpointError(
                f"{self._where[name]}: {name} must have shape {list(shape)}; got {list(header.get_shape())}"
            )


class HeaderSource:
    """A TensorSource that looks at a checkpoint's headers alone and gives tensors without contents.

    Attributes:
        problems: what was wrong with the tensors that were asked for.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.problems: list[str] = []

    @property
    def names(self) -> frozenset[str]:
        """The checkpoint's, but for a head beside a tied one, whose contents would have to be compared."""
        return self._checkpoint.names - {"lm_head.weight"}

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor of this shape on no device."""
        try:
            self._checkpoint.check(name, shape)
        except CheckpointError as error:
            self.problems.append(str(error))
        return torch.empty(shape, dtype=torch.bfloat16, device="meta")
