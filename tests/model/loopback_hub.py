"""A hub on this machine's loopback interface: folders as the public hub's API gives them, models and data sets."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

COMMIT = "5" * 40


@dataclass
class LoopbackHub:
    """A running hub.

    Attributes:
        endpoint: its address, for HF_ENDPOINT.
        asked: paths of the files whose contents it has sent.
    """

    endpoint: str
    asked: list[str] = field(default_factory=list)


class _Handler(http.server.BaseHTTPRequestHandler):
    folders: Mapping[str, Path]  # "models/org/name" or "datasets/org/name" to a folder
    hub: LoopbackHub

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        paths = json.loads(sent)["paths"] if sent.startswith("{") else urllib.parse.parse_qs(sent).get("paths", [])
        self._answer(body=True, paths=paths)

    def _answer(self, *, body: bool, paths: list[str] | None = None) -> None:
        parts = urllib.parse.unquote(self.path.split("?")[0]).strip("/").split("/")
        api = parts[0] == "api"
        if api:
            parts = parts[1:]
        elif parts[0] != "datasets":
            parts = ["models", *parts]
        folder, rest = self.folders.get("/".join(parts[:3])), parts[3:]
        if folder is None:
            self._send(404, b"", body, {"X-Error-Code": "RepoNotFound"})
        elif rest[:2] and rest[0] in ("revision", "tree", "resolve", "paths-info") and rest[1] not in ("main", COMMIT):
            self._send(404, b"", body, {"X-Error-Code": "RevisionNotFound"})
        elif api and rest[:1] == ["tree"]:
            found = [
                path for path in sorted(folder.rglob("*")) if not rest[2:] or path.is_relative_to(folder / rest[2])
            ]
            self._send(200, json.dumps([_entry(folder, path) for path in found]).encode(), body)
        elif api and rest[:1] == ["paths-info"]:
            found = [folder / path for path in paths or [] if (folder / path).exists()]
            self._send(200, json.dumps([_entry(folder, path) for path in found]).encode(), body)
        elif api:
            names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
            about = {"id": "/".join(parts[1:3]), "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self._send(200, json.dumps(about).encode(), body)
        elif rest[:1] == ["resolve"] and (folder / "/".join(rest[2:])).is_file():
            content = (folder / "/".join(rest[2:])).read_bytes()
            if body:
                self.hub.asked.append("/".join(rest[2:]))
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
            if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
                headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
                self._send(206, content[start : end + 1], body, headers)
            else:
                self._send(200, content, body, headers)
        else:
            self._send(404, b"", body, {"X-Error-Code": "EntryNotFound"})

    def _send(self, status: int, content: bytes, body: bool, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        always = {"Content-Type": "application/json", "X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}
        for name, value in {**always, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _entry(folder: Path, path: Path) -> dict[str, object]:
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
    content = path.read_bytes()
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@contextlib.contextmanager
def serve(folders: Mapping[str, Path]) -> Iterator[LoopbackHub]:
    """Runs a hub of these folders, by "models/org/name" or "datasets/org/name"."""
    handler = type("Handler", (_Handler,), {"folders": folders})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub = handler.hub = LoopbackHub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
