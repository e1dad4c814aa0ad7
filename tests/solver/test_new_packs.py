"""`start_pack` and `check_pack`: a pack from nothing, and everything that can be wrong with one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from lorid_engine.errors import PackError
from lorid_engine.solver import load_pack
from lorid_engine.solver.new_pack import start_pack
from lorid_engine.solver.pack_check import check_pack
from lorid_engine.solver.pack_files import write_pack
from tiny_models import save_adapter, save_llama
from tiny_pack import make_pack_folder

ROLES = ("ir", "kg", "dr")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack_folder(tmp_path_factory.mktemp("pack"))


@pytest.fixture
def pack(made: Path, tmp_path: Path) -> Path:
    """A pack that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "pack"))


def problems(folder: Path) -> dict[str, list[str]]:
    """What is wrong, by what it is wrong with."""
    found: dict[str, list[str]] = {}
    for finding in check_pack(folder, folder / "cache"):
        found.setdefault(finding.what, []).extend([finding.problem] if finding.problem else [])
    return {what: wrong for what, wrong in found.items() if wrong}


def change_weights(base: Path, name: str, tensor: torch.Tensor | None) -> None:
    """Replaces a tensor of the base, or takes it out."""
    tensors = load_file(base / "model.safetensors")
    del tensors[name]
    if tensor is not None:
        tensors[name] = tensor
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "pack.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_pack_in_order(pack: Path) -> None:
    findings = check_pack(pack, pack / "cache")
    assert [finding.problem for finding in findings] == [None] * len(findings)
    named = ["manifest", "base", *(f"{part} of {role}" for part in ("adapter", "prompt") for role in ROLES)]
    assert [finding.what for finding in findings] == named


def test_all_of_a_manifest_s_sections_are_told(pack: Path) -> None:
    edit(pack, "name = 'tiny'", "name = 5")
    edit(pack, "pattern = '([a-zA-Z0-9])'", "pattern = '('")
    edit(pack, "adapter = 'kg'", "adapter = 'nowhere'")
    edit(pack, "[base]\npath = 'base'", "[base]\nhub = 'no id'\nextra = 1")
    wrong = problems(pack)["manifest"]
    for place, message in zip(
        wrong, ("pack.name must be", "answer.pattern must", "roles.kg.adapter must", "base.hub must"), strict=True
    ):
        assert message in place and str(pack / "pack.toml") in place


def test_a_manifest_that_is_none(pack: Path) -> None:
    (pack / "pack.toml").write_text("= nothing")
    assert "cannot be read" in problems(pack)["manifest"][0]


def test_adapters_of_another_base_and_damaged_ones(pack: Path) -> None:
    other = save_llama(pack / "other", "one_kv_head")
    shutil.rmtree(pack / "ir")
    save_adapter(other, pack / "ir")
    (pack / "dr" / "adapter_model.safetensors").write_bytes(b"cut")
    wrong = problems(pack)
    assert "made for another base" in wrong["adapter of ir"][0] and str(pack / "ir") in wrong["adapter of ir"][0]
    assert "adapter of dr" in wrong and "adapter of kg" not in wrong


def test_tokens_that_the_base_has_not(pack: Path) -> None:
    edit(pack, "<|start|>Solve: ", "<|im_start|><s>Solve: ")
    wrong = problems(pack)["prompt of ir"]
    assert [
        token for token in ("<s>", "<|im_start|>") if any(f"has {token}, which is no special token" in w for w in wrong)
    ] == [
        "<s>",
        "<|im_start|>",
    ]
    assert "<|end|>" in wrong[0]  # what the base has


def test_prompts_and_answers_that_pass_the_context(pack: Path) -> None:
    edit(pack, "Rules: ", "Rules: " + "x" * 600)
    edit(pack, "max_tokens = 10", "max_tokens = 510")
    wrong = problems(pack)
    assert "tokens without a question; the base's context is 512" in wrong["prompt of kg"][0]
    assert "510 new tokens (max_tokens)" in wrong["prompt of ir"][0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda base: shutil.rmtree(base), "is no folder"),
        (lambda base: (base / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda base: (base / "tokenizer.json").unlink(), "tokenizer"),
        (lambda base: (base / "model.safetensors").write_bytes(b"cut"), "no complete safetensors file"),
        (lambda base: change_weights(base, "model.norm.weight", None), "has no tensor model.norm.weight"),
        (lambda base: change_weights(base, "model.norm.weight", torch.ones(3)), "must have shape [48]; got [3]"),
        (lambda base: change_weights(base, "model.norm.weight", torch.ones(48).long()), "got I64"),
    ],
)
def test_bases_that_cannot_be_used(pack: Path, spoil: object, message: str) -> None:
    spoil(pack / "base")  # type: ignore[operator]
    assert message in problems(pack)["base"][0]


