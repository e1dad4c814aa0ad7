"""The cache's files: looked for, locked against other processes, hashed, counted."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from lorid_engine.errors import CheckpointError

Report = Callable[[str, int, int], None]


def is_cached(path: Path) -> bool:
    """Whether the cache has a file.

    Raises:
        CheckpointError: it cannot be looked at.
    """
    try:
        return path.exists()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); set LORID_CACHE to another folder") from None


@contextlib.contextmanager
def locked(path: Path, report: Report | None = None) -> Iterator[None]:
    """Holds a lock file against other processes while the block runs; its folder is made.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "w", encoding="ascii")  # noqa: SIM115
    except OSError as error:
        raise CheckpointError(
            f"the cache folder {path.parent} cannot be written ({error.strerror}); set LORID_CACHE to another"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if report:
                report("waiting for another process that prepares the same base", 0, 0)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be locked ({error.strerror}); set LORID_CACHE to a folder on a file system with locks"
            ) from None
        yield


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        CheckpointError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def bytes_under(folder: Path) -> int:
    """The size of all files below a folder, as far as they can be seen."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:  # moved or deleted meanwhile
                continue
    return total
