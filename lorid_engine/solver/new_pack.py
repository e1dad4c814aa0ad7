"""A first pack from a base and three adapters, with prompts to be edited."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorid_engine.engine.tokenizer import Tokenizer
from lorid_engine.errors import CheckpointError
from lorid_engine.model.hub import hub_folder
from lorid_engine.solver.chat_formats import PLAIN, TURNS, ChatFormat
from lorid_engine.solver.pack import PUBLISHED_SAMPLING, ROLES
from lorid_engine.solver.pack_files import base_entry, require_new, write_pack

_ASKS = {
    "ir": "Solve the math problem step by step.\n\nProblem: {question}",
    "kg": "List the general rules needed to solve the math problem, in order.\n\nProblem: {question}",
    "dr": "Solve the math problem step by step by applying the rules.\n\nProblem: {question}\n\nRules:\n{knowledge}",
}


def start_pack(folder: Path, base: str, adapters: Mapping[str, Path], revision: str | None = None) -> str:
    """Writes a pack whose prompts ask in our words, in turns of a chat where the base has the tokens for them.

    Returns:
        What the prompts are made of, in a sentence.

    Raises:
        PackError: the base or an adapter is not there, or the folder is not empty.
    """
    folder = folder.resolve()
    require_new(folder)
    source = base_entry(base, revision)
    form, made_of = _chat_format(source)
    write_pack(folder, first_manifest(folder.name, source, form), adapters)
    return made_of


def first_manifest(name: str, base: Mapping[str, Any], form: ChatFormat) -> dict[str, Any]:
    """The manifest of a pack with adapters in ir, kg and dr and our prompts in a form of chat."""
    return {
        "name": name,
        "base": dict(base),
        "answer": {"pattern": "#### (.+)", **({"stop": list(form.stop)} if form.stop else {})},
        "roles": {role: {"adapter": role, "prompt": prompt} for role, prompt in role_prompts(form).items()},
        "sampling": dict(PUBLISHED_SAMPLING),
    }


def role_prompts(form: ChatFormat) -> dict[str, str]:
    """What each role is asked, in a form of chat."""
    return {role: form.prompt(_ASKS[role]) for role in ROLES}


def known_format(tokenizer: Tokenizer) -> tuple[ChatFormat, str]:
    """A form of chat whose tokens a base has, and what it is called."""
    for name, form in TURNS.items():
        if tokenizer.special_ids.keys() >= form.special:
            return form, f"turns of {name}, whose tokens the base has"
    return PLAIN, "plain text: the base has the tokens of no chat that is known"


def _chat_format(source: Mapping[str, str]) -> tuple[ChatFormat, str]:
    """A form of chat whose tokens the base has. Its own chat template is a program, and is not run."""
    try:
        path = (
            Path(source["path"]) if "path" in source else hub_folder(source["hub"], source["revision"], weights=False)
        )
        if not path.is_dir():
            return PLAIN, "plain text: the tokens of a .gguf file are not looked at"
        return known_format(Tokenizer.from_folder(path))
    except CheckpointError as error:
        return PLAIN, f"plain text: the base's tokens could not be looked at ({error})"
