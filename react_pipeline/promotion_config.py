"""Configuration of promotion: `promotion:` of `pipeline.yaml`.

Belongs here: its fields, their defaults and rules. Does not belong here: the verdict (`promotion`).
"""

from __future__ import annotations

from react_pipeline.training_config import Section


class PromotionConfig(Section):
    """Which model of a domain is offered as its champion, and when it becomes that."""
