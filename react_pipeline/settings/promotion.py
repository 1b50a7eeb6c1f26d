"""Configuration of promotion: `promotion:` of `pipeline.yaml`.

Belongs here: its fields, their defaults and rules. Does not belong here: the verdict (`promotion`).
"""

from pydantic import Field

from react_pipeline.settings.section import Fraction, Section


class PromotionConfig(Section):
    """Which model of a domain is offered as its champion, and when it becomes that."""

    enabled: bool = True
    methods: tuple[str, ...] | None = Field(default=None, min_length=1)
    min_gain: Fraction = 0.0
    confidence: float = Field(default=0.95, ge=0.5, le=0.99)
    over_control: bool = True
    max_drop: Fraction | None = None
