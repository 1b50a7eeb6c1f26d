"""Each module that makes requests applies the HTTP policy (`extensions.sources`), or asks
servers of ours.
"""

from __future__ import annotations

from support.rooms import LIBRARY, imported_names, modules_of_library

CLIENTS = {"aiohttp", "http.client", "httpx", "requests", "urllib.request", "urllib3"}
POLICY = "of the policy"
OURS = "a server that we started, or that the settings name, under a deadline and a size"
USERS = {
    "extensions/plan/diagnosis.py": OURS,
    "extensions/ui/servers.py": OURS,
    "extensions/sources/image_client.py": POLICY,
}
"""Modules that import a client, and why."""


def test_no_other_module_makes_requests() -> None:
    users = set()
    for path in modules_of_library():
        names = imported_names(path)
        if CLIENTS & {*names, *(name.partition(".")[0] for name in names)}:
            users.add(str(path.relative_to(LIBRARY)))
    assert users == set(USERS)
