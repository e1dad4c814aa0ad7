"""Packs: a base, an adapter and a prompt per role, sampling defaults and the answer's form, as a folder with pack.toml."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from lorid_engine.engine.request import SamplingParams
from lorid_engine.errors import ConfigError, PackError
from lorid_engine.model.hub import names_hub_model
from lorid_engine.solver.base_source import BaseSource, FolderSource, HubSource, WheelSource
from lorid_engine.solver.prompts import Template

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_PACK = "smollm2-135m-gsm8k"
ROLES = ("ir", "kg", "dr")
# As published (arXiv 2508.13037 and the authors' scripts).
PUBLISHED_SAMPLING: dict[str, float | int] = {"temperature": 1.5, "top_p": 0.9, "top_k": 50, "max_tokens": 1024}


@dataclass(frozen=True)
class Role:
    """One of ir, kg, dr: its adapter's folder, its prompt, and what it samples differently."""

    name: str
    adapter: Path
    template: Template
    sampling: Mapping[str, float | int]


@dataclass(frozen=True)
class Pack:
    """A pack's manifest.

    Attributes:
        name: the pack's name.
        folder: where it lies.
        base: where its base comes from.
        roles: ir, kg and dr.
        answer_pattern: regular expression whose first group is the answer.
        stop: strings that end every role's text.
        sampling: the pack's own defaults.
        accuracy: what was measured of it, in a sentence; None = nothing.
    """

    name: str
    folder: Path
    base: BaseSource
    roles: Mapping[str, Role]
    answer_pattern: str | None
    stop: tuple[str, ...]
    sampling: Mapping[str, float | int]
    accuracy: str | None

    def sampling_for(self, role: str, overrides: Mapping[str, float | int] | None = None) -> dict[str, Any]:
        """temperature, top_p, top_k and max_tokens of a role: overrides, then the role's, the pack's, the published."""
        return {**PUBLISHED_SAMPLING, **self.sampling, **self.roles[role].sampling, **(overrides or {})}


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
        return _read(installed[str(name_or_folder)])
    folder = Path(name_or_folder)
    try:
        if (folder / "pack.toml").is_file():
            return _read(folder)
    except PackError:
        raise
    except (OSError, ValueError, OverflowError, RuntimeError) as error:  # paths and patterns that no system can take
        raise PackError(f"the pack {str(name_or_folder)[:200]!r} cannot be read: {error}") from None
    raise PackError(
        f"there is no pack {str(name_or_folder)[:200]!r}; installed: {', '.join(installed) or 'none'}, "
        "or give a folder with a pack.toml"
    )


