"""A Hub on this machine: repositories of data sets over the HTTP API that `huggingface_hub` speaks, uploads included."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repository:
    """Commits by their hash, oldest first; `main` is the last."""

    commits: dict[str, Files] = field(default_factory=dict)

    def commit(self, files: Files) -> str:
        content = repr(sorted((name, hashlib.sha1(body).hexdigest()) for name, body in files.items()))
        sha = hashlib.sha1(f"{len(self.commits)} {content}".encode()).hexdigest()
        self.commits[sha] = files
        return sha

    def at(self, revision: str) -> tuple[str, Files] | None:
        if revision == "main":
            return next(reversed(self.commits.items()))
        return (revision, self.commits[revision]) if revision in self.commits else None


@dataclass
class Hub:
    """What the server has: repositories by name, and uploaded objects by their SHA-256."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve() -> Iterator[Hub]:
    """A Hub on a free port. Clients find it by the environment's HF_ENDPOINT."""
    hub = Hub()

    class Handler(_Handler):
        of = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    of: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing: the test says what was asked."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.of.asked.append(f"{self.command} {path}")
        for pattern, method in _ROUTES.items():
            if found := re.fullmatch(pattern, path):
                method(self, body, *found.groups())
                return
        self._send(404, {"error": f"no such path: {path}"})

    def _send(self, status: int, content: Any = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _at(self, name: str, revision: str) -> tuple[str, Files] | None:
        if name not in self.of.repositories:
            self._send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        if (found := self.of.repositories[name].at(revision)) is None:
            self._send(404, {"error": "Revision not found"}, X_Error_Code="RevisionNotFound")
        return found

    def info(self, _: bytes, name: str, revision: str | None) -> None:
        if (found := self._at(name, revision or "main")) is not None:
            siblings = [{"rfilename": path, "size": len(content)} for path, content in found[1].items()]
            self._send(200, {"id": name, "sha": found[0], "private": False, "tags": [], "downloads": 0, "likes": 0,
                             "siblings": siblings})  # fmt: skip

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        self.of.repositories.setdefault(name, Repository()).commit({".gitattributes": b""})
        self._send(200, {"url": f"{self.of.address}/datasets/{name}", "id": name})

    def tree(self, body: bytes, name: str, revision: str, folder: str | None) -> None:
        if (found := self._at(name, revision)) is None:
            return
        start, listed = f"{folder.strip('/')}/" if folder and folder.strip("/") else "", dict[str, Any]()
        deep = "recursive=True" in self.path or "recursive=true" in self.path
        for path, content in found[1].items():
            if path.startswith(start):
                first, inner, _ = path.removeprefix(start).partition("/")
                if inner:
                    listed[start + first] = {"type": "directory", "path": start + first, "oid": "0" * 40, "size": 0}
                if not inner or deep:
                    listed[path] = _entry(path, content)
        if not listed and start:
            self._send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return
        self._send(200, list(listed.values()))

    def paths(self, body: bytes, name: str, revision: str) -> None:
        asked = json.loads(body)["paths"] if body[:1] == b"{" else re.findall(r"paths=([^&]+)", unquote(body.decode()))
        if (found := self._at(name, revision)) is None:
            return
        files = found[1]
        folders = {path for path in asked if any(one.startswith(f"{path}/") for one in files)}
        self._send(200, [
            {"type": "directory", "path": path, "oid": "0" * 40, "size": 0} if path in folders else _entry(path, files[path])
            for path in asked if path in files or path in folders
        ])  # fmt: skip

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
        if (found := self._at(name, revision)) is None:
            return
        if path not in found[1]:
            self._send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=found[0])
            return
        body, status = found[1][path], 200
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X_Repo_Commit": found[0], "Accept_Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(asked[1]), int(asked[2] or len(body) - 1)
            headers["Content_Range"] = f"bytes {first}-{min(last, len(body) - 1)}/{len(body)}"
            body, status = body[first : last + 1], 206
        self._send(status, body, **headers)

    def yaml(self, _: bytes) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        files = [
            {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(".parquet") else "regular",
             "shouldIgnore": False}
            for one in json.loads(body)["files"]
        ]  # fmt: skip
        self._send(200, {"files": files})

    def batch(self, body: bytes, name: str) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.of.address}/objects/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def put(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.of.objects[oid] = body
        self._send(200, {})

    def commit(self, body: bytes, name: str, revision: str) -> None:
        found = self._at(name, revision)
        if found is None:
            return
        files = dict(found[1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.of.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.of.repositories[name].commit(files)
        self._send(200, {"commitUrl": f"{self.of.address}/datasets/{name}/commit/{sha}", "commitOid": sha})


def _entry(path: str, body: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
    if path.endswith(".parquet"):
        entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
    return entry


_NAME, _REVISION = r"([^/]+/[^/]+)", r"([^/]+)"
_ROUTES: dict[str, Callable[..., None]] = {
    rf"/api/datasets/{_NAME}(?:/revision/{_REVISION})?": _Handler.info,
    r"/api/repos/create": _Handler.create,
    rf"/api/datasets/{_NAME}/tree/{_REVISION}(/.*)?": _Handler.tree,
    rf"/api/datasets/{_NAME}/paths-info/{_REVISION}": _Handler.paths,
    rf"/datasets/{_NAME}/resolve/{_REVISION}/(.+)": _Handler.resolve,
    r"/api/validate-yaml": _Handler.yaml,
    rf"/api/datasets/{_NAME}/preupload/{_REVISION}": _Handler.preupload,
    rf"/datasets/{_NAME}\.git/info/lfs/objects/batch": _Handler.batch,
    r"/objects/([0-9a-f]{64})": _Handler.put,
    rf"/api/datasets/{_NAME}/commit/{_REVISION}": _Handler.commit,
}
