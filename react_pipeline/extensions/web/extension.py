"""What the web adds: shards on servers, and images at URLs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension
from react_pipeline.installation import install_command

if TYPE_CHECKING:
    from react_pipeline.corpus import Server


class Web(Extension):
    """Reading from servers."""

    def servers(self) -> Mapping[str, Server]:
        """Object stores and web servers."""
        from react_pipeline.extensions.web.remote import RemoteServer
        from react_pipeline.settings import REMOTE_SCHEMES

        return dict.fromkeys(REMOTE_SCHEMES, RemoteServer())

    def installs(self) -> Mapping[str, str]:
        """For tars in object storage."""
        return dict.fromkeys(("s3fs", "obstore"), install_command("s3"))
