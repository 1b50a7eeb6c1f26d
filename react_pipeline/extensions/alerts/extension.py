"""What alerts add: the section `alerts` and the sensor of that name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    from react_pipeline.settings import Section


class Alerts(Extension):
    """Messages to people."""

    def sections(self) -> Mapping[str, type[Section]]:
        """`alerts`."""
        from react_pipeline.extensions.alerts.messages import AlertsConfig

        return {"alerts": AlertsConfig}

    def declare_assets(self) -> None:
        """The sensor `alerts`."""
        import react_pipeline.extensions.alerts.assets  # noqa: F401
