"""Configuration of promotion: `promotion:` of `pipeline.yaml`.

Belongs here: its fields, their defaults and rules. Does not belong here: the verdict (`promotion`).
"""

from pydantic import Field, field_validator

from react_pipeline.settings.methods import trained_methods
from react_pipeline.settings.training import Fraction, Section


class PromotionConfig(Section):
    """Which model of a domain is offered as its champion, and when it becomes that."""

    enabled: bool = True
    methods: tuple[str, ...] | None = Field(default=None, min_length=1)
    min_gain: Fraction = 0.0
    confidence: float = Field(default=0.95, ge=0.5, le=0.99)
    over_control: bool = True
    max_drop: Fraction | None = None

    @field_validator("methods")
    @classmethod
    def _methods_can_be_champion(cls, methods: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for method in methods or ():
            if method not in trained_methods():
                choices = ", ".join(trained_methods())
                raise ValueError(f"{method!r} cannot become champion; choose from {choices}")
        return methods

    @property
    def candidates(self) -> tuple[str, ...]:
        """The methods that may become champion, in the order of `METHODS`."""
        return tuple(
            name for name in trained_methods() if self.methods is None or name in self.methods
        )
