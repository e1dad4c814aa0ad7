"""Packs of the adapters that LoRID's authors released, or that their scripts trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorid_engine.errors import CheckpointError, PackError
from lorid_engine.model.hub import hub_adapter
from lorid_engine.solver.authors_repository import (
    DATASETS,
    Example,
    RoleText,
    answer_pattern,
    find_example,
    read_role_texts,
)
from lorid_engine.solver.chat_formats import chat_format
from lorid_engine.solver.pack import ROLES
from lorid_engine.solver.pack_files import base_entry, require_new, write_pack

_ORGANISATION = "LoRID-Math"
# By the authors' name of an example: how they call the base, and their accuracy by data set (any agreed answer right).
_RELEASED = {
    "llama2": ("LLaMA-2-7B", {"gsm8k": "72.6", "math": "20.3"}),
    "mistral": ("Mistral-7B", {"gsm8k": "78.5", "math": "31.6"}),
}
_TITLES = {"gsm8k": "GSM8K", "math": "MATH"}


def import_authors_pack(
    clone: Path,
    folder: Path,
    *,
    base: str,
    dataset: str,
    revision: str | None = None,
    example: str | None = None,
    adapters: Path | None = None,
) -> None:
    """Writes a pack from a clone of the authors' repository (src/train.py and examples/).

    Args:
        clone: the clone; nothing of it is run.
        folder: where the pack is written; must not exist, or be empty.
        base: a folder, a .gguf file, or a hub's model at `revision`.
        dataset: "gsm8k" or "math".
        example: the authors' folder for this base, where its name does not tell.
        adapters: a folder with the three; None = what the authors' scripts trained in the clone, else the released ones.

    Raises:
        PackError: the clone, the base or an adapter is not what is needed.
    """
    if dataset not in DATASETS:
        raise PackError(f"the data set must be one of {', '.join(DATASETS)}; got {dataset!r}")
    folder = folder.resolve()
    require_new(folder)  # told before anything is fetched
    source = base_entry(base, revision)
    chosen = find_example(clone, dataset, base, example)
    texts = read_role_texts(clone, dataset)
    found, released = _find_adapters(clone, chosen, dataset, adapters)
    same_base = Path(base).name.lower() == Path(chosen.base).name.lower()  # their figure holds for theirs alone
    write_pack(folder, _manifest(source, chosen, dataset, texts, released and same_base), found)


def _manifest(
    source: dict[str, str], example: Example, dataset: str, texts: dict[str, RoleText], released: bool
) -> dict[str, Any]:
    form = chat_format(example.template)
    answer: dict[str, Any] = {}
    if (pattern := answer_pattern(texts["ir"].target)) is not None:
        answer["pattern"] = pattern
    if form.stop:
        answer["stop"] = list(form.stop)
    manifest: dict[str, Any] = {"name": f"lorid-{example.name}-{dataset}"}
    if released:
        accuracy = _RELEASED[example.name][1][dataset]
        manifest["accuracy"] = f"published by the authors: {accuracy} % of {_TITLES[dataset]} (any agreed answer right)"
    manifest["base"] = source
    if answer:
        manifest["answer"] = answer
    manifest["roles"] = {
        role: {
            "adapter": role,
            "prompt": form.prompt(texts[role].user),
            **({"sampling": dict(example.sampling[role])} if example.sampling[role] else {}),
        }
        for role in ROLES
    }
    return manifest


def _find_adapters(clone: Path, example: Example, dataset: str, given: Path | None) -> tuple[dict[str, Path], bool]:
    """The roles' adapters, and whether they are the released ones."""
    title, _ = _RELEASED.get(example.name, (None, {}))
    names = {role: f"{_TITLES[dataset]}-{title}-{role.upper()}" for role in ROLES} if title else {}
    if given is not None:
        found = {role: _in_folder(given, role, example, names.get(role)) for role in ROLES}
        return found, bool(names) and all(found[role].name == names[role] for role in ROLES)
    trained = {role: clone / example.adapters[role] for role in ROLES}
    if all((path / "adapter_config.json").is_file() for path in trained.values()):
        return trained, False
    if not names:
        raise PackError(
            f"the authors released no adapters for {example.name} (only {', '.join(_RELEASED)}), and {trained['ir']} has "
            "none; name the folder of yours with --adapters"
        )
    try:
        return {role: hub_adapter(f"{_ORGANISATION}/{names[role]}") for role in ROLES}, True
    except CheckpointError as error:
        raise PackError(f"{error}. Adapters that lie on this machine are named with --adapters") from None


def _in_folder(folder: Path, role: str, example: Example, released: str | None) -> Path:
    names = [role, role.upper(), Path(example.adapters[role]).name, *([released] if released else [])]
    for name in names:
        if (folder / name / "adapter_config.json").is_file():
            return folder / name
    raise PackError(
        f"{folder} has no adapter of {role}: none of its folders {', '.join(names)} has an adapter_config.json"
    )
