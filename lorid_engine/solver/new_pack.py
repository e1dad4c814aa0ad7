"""A first pack from a base and three adapters, with prompts to be edited."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorid_engine.errors import CheckpointError
from lorid_engine.model.hub import hub_folder
from lorid_engine.solver.pack import PUBLISHED_SAMPLING, ROLES
from lorid_engine.solver.pack_files import base_entry, require_new, write_pack

_ASKS = {
    "ir": "Solve the math problem step by step.\n\nProblem: {question}",
    "kg": "List the general rules needed to solve the math problem, in order.\n\nProblem: {question}",
    "dr": "Solve the math problem step by step by applying the rules.\n\nProblem: {question}\n\nRules:\n{knowledge}",
}


def start_pack(folder: Path, base: str, adapters: Mapping[str, Path], revision: str | None = None) -> str:
    """Writes a pack whose prompts ask in our words, in the base's own chat template where it has one.

    Returns:
        What the prompts are made of, in a sentence.

    Raises:
        PackError: the base or an adapter is not there, or the folder is not empty.
    """
    require_new(folder)
    source = base_entry(base, revision)
    prompts, made_of = _prompts(source)
    manifest: dict[str, Any] = {
        "name": folder.name,
        "base": source,
        "answer": {"pattern": "#### (.+)"},
        "roles": {role: {"adapter": role, "prompt": prompts[role]} for role in ROLES},
        "sampling": dict(PUBLISHED_SAMPLING),
    }
    write_pack(folder, manifest, adapters)
    return made_of


def _prompts(source: Mapping[str, str]) -> tuple[dict[str, str], str]:
    plain = {role: f"{ask}\n\n" for role, ask in _ASKS.items()}
    try:
        path = (
            Path(source["path"]) if "path" in source else hub_folder(source["hub"], source["revision"], weights=False)
        )
    except CheckpointError:
        return plain, "plain text: the base could not be looked at"
    if not path.is_dir():
        return plain, "plain text: a .gguf file's chat template is not read"
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        if not tokenizer.chat_template:
            return plain, "plain text: the base has no chat template"
        turn = {"tokenize": False, "add_generation_prompt": True}
        asked = {
            role: tokenizer.apply_chat_template([{"role": "user", "content": ask}], **turn)
            for role, ask in _ASKS.items()
        }
    except Exception as error:  # the library and the template raise many kinds
        return plain, f"plain text: the base's chat template cannot be used ({error})"
    return asked, "the base's chat template"
