"""Pictures: those in the metadata of a materialization, and the addresses at which its page shows
them.

Belongs here: both ends of these addresses. Does not belong here: which pictures there are
(`metadata`).

Dagster shows Markdown of 1,000 characters or more only after a click, and an embedded picture is
longer. So the last entry of the metadata holds all pictures, and short entries at the front show
each by its address, which `webserver` answers from the event log: it need not read the store.
Dagster's own webserver shows the last entry alone.
"""

import base64
import io
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import dagster as dg

PICTURES = "pictures"
"""The entry that holds all pictures of a materialization."""

PREVIEW_PIXELS = (480, 640)
"""Maximum width and height of a preview in the column of values; a click opens the full picture."""

_ADDRESS = "react/pictures"
_ADDRESSED = re.compile(rf"/{_ADDRESS}/([0-9a-f-]{{36}})/(\w+)/(\w+)(/preview)?$")
_EMBEDDED = re.compile(r"!\[(\w+)\]\(data:image/jpeg;base64,([A-Za-z0-9+/=]+)\)")


def with_addresses(shown: Mapping[str, Any], run_id: str, asset: str) -> dict[str, Any]:
    """Metadata in which each entry that is an embedded picture shows it by its address; `PICTURES`
    holds them all.
    """
    texts = {
        name: value.value or ""
        for name, value in shown.items()
        if isinstance(value, dg.MarkdownMetadataValue)
    }
    embedded = {name: text for name, text in texts.items() if _EMBEDDED.fullmatch(text)}
    if not embedded:
        return dict(shown)
    # Relative, so that it holds below any path under which a proxy shows Dagster.
    addresses = {name: f"{_ADDRESS}/{run_id}/{asset}/{name}" for name in embedded}
    short = {
        name: dg.MetadataValue.md(f"[![{name}]({url}/preview)]({url})")
        for name, url in addresses.items()
    }
    return {**shown, **short, PICTURES: dg.MetadataValue.md("\n\n".join(embedded.values()))}


def picture_at(path: str) -> bytes | None:
    """The JPEG that the path of a request names, empty if there is none; None for any other path."""
    match = _ADDRESSED.search(path)
    if match is None:
        return None
    run_id, asset, name, preview = match.groups()
    picture = _read(run_id, asset, name)
    return _preview(picture) if picture and preview else picture


def _read(run_id: str, asset: str, name: str) -> bytes:
    instance = served_instance()
    if instance.has_run(run_id):  # SQLite makes a file for any run that it is asked for
        for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
            event = entry.asset_materialization
            if (
                event is not None
                and "__".join(event.asset_key.path) == asset
                and PICTURES in event.metadata
            ):
                pictures = dict(_EMBEDDED.findall(str(event.metadata[PICTURES].value)))
                return base64.b64decode(pictures.get(name, ""))
    return b""


def _preview(picture: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as opened:
        opened.thumbnail(PREVIEW_PIXELS)
        opened.save(buffer := io.BytesIO(), "JPEG", quality=88)
    return buffer.getvalue()


@cache
def served_instance() -> dg.DagsterInstance:
    """The instance of the webserver."""
    return dg.DagsterInstance.get()
