"""Files of a run: there whole or as they were before, in a folder that one process owns."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorid_engine.errors import DataError


def write_whole(path: Path, text: str) -> None:
    """A file that is there whole or as it was before."""
    try:
        new = path.with_name(f".{path.name}.new")
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)
    except (OSError, UnicodeEncodeError) as error:
        raise DataError(f"{path} could not be written: {error}") from None


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Holds a run's folder against other processes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "w", encoding="ascii")  # noqa: SIM115
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process trains in {folder.parent}; wait for it, or name another folder") from None
        except OSError:  # a file system without locks
            pass
        yield
