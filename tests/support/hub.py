"""A stand-in of the Hub on loopback: the part of its HTTP API that a push uses, kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.web import send

TOKEN = "hf_standin"  # noqa: S105


@dataclass
class HubServer:
    """Repositories by kind and name, each a dictionary of its files; `refuse` may answer in place
    of the server: (method, path) to a status, 0 to hang up, or None.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    refuse: Callable[[str, str], int | None] = lambda _method, _path: None

    def __post_init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub, method, path = self.hub, self.command, self.path.split("?")[0]
        hub.requests.append(f"{method} {path}")
        status = hub.refuse(method, path)
        if status == 0:
            self.connection.close()
            return
        body = self._body()
        if status is not None:
            self._answer({"error": "refused"}, status)
        elif method == "PUT":
            hub.objects[path.rsplit("/", 1)[1]] = body
            self._answer({})
        elif self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid credentials in Authorization header"}, 401)
        else:
            self._api(path, body)

    do_POST = do_PUT = do_GET  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _api(self, path: str, body: bytes) -> None:
        hub = self.hub
        if path == "/api/whoami-v2":
            return self._answer({"name": "me", "type": "user", "auth": {}})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            hub.created.append(asked)
            kind, name = asked.get("type") or "model", f"{asked['organization']}/{asked['name']}"
            key = f"{kind}s/{name}"
            if key in hub.repositories:
                return self._answer({"error": "exists", "url": f"{hub.url}/{name}"}, 409)
            hub.repositories[key] = {".gitattributes": b""}
            return self._answer({"url": f"{hub.url}/{name}"})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._answer(
                {"objects": [self._upload(one) for one in json.loads(body)["objects"]]}
            )
        _, _, kind, owner, name, *rest = path.split("/")
        key = f"{kind}/{owner}/{name}"
        if key not in hub.repositories:
            self._answer({"error": "absent"}, 404, X_Error_Code="RepoNotFound")
        elif rest[:1] == ["preupload"]:
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for one in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif rest[:1] == ["commit"]:
            self._commit(key, [json.loads(line) for line in body.splitlines()])
        else:
            files = [
                {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
                for path, content in hub.repositories[key].items()
            ]
            siblings = [{"rfilename": one["path"]} for one in files]
            whole = {"id": f"{owner}/{name}", "sha": "0" * 40, "siblings": siblings}
            self._answer(files if rest[:1] == ["tree"] else whole)

    def _upload(self, one: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.hub.url}/upload/{one['oid']}?X-Amz-Signature=secret"
        return {**one, "actions": {"upload": {"href": href, "header": {}}}}

    def _commit(self, key: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.hub.repositories[key])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.hub.objects[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                files[value["path"]] = content
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.repositories[key] = files
        url = f"{self.hub.url}/{key.partition('/')[2]}/commit/{'1' * 40}"
        self._answer({"success": True, "commitOid": "1" * 40, "commitUrl": url})

    def _answer(self, value: Any, status: int = 200, **headers: str) -> None:
        send(self, json.dumps(value).encode(), status, Content_Type="application/json", **headers)
