"""A stand-in of the Hub on loopback: the part of its HTTP API that a push uses, kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, request

from support.web import serve_app

TOKEN = "hf_standin"  # noqa: S105


@dataclass
class HubServer:
    """Repositories by kind and name, each a dictionary of its files; `refuse` may answer in place
    of the server: (method, path) to a status, 0 to hang up, or None.
    """

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    refuse: Callable[[str, str], int | None] = lambda _method, _path: None


@contextmanager
def serve_hub() -> Iterator[HubServer]:
    """Serve until the block ends."""
    hub, app = HubServer(), Flask(__name__)

    @app.before_request
    def check() -> Any:
        status = hub.refuse(request.method, request.path)
        if status == 0:
            request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        if status is not None:
            return {"error": "refused"}, status or 500
        if request.method != "PUT" and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return {"error": "Invalid credentials in Authorization header"}, 401
        return None

    @app.errorhandler(KeyError)
    def absent(_: KeyError) -> Any:
        return {"error": "absent"}, 404, {"X-Error-Code": "RepoNotFound"}

    @app.post("/api/validate-yaml")
    def validate() -> Any:
        return {"errors": [], "warnings": []}

    @app.post("/api/repos/create")
    def create() -> Any:
        hub.created.append(asked := request.get_json(force=True))
        name = f"{asked['organization']}/{asked['name']}"
        key, address = f"{asked.get('type') or 'model'}s/{name}", {"url": f"{hub.url}/{name}"}
        if key in hub.repositories:
            return {**address, "error": "exists"}, 409
        hub.repositories[key] = {".gitattributes": b""}
        return address

    @app.post("/api/<path:key>/preupload/<_revision>")
    def preupload(key: str, _revision: str) -> Any:
        return {
            "files": [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for one in request.get_json(force=True)["files"]
            ]
        }

    @app.post("/<path:_key>.git/info/lfs/objects/batch")
    def batch(_key: str) -> Any:
        objects = request.get_json(force=True)["objects"]
        for one in objects:
            href = f"{hub.url}/upload/{one['oid']}?X-Amz-Signature=secret"
            one["actions"] = {"upload": {"href": href, "header": {}}}
        return {"objects": objects}

    @app.put("/upload/<oid>")
    def upload(oid: str) -> Any:
        hub.objects[oid] = request.get_data()
        return {}

    @app.post("/api/<path:key>/commit/<_revision>")
    def commit(key: str, _revision: str) -> Any:
        files = dict(hub.repositories[key])
        for line in map(json.loads, request.get_data().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = content = hub.objects[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        hub.repositories[key] = files
        url = f"{hub.url}/{key.partition('/')[2]}/commit/{'1' * 40}"
        return {"success": True, "commitOid": "1" * 40, "commitUrl": url}

    @app.get("/api/<path:key>/tree/<path:_at>")
    def tree(key: str, _at: str) -> Any:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
            for path, content in hub.repositories[key].items()
        ]

    with serve_app(app) as hub.url:
        yield hub
