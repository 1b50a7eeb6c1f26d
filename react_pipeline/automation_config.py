"""Configuration of what happens by itself: `automation:` of `pipeline.yaml`.

Belongs here: its fields, their defaults and rules. Does not belong here: what is out of date (`upkeep`), asking
Dagster for runs (`assets.automation`).
"""

from __future__ import annotations

from react_pipeline.training_config import Section


class AutomationConfig(Section):
    """What is kept up to date with no one at the keyboard."""
