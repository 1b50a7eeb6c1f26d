"""Pictures of a materialization, and the addresses at which its page shows them.

Does not belong here: which pictures there are (`metadata`), answering these addresses (an
extension).

Dagster shows Markdown of 1,000 characters or more only after a click, and an embedded picture is
longer. So the last entry of the metadata holds all pictures, and short entries at the front show
each by its address, which a webserver answers from the event log: it need not read the store.
Dagster's own webserver shows the last entry alone.
"""

import re
from collections.abc import Mapping
from typing import Any

import dagster as dg

PICTURES = "pictures"
"""The entry that holds all pictures of a materialization."""

ADDRESS = "react/pictures"
EMBEDDED = re.compile(r"!\[(\w+)\]\(data:image/jpeg;base64,([A-Za-z0-9+/=]+)\)")


def with_addresses(shown: Mapping[str, Any], run_id: str, asset: str) -> dict[str, Any]:
    """Metadata in which each entry that is an embedded picture shows it by its address; `PICTURES`
    holds them all.
    """
    texts = {
        name: value.value or ""
        for name, value in shown.items()
        if isinstance(value, dg.MarkdownMetadataValue)
    }
    embedded = {name: text for name, text in texts.items() if EMBEDDED.fullmatch(text)}
    if not embedded:
        return dict(shown)
    # Relative, so that it holds below any path under which a proxy shows Dagster.
    addresses = {name: f"{ADDRESS}/{run_id}/{asset}/{name}" for name in embedded}
    short = {
        name: dg.MetadataValue.md(f"[![{name}]({url}/preview)]({url})")
        for name, url in addresses.items()
    }
    return {**shown, **short, PICTURES: dg.MetadataValue.md("\n\n".join(embedded.values()))}
