"""Configuration of alerts: the section `alerts` of `pipeline.yaml`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from react_pipeline.settings import Section

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _is_variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError(
            "write the name of an environment variable that holds the address; an address holds "
            "a secret, which does not belong into this file"
        )
    return name


class AlertsConfig(Section):
    """Who hears of runs that failed for good.

    Attributes:
        to: Environment variables, each with an address as Apprise writes them.
    """

    to: tuple[Annotated[str, AfterValidator(_is_variable)], ...] = ()
