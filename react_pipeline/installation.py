"""The installation: the command that adds an extra to it.

The name of this package is on no index, so a command that names it would install whatever somebody
puts there. What pip keeps of the origin (PEP 610) names the wheel or the clone instead. The
standard library alone.
"""

from __future__ import annotations

import json
from importlib import metadata
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "react-pipeline"


def install_command(extra: str) -> str:
    """The command that installs this package again with an extra; an editable clone stays one."""
    try:
        recorded = json.loads(
            metadata.distribution(DISTRIBUTION).read_text("direct_url.json") or "{}"
        )
    except (metadata.PackageNotFoundError, ValueError, RecursionError):
        recorded = {}
    address = urlsplit(recorded.get("url", ""))
    place = unquote(address.path) if address.scheme == "file" else "PATH/OF/THE/WHEEL/OR/CLONE"
    editable = "-e " if recorded.get("dir_info", {}).get("editable") else ""
    return f"pip install {editable}'{place}[{extra}]'"
