"""Configuration of training: the methods, the fields of one training, and how defaults and overrides are joined.

Does not belong here: what a training does (`customize`), the rest of the configuration (`config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

TRAINED_METHODS = ("gated-image", "locked-text", "full")
"""What can be trained; `gated-image` is REACT's headline."""

CONTROL_SUFFIX = "-control"
METHODS = ("base", *(method for name in TRAINED_METHODS for method in (name, name + CONTROL_SUFFIX)))
"""Every method that is evaluated: no training, each training, and each one's control on random pairs."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Section(BaseModel):
    """Base of every part of the configuration: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class TrainingConfig(Section):
    """One training, after the defaults of the method and the domain's overrides are joined.

    Attributes:
        last_k_layers: How many vision layers get a gated block in front.
        learning_rate: Peak of the schedule: linear warm-up, then cosine to 0.
        weight_decay: AdamW's, on matrices only.
        warmup_steps: Steps of the linear warm-up.
        steps: Optimizer steps.
        batch_size: Pairs per step; capped at the number of pairs.
        seed: Of the initialisation and of the order of the data.
        loss: `infonce` (the paper), or `infonce-captions`, in which pairs of equal caption are positives of each other.
        views: 0: the image as it is; n: n fixed augmented views of each image are prepared and drawn from.
        class_prompt_fraction: Chance that a caption is replaced by a prompt of the pair's class; 0 is the paper's way.
        gate_scale: Scales tanh(gate) of the finished model: 1 is the trained model, 0 the base (WiSE-FT for gates).
        checkpoint_every: Steps between resumable states.
        precision: Arithmetic of the forward and backward passes.
    """

    last_k_layers: int = Field(default=6, gt=0)
    learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    warmup_steps: int = Field(default=50, ge=0)
    steps: int = Field(default=1_000, gt=0)
    batch_size: int = Field(default=256, gt=1)
    seed: int = Field(default=0, ge=0)
    loss: Literal["infonce", "infonce-captions"] = "infonce"
    views: int = Field(default=0, ge=0)
    class_prompt_fraction: Fraction = 0.0
    gate_scale: float = Field(default=1.0, ge=0, le=2)
    checkpoint_every: int = Field(default=100, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"


def partial(model: type[Section], name: str) -> type[Section]:
    """Make a model of the same fields and rules, each one optional, so that an override is checked where it stands."""
    fields: dict[str, Any] = {}
    for field, info in model.model_fields.items():
        optional = copy(info)
        optional.default = None
        fields[field] = (info.annotation, optional)
    return create_model(name, __base__=Section, **fields)


if TYPE_CHECKING:
    TrainingOverrides = TrainingConfig
else:
    TrainingOverrides = partial(TrainingConfig, "TrainingOverrides")

_METHOD_DEFAULTS: dict[str, dict[str, Any]] = {"locked-text": {"learning_rate": 5e-5}, "full": {"learning_rate": 1e-5}}


def _given(overrides: Section | None) -> dict[str, Any]:
    return {} if overrides is None else overrides.model_dump(exclude_unset=True)


class CustomizationConfig(Section):
    """Training fields for every method (`defaults`) and for single ones (`methods`)."""

    defaults: TrainingOverrides = TrainingOverrides()
    methods: Mapping[Literal["gated-image", "locked-text", "full"], TrainingOverrides] = {}

    def resolve(self, method: str, overrides: Section | None = None) -> TrainingConfig:
        """Join the training of one method; a control trains as its method does. Later sources win, a domain's last."""
        name = method.removesuffix(CONTROL_SUFFIX)
        by_name = {str(known): fields for known, fields in self.methods.items()}
        method_fields = {**_METHOD_DEFAULTS.get(name, {}), **_given(self.defaults), **_given(by_name.get(name))}
        return TrainingConfig(**{**method_fields, **_given(overrides)})
