"""Configuration of training: the fields of one training, and how defaults and overrides are joined.

Does not belong here: the methods (`method`), what a training does (`training`), the rest of the
configuration (`config`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from react_pipeline.settings.methods import (
    CONTROL_SUFFIX,
    METHODS,
    require_known,
    trained_methods,
)
from react_pipeline.settings.section import Fraction, Section, Workers, count_workers

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class TrainingConfig(Section):
    """Fields of a training, of which those that are given win over others, such as a method's own;
    the values here are the last defaults.
    """

    last_k_layers: PositiveInt = 6
    rank: PositiveInt | None = None
    learning_rate: PositiveFloat = 5e-4
    weight_decay: NonNegativeFloat = 0.1
    adam_eps: PositiveFloat = 1e-6
    warmup_steps: NonNegativeInt | Annotated[float, Field(gt=0, lt=1)] = 50
    steps: PositiveInt = 1_000
    epochs: PositiveFloat | None = None
    batch_size: int = Field(default=256, gt=1)
    seed: NonNegativeInt = 0
    loss: Literal["infonce", "infonce-captions", "unicl", "sigmoid"] = "infonce"
    augmentation: Literal["none", "timm"] = "timm"
    held_out_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    interpolation: Fraction | Literal["held-out"] = 1.0
    precision: Precision = "auto"
    accumulation: PositiveInt = 1
    keep_prefix: bool = True
    activation_checkpointing: bool = False
    compile: bool | Literal["auto"] = "auto"
    workers: Workers = "auto"
    processes: PositiveInt = 1
    checkpoint_every: PositiveInt = 100

    @model_validator(mode="after")
    def _length_is_given_once(self) -> Self:
        if self.epochs is not None and "steps" in self.model_fields_set:
            raise ValueError("`steps` and `epochs` both give the length; remove one")
        return self

    @property
    def worker_count(self) -> int:
        """The decoding processes of each process."""
        return count_workers(self.workers, self.processes)

    def in_steps(self, pairs: int, batch_size: int) -> Self:
        """Return the same with `epochs`, and a share as warm-up, made steps; an epoch is all whole
        batches of `pairs`.
        """
        steps = self.steps
        if self.epochs is not None:
            steps = max(1, round(self.epochs * (pairs // batch_size)))
        warmup = self.warmup_steps
        if not isinstance(warmup, int):
            warmup = round(warmup * steps)
        return self.model_copy(update={"steps": steps, "epochs": None, "warmup_steps": warmup})


SPEED_FIELDS = frozenset(
    {
        "accumulation",
        "keep_prefix",
        "activation_checkpointing",
        "compile",
        "workers",
        "processes",
        "checkpoint_every",
    }
)
"""Fields that change how fast or in how much memory a checkpoint is made, and not which: no part of
its fingerprint.
"""


def _joined(*sources: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of all sources, of which the last wins; the length of the training is one
    field in two units.
    """
    fields: dict[str, Any] = {}
    for overrides in sources:
        if overrides.get("steps") or overrides.get("epochs"):
            fields.pop("steps", None)
            fields.pop("epochs", None)
        fields |= overrides
    return fields


TrainedMethod = Annotated[str, AfterValidator(lambda name: require_known(name, trained_methods()))]


class VariantConfig(TrainingConfig):
    """A method under another name, with fields of its own over those of `customization`."""

    method: TrainedMethod


class CustomizationConfig(Section):
    """Training fields for every method (`defaults`) and for single ones (`methods`)."""

    defaults: TrainingConfig = TrainingConfig()
    methods: Mapping[TrainedMethod, TrainingConfig] = {}

    def resolve(
        self, method: str, overrides: Section | None = None, last: Mapping[str, Any] | None = None
    ) -> TrainingConfig:
        """Return the training of one method; a control trains as its method does.

        Later sources win: a domain's over those here, and `last`, a variant's, over all.
        `model_fields_set` has what these set, and not the defaults of the method.
        """
        name = method.removesuffix(CONTROL_SUFFIX)
        sources = (self.defaults, self.methods.get(name), overrides)
        fields = _joined(*(source.overrides for source in sources if source), last or {})
        training = TrainingConfig(**_joined(METHODS[name].defaults, fields))
        return TrainingConfig.model_construct({*fields}, **dict(training))
