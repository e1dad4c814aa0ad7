"""Packs by their name or folder: those that came with the package, and those of the user."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from lorid_engine.errors import PackError
from lorid_engine.solver.manifest import read_manifest
from lorid_engine.solver.pack import Pack

DEFAULT_PACK = "smollm2-135m-gsm8k"


def installed_packs() -> dict[str, Path]:
    """The packs that came with the package, by name."""
    data = Path(str(resources.files("lorid_engine.solver") / "data"))
    return {path.parent.name: path.parent for path in sorted(data.glob("*/pack.toml"))}


def load_pack(name_or_folder: str | Path = DEFAULT_PACK) -> Pack:
    """Reads a pack by its name, or from a folder.

    Raises:
        PackError: no such pack, or a manifest that is damaged or incomplete; the message names the entry.
    """
    installed = installed_packs()
    if str(name_or_folder) in installed:
        return read_manifest(installed[str(name_or_folder)])
    folder = Path(name_or_folder)
    try:
        if (folder / "pack.toml").is_file():
            return read_manifest(folder)
    except PackError:
        raise
    except (OSError, ValueError, OverflowError, RuntimeError) as error:  # paths and patterns that no system can take
        raise PackError(f"the pack {str(name_or_folder)[:200]!r} cannot be read: {error}") from None
    raise PackError(
        f"there is no pack {str(name_or_folder)[:200]!r}; installed: {', '.join(installed) or 'none'}, "
        "or give a folder with a pack.toml"
    )
