"""base_digest: tells one base from another without reading all of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

_WHOLE, _PIECE, _PIECES = (
    1 << 20,
    1 << 12,
    256,
)  # bytes of a base's files that are hashed: the first, and pieces after them


def base_digest(folder: Path) -> str:
    """SHA-256 over a base: its small files, and a part of each file of weights: its size, its head and a million bytes."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".txt", ".model", ".safetensors") and path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with open(path, "rb") as file:
                digest.update(file.read(_WHOLE))
                for place in range(_WHOLE, size, max(_PIECE, size // _PIECES)):
                    file.seek(place)
                    digest.update(file.read(_PIECE))
    return digest.hexdigest()
