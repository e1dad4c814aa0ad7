"""Models of a hub, against a small hub on this machine's loopback interface."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorid_engine.engine import Engine, Request, SamplingParams
from lorid_engine.engine.options import base_folder
from lorid_engine.errors import ConfigError
from lorid_engine.model.hub import is_hub_id
from tiny_pack import make_pack

COMMIT = "5" * 40
SCRIPT = """
import sys
from lorid_engine import Engine, LoridError, Request, SamplingParams
try:
    engine = Engine(sys.argv[1], dtype="float32", kv_memory=2**24, revision=sys.argv[2] if len(sys.argv) > 2 else None)
    print(list(engine.generate(Request([70, 71, 72], sampling=SamplingParams(temperature=0)))[0].outputs[0].token_ids))
except LoridError as error:
    print("refused:", error)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves one folder as org/tiny, as the public hub's API does."""

    folder: Path
    asked: list[str]

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        names = sorted(path.name for path in self.folder.iterdir())
        content, status, headers = b"{}", 200, {"Content-Type": "application/json", "X-Repo-Commit": COMMIT}
        if parts[:2] == ["api", "models"] and parts[2:4] != ["org", "tiny"]:
            status, headers["X-Error-Code"] = 404, "RepoNotFound"
        elif parts[:4] == ["api", "models", "org", "tiny"] and parts[4:6] in (["revision", "none"], ["tree", "none"]):
            status, headers["X-Error-Code"] = 404, "RevisionNotFound"
        elif parts[:4] == ["api", "models", "org", "tiny"] and "tree" in parts:
            content = json.dumps([self._entry(name) for name in names]).encode()
        elif parts[:4] == ["api", "models", "org", "tiny"]:
            siblings = [{"rfilename": name} for name in names]
            content = json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": siblings}).encode()
        elif parts[:3] == ["org", "tiny", "resolve"] and parts[-1] in names:
            content = (self.folder / parts[-1]).read_bytes()
            headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
            if body:
                self.asked.append(parts[-1])
        else:
            status, headers["X-Error-Code"] = 404, "EntryNotFound"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _entry(self, name: str) -> dict[str, object]:
        content = (self.folder / name).read_bytes()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_pack(tmp_path_factory.mktemp("pack")).folder / "base"
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    return folder


@pytest.fixture
def hub(base: Path) -> Iterator[tuple[str, list[str]]]:
    handler = type("TinyHub", (Hub,), {"folder": base, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def run(home: Path, endpoint: str, *arguments: str, **more: str) -> str:
    """A process of its own: huggingface_hub reads its settings when it is imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", **more}
    command = [sys.executable, "-c", SCRIPT, *arguments]
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