def with_tokens(made: Path, folder: Path, *tokens: str) -> Path:
    """The tiny base with more special tokens."""
    base = Path(shutil.copytree(made / "base", folder))
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    tokenizer.chat_template = "{% for i in range(10**9) %}{% for j in range(10**9) %}{% endfor %}{% endfor %}"
    tokenizer.save_pretrained(base)
    return base


def test_a_new_pack_asks_in_turns_of_a_chat_that_the_base_knows(made: Path, tmp_path: Path) -> None:
    """And never runs the base's chat template, which is a program: this one would not end."""
    base = with_tokens(made, tmp_path / "base", "<|im_start|>", "<|im_end|>")
    assert "turns of ChatML" in start_pack(tmp_path / "new", str(base), {role: made / role for role in ROLES})
    pack = load_pack(tmp_path / "new")
    assert pack.roles["ir"].template.text.startswith("<|im_start|>user\nSolve") and pack.name == "new"
    assert pack.roles["dr"].template.text.endswith("{knowledge}<|im_end|>\n<|im_start|>assistant\n")
    assert pack.stop == ("<|im_end|>",)
    edit(tmp_path / "new", "max_tokens = 1024", "max_tokens = 40")
    assert problems(tmp_path / "new") == {}


def test_a_new_pack_on_a_base_without_chat(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "plain text" in start_pack(Path("."), str(made / "base"), {role: made / role for role in ROLES})
    pack = load_pack(tmp_path / "here")
    assert pack.roles["kg"].template.text.startswith("List the general rules") and pack.name == "here"


def test_stop_strings_that_the_base_has_not(pack: Path) -> None:
    edit(pack, "pattern = '([a-zA-Z0-9])'", "pattern = '([a-zA-Z0-9])'\nstop = ['<|im_end|>', '###']")
    assert "answer.stop has <|im_end|>, which is no special token" in problems(pack)["stop strings"][0]


@pytest.mark.parametrize("pattern", ["(a{99999999999999999999})", "(" * 5000 + ")" * 5000])
def test_patterns_that_no_system_can_take(pack: Path, pattern: str) -> None:
    edit(pack, "([a-zA-Z0-9])", pattern)
    assert problems(pack)["manifest"]


@pytest.mark.parametrize("path", ["~nosuchuser/x", "x" * 5000])
def test_paths_that_no_system_can_take(pack: Path, path: str) -> None:
    edit(pack, "path = 'base'", f"path = '{path}'")
    wrong = problems(pack)
    assert wrong.get("manifest") or wrong.get("base")


def test_places_and_adapters_that_cannot_be_used(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = {role: made / role for role in ROLES}
    with pytest.raises(PackError, match="exists already"):
        start_pack(made, str(made / "base"), adapters)
    with pytest.raises(PackError, match="is no folder"):
        start_pack(tmp_path / "new", str(tmp_path / "none"), adapters)
    with pytest.raises(PackError, match=r"the adapter of kg, .*base, has no adapter_config.json"):
        start_pack(tmp_path / "new", str(made / "base"), {**adapters, "kg": made / "base"})

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("lorid_engine.solver.pack_files.shutil.copyfile", full)
    with pytest.raises(PackError, match="No space left"):
        start_pack(tmp_path / "new", str(made / "base"), adapters)
    assert not any(path.name != "base" for path in tmp_path.iterdir())


def test_packs_that_would_not_be_valid_are_not_written(made: Path, tmp_path: Path) -> None:
    adapters = {role: made / role for role in ROLES}
    for prompt, message in (
        ("{question} {answer}", "placeholder {answer}"),
        ("\ud800 {question}", "could not be written"),
    ):
        roles = {role: {"adapter": role, "prompt": prompt} for role in ROLES}
        manifest = {"name": "x", "base": {"path": str(made / "base")}, "roles": roles}
        with pytest.raises(PackError, match=message):
            write_pack(tmp_path / "new", manifest, adapters)
    with pytest.raises(PackError, match="~nosuchuser/x cannot be found"):
        start_pack(tmp_path / "new", "~nosuchuser/x", adapters)
    assert not list(tmp_path.iterdir())


def test_text_survives_the_manifest(made: Path, tmp_path: Path) -> None:
    text = 'quote " backslash \\ tab \t line \n umlaut ü emoji 😀 delete \x7f {question} brace { }'
    roles = {role: {"adapter": role, "prompt": text + ("{knowledge}" if role == "dr" else "")} for role in ROLES}
    manifest = {"name": "x", "base": {"path": str(made / "base")}, "roles": roles}
    write_pack(tmp_path / "new", manifest, {role: made / role for role in ROLES})
    assert load_pack(tmp_path / "new").roles["ir"].template.text == text