class _Table:
    """A table of the manifest; every entry is asked for by name and type, and what is left over is refused."""

    def __init__(self, path: Path, where: str, value: object) -> None:
        if not isinstance(value, dict):
            raise PackError(f"{path}: {where} must be a table")
        self._path, self._where, self._left = path, where, dict(value)

    def wrong(self, key: str, expected: str) -> PackError:
        return PackError(f"{self._path}: {self._where}.{key} must be {expected}")

    def take(self, key: str, kind: type | tuple[type, ...], expected: str, *, needed: bool = True) -> Any:
        if key not in self._left:
            if needed:
                raise PackError(f"{self._path}: {self._where} has no {key}")
            return None
        value = self._left.pop(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.wrong(key, expected)
        return value

    def table(self, key: str, *, needed: bool = True) -> _Table | None:
        value = self.take(key, dict, "a table", needed=needed)
        return None if value is None else _Table(self._path, f"{self._where}.{key}".removeprefix("pack."), value)

    def finish(self) -> None:
        if self._left:
            raise PackError(f"{self._path}: {self._where} has unknown entries: {', '.join(self._left)}")


def _read(folder: Path) -> Pack:
    path = folder / "pack.toml"
    try:
        top = _Table(path, "pack", tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PackError(f"{path} cannot be read: {error}") from None
    name = top.take("name", str, "a string")
    top.take("license", str, "a string", needed=False)
    accuracy = top.take("accuracy", str, "a string", needed=False)
    pattern, stop = _read_answer(top)
    roles_table = top.table("roles")
    assert roles_table is not None
    roles = {role: _read_role(folder, role, roles_table.table(role)) for role in ROLES}
    roles_table.finish()
    base = _read_base(folder, top)
    sampling = _read_sampling(top.table("sampling", needed=False))
    top.finish()
    return Pack(name, folder, base, roles, pattern, stop, sampling, accuracy)


def _read_base(folder: Path, top: _Table) -> BaseSource:
    base = top.table("base")
    assert base is not None
    path = base.take("path", str, "a folder or a .gguf file", needed=False)
    hub = base.take("hub", str, "a hub's model, organisation/name", needed=False)
    if hub is not None:
        if path is not None:
            raise base.wrong("hub", "the only source; there is a path, too")
        if not names_hub_model(hub):
            raise base.wrong("hub", f"a hub's model, organisation/name; got {hub!r}")
        revision = base.take("revision", str, "a branch, tag or commit")
        base.finish()
        return HubSource(hub, revision)
    if path is not None:
        base.finish()
        return FolderSource((folder / Path(path).expanduser()).resolve())
    wheel = base.take("wheel", str, "name==version")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.+!-]+", wheel):
        raise base.wrong("wheel", f"name==version; got {wheel!r}")
    file = base.take("file", str, "a path inside the wheel")
    sha256 = base.take("sha256", str, "64 hexadecimal digits").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise base.wrong("sha256", "64 hexadecimal digits")
    size = base.take("size", int, "a number of bytes", needed=False) or 0
    base.finish()
    return WheelSource(wheel, file, sha256, size)


def _read_answer(top: _Table) -> tuple[str | None, tuple[str, ...]]:
    answer = top.table("answer", needed=False)
    if answer is None:
        return None, ()
    pattern = answer.take("pattern", str, "a regular expression", needed=False)
    if pattern is not None:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise answer.wrong("pattern", f"a regular expression ({error})") from None
        if groups < 1:
            raise answer.wrong("pattern", "a regular expression with a group for the answer")
    stop = answer.take("stop", list, "a list of strings", needed=False) or []
    if not all(isinstance(text, str) and text for text in stop):
        raise answer.wrong("stop", "a list of strings that are not empty")
    answer.finish()
    return pattern, tuple(stop)


def _read_role(folder: Path, name: str, table: _Table | None) -> Role:
    assert table is not None
    adapter = folder / table.take("adapter", str, "a folder")
    if not (adapter / "adapter_config.json").is_file():
        raise table.wrong("adapter", f"a folder in PEFT's format; {adapter} has no adapter_config.json")
    try:
        template = Template(table.take("prompt", str, "a string"))
    except PackError as error:
        raise table.wrong("prompt", f"a prompt: {error}") from None
    needed = {"question", "knowledge"} if name == "dr" else {"question"}
    if template.placeholders != needed:
        wanted = " and ".join(f"{{{placeholder}}}" for placeholder in sorted(needed, reverse=True))
        raise table.wrong("prompt", f"a prompt with {wanted}")
    sampling = _read_sampling(table.table("sampling", needed=False))
    table.finish()
    return Role(name, adapter, template, sampling)


def _read_sampling(table: _Table | None) -> dict[str, float | int]:
    if table is None:
        return {}
    sampling = {}
    for key, kind in (
        ("temperature", (int, float)),
        ("top_p", (int, float)),
        ("top_k", (int,)),
        ("max_tokens", (int,)),
    ):
        value = table.take(key, kind, "a number", needed=False)
        if value is not None:
            sampling[key] = value
    table.finish()
    try:
        SamplingParams(**sampling)
    except ConfigError as error:
        raise table.wrong("sampling", f"valid: {error}") from None
    return sampling
