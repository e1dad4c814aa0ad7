"""A pack on a tiny random model whose tokens are single bytes: texts are noise, but they really differ by role and round."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from fakes import SPECIAL, VOCAB, byte_tokenizer
from lorid_engine.engine import Engine
from lorid_engine.solver.base_source import FolderSource
from lorid_engine.solver.pack import Pack, Role
from lorid_engine.solver.prompts import Template
from tiny_models import save_adapter, save_llama

PROMPTS = {
    "ir": "<|start|>Solve: {question}<|end|>\n<|start|>",
    "kg": "<|start|>Rules: {question}<|end|>\n<|start|>",
    "dr": "<|start|>Apply: {question}\n{knowledge}<|end|>\n<|start|>",
}


def make_pack(folder: Path, max_tokens: int = 24) -> Pack:
    """Writes base and adapters; an answer is the last letter or digit of a rationale."""
    base = save_llama(folder / "base", vocab=VOCAB)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer()._rust, eos_token="<|end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.save_pretrained(base)
    roles = {
        role: Role(role, save_adapter(base, folder / role, seed=seed, r=4 + seed), Template(PROMPTS[role]), {})
        for seed, role in enumerate(PROMPTS)
    }
    sampling = {"temperature": 0.8, "top_p": 0.95, "top_k": 20, "max_tokens": max_tokens}
    return Pack("tiny", folder, FolderSource(base), roles, r"([a-zA-Z0-9])", ("<|end|>",), sampling, None)


def make_engine(pack: Pack, **options: object) -> Engine:
    """An engine with the pack's roles."""
    adapters = {name: role.adapter for name, role in pack.roles.items()}
    return Engine(pack.base.path, adapters, dtype="float32", kv_memory=2**24, **options)


def make_pack_folder(folder: Path, max_tokens: int = 10) -> Path:
    """The tiny pack as a folder with a manifest."""
    make_pack(folder, max_tokens=max_tokens)
    roles = "\n".join(
        f"[roles.{role}]\nadapter = '{role}'\nprompt = {json.dumps(text)}" for role, text in PROMPTS.items()
    )
    answer = "[answer]\npattern = '([a-zA-Z0-9])'\n"
    sampling = f"[sampling]\nmax_tokens = {max_tokens}\n"
    (folder / "pack.toml").write_text(
        f"name = 'tiny'\naccuracy = 'noise'\n[base]\npath = 'base'\n{answer}{roles}\n{sampling}"
    )
    return folder
