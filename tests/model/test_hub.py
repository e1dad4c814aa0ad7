"""Models of a hub, against a small hub on this machine's loopback interface."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopback_hub import serve
from lorid_engine.engine import Engine, Request, SamplingParams
from lorid_engine.engine.options import base_folder
from lorid_engine.errors import ConfigError
from lorid_engine.model.hub import is_hub_id
from tiny_pack import make_pack

SCRIPT = """
import sys
from lorid_engine import Engine, LoridError, Request, SamplingParams
try:
    engine = Engine(sys.argv[1], dtype="float32", kv_memory=2**24, revision=sys.argv[2] if len(sys.argv) > 2 else None)
    print(list(engine.generate(Request([70, 71, 72], sampling=SamplingParams(temperature=0)))[0].outputs[0].token_ids))
except LoridError as error:
    print("refused:", error)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_pack(tmp_path_factory.mktemp("pack")).folder / "base"
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    return folder


@pytest.fixture
def hub(base: Path) -> Iterator[tuple[str, list[str]]]:
    with serve({"models/org/tiny": base}) as running:
        yield running.endpoint, running.asked


def run(home: Path, endpoint: str, *arguments: str, script: str = SCRIPT, **more: str) -> str:
    """A process of its own: huggingface_hub reads its settings when it is imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", **more}
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_model_is_fetched_once_and_then_needs_no_hub(tmp_path: Path, base: Path, hub: tuple[str, list[str]]) -> None:
    endpoint, asked = hub
    engine = Engine(base, dtype="float32", kv_memory=2**24)
    local = engine.generate(Request([70, 71, 72], sampling=SamplingParams(temperature=0)))[0].outputs[0]
    assert run(tmp_path, endpoint, "org/tiny", "main") == str(list(local.token_ids))
    assert "model.safetensors" in asked and not {"modeling_evil.py", "pytorch_model.bin"} & set(asked)
    assert run(tmp_path, "http://127.0.0.1:9", "org/tiny", "main", HF_HUB_OFFLINE="1") == str(list(local.token_ids))
    assert "has no revision none" in run(tmp_path, endpoint, "org/tiny", "none")


def test_what_the_hub_does_not_give(tmp_path: Path, hub: tuple[str, list[str]]) -> None:
    assert "there is no folder org/other, and the hub has no such model" in run(tmp_path, hub[0], "org/other")
    unreachable = run(tmp_path, "http://127.0.0.1:9", "org/tiny")
    assert "the hub cannot be reached" in unreachable
    offline = run(tmp_path, hub[0], "org/tiny", HF_HUB_OFFLINE="1")
    assert offline.startswith("refused: org/tiny is not in the cache, and the hub cannot be reached")


def test_paths_are_no_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("org/name") and is_hub_id("meta-llama/Llama-3.1-8B")
    for path in ("name", "/org/name", "./org/name", "../name", "a/b/c", "org/", "~/x", "org/na me"):
        assert not is_hub_id(path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert not is_hub_id("org/name")
    with pytest.raises(ConfigError, match="revision is for models of a hub"):
        base_folder("org/name", "main")


PARTS = """
from lorid_engine.errors import CheckpointError
from lorid_engine.model.hub import hub_adapter, hub_folder
print(sorted(path.name for path in hub_folder("org/tiny", weights=False).iterdir()))
print(sorted(path.name for path in hub_adapter("org/lora").iterdir()))
"""


def test_parts_of_a_model_and_adapters(tmp_path: Path, base: Path) -> None:
    adapter = tmp_path / "lora"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "training_args.bin"):
        (adapter / name).write_text(name)
    with serve({"models/org/tiny": base, "models/org/lora": adapter}) as hub:
        about, lora = run(tmp_path / "home", hub.endpoint, script=PARTS).splitlines()
    assert "config.json" in about and "tokenizer.json" in about and "safetensors" not in about
    assert lora == "['adapter_config.json', 'adapter_model.safetensors']"
