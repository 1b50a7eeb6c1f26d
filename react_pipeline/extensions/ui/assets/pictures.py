"""Pictures of materializations at the addresses that their metadata name, read from the event log.

Does not belong here: which pictures there are, and their addresses (`react_pipeline.assets`).
"""

import base64
import io
import re
from functools import cache

import dagster as dg

from react_pipeline.assets import ADDRESS, EMBEDDED, PICTURES

PREVIEW_PIXELS = (420, 640)
"""Maximum width and height of a preview, so that the column of values does not cut it off where the
window is 1,600 wide; a click opens the full picture."""

_ADDRESSED = re.compile(rf"/{ADDRESS}/([0-9a-f-]{{36}})/(\w+)/(\w+)(/preview)?$")


def picture_at(path: str) -> bytes | None:
    """The JPEG that the path of a request names, empty if it does not exist; None for another."""
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
                pictures = dict(EMBEDDED.findall(str(event.metadata[PICTURES].value)))
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
