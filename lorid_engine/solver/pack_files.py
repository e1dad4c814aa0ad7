"""New packs: a manifest and copies of adapters, in a folder that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from lorid_engine.errors import PackError
from lorid_engine.model.hub import is_hub_id
from lorid_engine.solver.base_source import BaseSource, FolderSource, HubSource
from lorid_engine.solver.manifest import examine_manifest
from lorid_engine.solver.pack import ROLES

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def base_entry(base: str, revision: str | None) -> dict[str, str]:
    """A manifest's [base] for a folder, a .gguf file or a hub's model.

    Raises:
        PackError: none of these.
    """
    if is_hub_id(base):
        return {"hub": base, "revision": revision or "main"}
    if revision is not None:
        raise PackError(f"a revision is for models of a hub (organisation/name); the base is {base}")
    try:
        path = Path(base).expanduser()
    except RuntimeError as error:  # ~ of nobody
        raise PackError(f"the base {base} cannot be found: {error}") from None
    if not (path.is_dir() or (path.suffix == ".gguf" and path.is_file())):
        raise PackError(f"the base {base} is no folder, no .gguf file and no hub's model (organisation/name)")
    return {"path": str(path.resolve())}


def source_entry(source: BaseSource) -> dict[str, Any]:
    """A manifest's [base] for a source that another pack names."""
    if isinstance(source, FolderSource):
        return {"path": str(source.path)}
    if isinstance(source, HubSource):
        return {"hub": source.hub_id, "revision": source.revision}
    size = {"size": source.size} if source.size else {}
    return {"wheel": source.wheel, "file": source.file, "sha256": source.sha256, **size}


def require_new(folder: Path) -> None:
    """Raises PackError if there is something at the place of a new pack."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PackError(f"{folder} exists already; name a folder that does not, or an empty one")


def write_pack(folder: Path, manifest: Mapping[str, Any], adapters: Mapping[str, Path]) -> None:
    """Writes pack.toml and copies the roles' adapters into ir, kg and dr.

    Args:
        folder: must not exist, or be empty.
        manifest: of pack.toml.
        adapters: a folder in PEFT's format for each role.

    Raises:
        PackError: the folder has something in it, an adapter lacks a file, or nothing can be written there.
    """
    require_new(folder)
    for role in ROLES:
        for name in _ADAPTER_FILES:
            if not (adapters[role] / name).is_file():
                raise PackError(f"the adapter of {role}, {adapters[role]}, has no {name}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            new = Path(scratch, "pack")
            for role in ROLES:
                (new / role).mkdir(parents=True)
                for name in _ADAPTER_FILES:
                    shutil.copyfile(adapters[role] / name, new / role / name)
            (new / "pack.toml").write_text(tomli_w.dumps(manifest), encoding="utf-8")
            for problem in examine_manifest(new)[1]:
                raise PackError(f"the pack would not be valid: {str(problem).replace(str(new), str(folder))}")
            if folder.exists():  # empty: it may be somebody's working directory, and stays
                for name in (*ROLES, "pack.toml"):
                    os.rename(new / name, folder / name)
            else:
                os.rename(new, folder)
    except (OSError, UnicodeEncodeError) as error:
        raise PackError(f"the pack {folder} could not be written: {error}") from None
