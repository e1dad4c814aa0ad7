"""Checking a pack: manifest, base, adapters and prompts, and everything that is wrong with them at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lorid_engine.engine.tokenizer import Tokenizer
from lorid_engine.errors import AdapterError, CheckpointError, LoridError, PackError
from lorid_engine.model.adapters import load_adapter
from lorid_engine.model.cache import Report
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.hub import hub_folder
from lorid_engine.model.llama import llama_problems
from lorid_engine.model.weights import Checkpoint
from lorid_engine.solver.base_source import HubSource, resolve_base
from lorid_engine.solver.manifest import examine_manifest
from lorid_engine.solver.pack import ROLES, Pack

# What looks like a special token: such a text in a prompt is one, or the prompt is not what the model was trained with.
_SPECIAL = re.compile(r"<[|｜][^<>|｜\s]{1,60}[|｜]>|</?s>|<(?:bos|eos|pad|unk)>")  # noqa: RUF001


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what is wrong with it (None = nothing)."""

    what: str
    problem: str | None


def check_pack(folder: Path, cache_dir: Path, report: Report | None = None) -> list[Finding]:
    """Looks at all of a pack; a base that is not there yet is fetched (of a hub's model only what is looked at).

    Args:
        folder: with a pack.toml.
        cache_dir: where fetched bases are kept.
        report: told of fetching and converting.
    """
    pack, problems = examine_manifest(folder)
    if pack is None:
        return [Finding("manifest", str(problem)) for problem in problems]
    findings = [Finding("manifest", None)]
    try:
        base = _base_folder(pack, cache_dir, report)
        config, tokenizer = ModelConfig.from_folder(base), Tokenizer.from_folder(base)
        hub = isinstance(pack.base, HubSource)  # of which the weights were not fetched
        problems_of_base: list[str | None] = [] if hub else [*llama_problems(Checkpoint(base), config)]
    except (CheckpointError, PackError) as error:
        return [*findings, Finding("base", str(error))]
    findings += [Finding("base", problem) for problem in problems_of_base or [None]]
    for role in ROLES:
        findings.append(Finding(f"adapter of {role}", _adapter_problem(pack, role, config)))
    unknown = _unknown_tokens("".join(pack.stop), tokenizer)
    where = f"{pack.folder / 'pack.toml'}: answer.stop"
    findings += [Finding("stop strings", f"{where} has {token}") for token in unknown]
    for role in ROLES:
        wrong: list[str | None] = [*_prompt_problems(pack, role, config, tokenizer)]
        findings += [Finding(f"prompt of {role}", problem) for problem in wrong or [None]]
    return findings


def _base_folder(pack: Pack, cache_dir: Path, report: Report | None) -> Path:
    if isinstance(pack.base, HubSource):
        return hub_folder(pack.base.hub_id, pack.base.revision, weights=False)
    return resolve_base(pack.base, cache_dir, report)


def _adapter_problem(pack: Pack, role: str, config: ModelConfig) -> str | None:
    try:
        load_adapter(role, pack.roles[role].adapter, config)
    except AdapterError as error:
        return f"{pack.roles[role].adapter}: {error}"
    return None


def _unknown_tokens(text: str, tokenizer: Tokenizer) -> list[str]:
    """What looks like special tokens in a text and is none of the base, with what the base has."""
    known = ", ".join(sorted(tokenizer.special_ids)[:8]) or "none"
    return [
        f"{token}, which is no special token of the base, so that it is read as characters; it has {known}"
        for token in sorted(set(_SPECIAL.findall(text)) - tokenizer.special_ids.keys())
    ]


def _prompt_problems(pack: Pack, role: str, config: ModelConfig, tokenizer: Tokenizer) -> Iterator[str]:
    template = pack.roles[role].template
    where = f"{pack.folder / 'pack.toml'}: roles.{role}.prompt"
    for token in _unknown_tokens(template.text, tokenizer):
        yield f"{where} has {token}"
    values = {name: "" for name in template.placeholders}
    try:
        tokens = len(template.encode(tokenizer, **values))
    except LoridError as error:
        yield f"{where}: {error}"
        return
    room = config.max_positions - tokens
    most = int(pack.sampling_for(role)["max_tokens"])
    if room < 2:
        yield f"{where} has {tokens} tokens without a question; the base's context is {config.max_positions}"
    elif most > room:
        yield f"{where}: {most} new tokens (max_tokens) and the prompt's own {tokens} pass the context of {config.max_positions}"
