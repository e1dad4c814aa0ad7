"""pack.toml, read and checked: every entry by name and type, and whatever is left over is refused."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lorid_engine.engine.request import SamplingParams
from lorid_engine.errors import ConfigError, PackError
from lorid_engine.model.hub import names_hub_model
from lorid_engine.solver.base_source import BaseSource, FolderSource, HubSource, WheelSource
from lorid_engine.solver.pack import PUBLISHED_ROUNDS, ROLES, Pack, Role
from lorid_engine.solver.prompts import Template

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_Read = TypeVar("_Read")


def read_manifest(folder: Path) -> Pack:
    """The pack of a folder with a pack.toml.

    Raises:
        PackError: the manifest is damaged or incomplete; the message names the entry.
    """
    pack, problems = examine_manifest(folder)
    if problems:
        raise problems[0]
    assert pack is not None
    return pack


def examine_manifest(folder: Path) -> tuple[Pack | None, list[PackError]]:
    """The pack of a folder, or everything that is wrong with its manifest, one problem a section."""
    path = folder / "pack.toml"
    problems: list[PackError] = []

    def section(name: str, read: Callable[..., _Read], *arguments: Any) -> _Read | None:
        try:
            return read(*arguments)
        except PackError as error:
            problems.append(error)
        except (
            OSError,
            ValueError,
            OverflowError,
            RuntimeError,
        ) as error:  # paths and patterns that no system can take
            problems.append(PackError(f"{path}: {name} cannot be used: {error}"))
        return None

    top = section("it", _read_toml, path)
    if top is None:
        return None, problems
    name = section("name", top.take, "name", str, "a string")
    section("license", lambda: top.take("license", str, "a string", needed=False))
    accuracy = section("accuracy", lambda: top.take("accuracy", str, "a string", needed=False))
    calculator = section("calculator", top.flag, "calculator")
    max_rounds = section("max_rounds", _read_rounds, top)
    answer = section("answer", _read_answer, top)
    table = section("roles", top.table, "roles")
    roles = {role: section(f"roles.{role}", _read_role, folder, role, table) for role in ROLES} if table else {}
    if table:
        section("roles", table.finish)
    base = section("base", _read_base, folder, top)
    sampling = section("sampling", lambda: _read_sampling(top.table("sampling", needed=False)))
    section("it", top.finish)
    if problems:
        return None, problems
    assert name is not None and answer is not None and base is not None and sampling is not None
    assert max_rounds is not None
    found = {role: each for role, each in roles.items() if each is not None}
    return Pack(name, folder, base, found, *answer, sampling, accuracy, bool(calculator), max_rounds), []


def read_base(entry: Mapping[str, Any], folder: Path = Path()) -> BaseSource:
    """The source that a manifest's [base] names; paths are relative to `folder`.

    Raises:
        PackError: an entry is wrong.
    """
    return _read_base(folder, _Table(folder / "pack.toml", "pack", {"base": dict(entry)}))


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

    def flag(self, key: str) -> bool:
        value = self._left.pop(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def table(self, key: str, *, needed: bool = True) -> _Table | None:
        value = self.take(key, dict, "a table", needed=needed)
        return None if value is None else _Table(self._path, f"{self._where}.{key}".removeprefix("pack."), value)

    def finish(self) -> None:
        if self._left:
            raise PackError(f"{self._path}: {self._where} has unknown entries: {', '.join(self._left)}")


def _read_toml(path: Path) -> _Table:
    try:
        return _Table(path, "pack", tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PackError(f"{path} cannot be read: {error}") from None


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


def _read_rounds(top: _Table) -> int:
    found = top.take("max_rounds", int, "a whole number", needed=False)
    if found is not None and found < 1:
        raise top.wrong("max_rounds", "at least 1")
    return PUBLISHED_ROUNDS if found is None else found


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


def _read_role(folder: Path, name: str, roles: _Table) -> Role:
    table = roles.table(name)
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
