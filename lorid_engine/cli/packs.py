"""`lorid packs` and `lorid pack`: what is installed, new packs, and whether one is in order."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from lorid_engine import env
from lorid_engine.cli.plain_text import one_line
from lorid_engine.cli.trace import FetchProgress
from lorid_engine.errors import PackError
from lorid_engine.model.cache import bytes_under
from lorid_engine.model.hub import is_hub_id
from lorid_engine.solver.base_source import BaseSource, FolderSource, HubSource
from lorid_engine.solver.packs import installed_packs, load_pack


def run(options: argparse.Namespace) -> int:
    """Runs one of the commands; returns the exit status."""
    if options.command == "packs":
        return _list(options)
    return {"check": _check, "new": _new, "import-lorid": _import}[options.action](options)


def _list(options: argparse.Namespace) -> int:
    packs = [_describe(name, folder) for name, folder in installed_packs().items()]
    if options.json:
        print(json.dumps(packs))
        return 0
    for pack in packs:
        print(pack["name"])
        print(f"  {pack['accuracy'] or 'no accuracy measured'}")
        print(f"  adapters {pack['adapter_bytes'] / 1e6:.1f} MB, base {pack['base']}")
        print(f"  {pack['folder']}")
    return 0


def _describe(name: str, folder: Path) -> dict[str, Any]:
    pack = load_pack(name)
    size = sum(bytes_under(role.adapter) for role in pack.roles.values())
    return {
        "name": name,
        "accuracy": pack.accuracy,
        "adapter_bytes": size,
        "base": _base_name(pack.base),
        "folder": str(folder),
    }


def _base_name(base: BaseSource) -> str:
    if isinstance(base, FolderSource):
        return str(base.path)
    if isinstance(base, HubSource):
        return f"{base.hub_id} at {base.revision}"
    size = f", {base.size / 1e6:.0f} MB" if base.size else ""
    return f"{base.file} of {base.wheel}{size}"


def _check(options: argparse.Namespace) -> int:
    from lorid_engine.solver.pack_check import check_pack

    folder = installed_packs().get(options.folder, Path(options.folder))
    if not (folder / "pack.toml").is_file():
        raise PackError(f"{folder} has no pack.toml, and no installed pack has this name")
    with FetchProgress(Console(stderr=True)) as report:
        findings = check_pack(folder, env.cache_dir(), report)
    wrong = sum(finding.problem is not None for finding in findings)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{finding.what}: {one_line(finding.problem or 'in order')}")
        print(f"{wrong} problem{'s' if wrong != 1 else ''}" if wrong else "The pack is in order.")
    return 1 if wrong else 0


def _new(options: argparse.Namespace) -> int:
    from lorid_engine.solver.new_pack import start_pack

    adapters = {role: Path(getattr(options, role)) for role in ("ir", "kg", "dr")}
    made_of = start_pack(Path(options.folder), options.base, adapters, options.revision)
    manifest = Path(options.folder, "pack.toml")
    _say_hub(options)
    print(f"Wrote {options.folder}; its prompts are made of {one_line(made_of)}.")
    print(f"Edit prompts, answer and sampling in {manifest} to what the adapters were trained with.")
    print(f"Then: lorid pack check {options.folder}")
    return 0


def _say_hub(options: argparse.Namespace) -> None:
    if is_hub_id(options.base):
        print(
            f"There is no folder {options.base} here: it is taken for a hub's model, at {options.revision or 'main'}."
        )


def _import(options: argparse.Namespace) -> int:
    from lorid_engine.solver.authors_pack import import_authors_pack

    import_authors_pack(
        Path(options.clone),
        Path(options.out),
        base=options.base,
        dataset=options.dataset,
        revision=options.revision,
        example=options.example,
        adapters=None if options.adapters is None else Path(options.adapters),
    )
    _say_hub(options)
    print(f"Wrote {options.out}. Next: lorid pack check {options.out}")
    return 0
