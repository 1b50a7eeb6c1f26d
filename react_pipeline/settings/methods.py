"""Method: one way to customize a model, and the table of those there are.

Settings, lineage, Dagster and `plan` ask a method for its facts; only its training loads torch.
Each method has a control: the same training on random pairs, which the table adds. A project adds
its variants and further seeds in a table of its own (`project_methods`). Does not belong here: any
method (`training.methods`, or an extension), how a training runs (`training`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import cache
from typing import TYPE_CHECKING, Any

from react_pipeline.extension import Extension, LazyTable, answers
from react_pipeline.settings.section import did_you_mean

if TYPE_CHECKING:
    from react_pipeline.settings import TrainingConfig
    from react_pipeline.settings.training import VariantConfig
    from react_pipeline.training import Customization

CONTROL_SUFFIX = "-control"
"""What the name of a control adds to that of its method."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SEED = re.compile(rf"-seed\d+(?=({CONTROL_SUFFIX})?$)")


class Method:
    """One way to customize a model: a subclass, such as of `training.ModelMethod`.

    Attributes:
        name: As in `methods` of pipeline.yaml.
        summary: What it trains, in words, for the model card.
        defaults: Fields of `TrainingConfig` in which it differs from the defaults there.
        unused_fields: Fields of `TrainingConfig` that it ignores: changing them rebuilds nothing.
        identity: Facts of its own that decide a checkpoint, such as a rank, or a version to raise.
        has_model: Whether a checkpoint holds a whole model. Else it holds class vectors for images
            as the base encodes them.
        by_class: Whether its training depends on the names of the classes.
        spreads: Whether several processes can share a training.
        step0_tolerance: How much the model may differ from the base before the first step.
        parents: Further stages that it is trained on.
        is_default: Whether `init` writes it, and its control, into `methods`; not inherited.
        is_control: Whether its pairs are random.
        draw: Folder of its pairs in the control set; only the control of a further seed has one.
        overrides: Fields of `TrainingConfig` that a variant or a seed sets, over all others.
    """

    name: str
    summary: str = ""
    defaults: Mapping[str, Any] = {}
    unused_fields: frozenset[str] = frozenset()
    identity: Mapping[str, Any] = {}
    has_model: bool = True
    by_class: bool = False
    spreads: bool = False
    step0_tolerance: float = 0.0
    parents: tuple[str, ...] = ()
    is_default: bool = False
    is_control: bool = False
    draw: str = ""
    overrides: Mapping[str, Any] = {}

    @property
    def pairs(self) -> str:
        """The stage whose pairs it is trained on."""
        return "control_set" if self.is_control else "retrieved_set"

    def images(self, training: TrainingConfig, pairs: int) -> int:
        """Return about how many images all steps of a training on so many pairs see."""
        if training.epochs is None:
            return training.steps * training.batch_size
        return round(training.epochs * pairs)

    def train(self, customization: Customization) -> dict[str, Any]:
        """Train, write the checkpoint, and return the counts of its manifest."""
        raise NotImplementedError


class Base(Method):
    """The reference: nothing is trained."""

    name = "base"
    summary = "nothing"


@cache
def _methods() -> dict[str, Method]:
    methods: dict[str, Method] = {Base.name: Base()}

    def added(extension: Extension) -> None:
        for method in extension.methods():
            _add(method, methods)

    answers(added)
    return methods


def _add(method: Method, methods: dict[str, Method]) -> None:
    if not isinstance(method, Method):
        raise TypeError(f"{method!r} is no instance of Method")
    require_free(method.name, methods)
    control = copy(method)
    control.is_control = True
    methods[method.name] = method
    methods[method.name + CONTROL_SUFFIX] = control


def require_free(name: str, methods: Mapping[str, Method]) -> None:
    """Refuse a name that a method has, or that reads like a control or a further seed."""
    if not _NAME.fullmatch(name) or name.endswith(CONTROL_SUFFIX) or first_seed(name) != name:
        raise ValueError(
            f"{name!r} cannot name a method: use a-z, 0-9 and '-', beginning with a letter, and no "
            "`-control` or `-seed<number>` at the end"
        )
    if name in methods:
        raise ValueError(f"there is a method {name!r} already")


METHODS = LazyTable(lambda: _methods())
"""Every method that is measured, by name: `base`, then each method with its control."""


def add_method(method: Method) -> None:
    """Add a method and its control to this process alone, as a notebook or a benchmark does."""
    _add(method, _methods())


def trained_methods(methods: Mapping[str, Method] = METHODS) -> tuple[str, ...]:
    """Return the names of methods that train something, without controls; REACT's own is first."""
    return tuple(
        name
        for name, method in methods.items()
        if not isinstance(method, Base) and not method.is_control
    )


def require_known(name: str, methods: Iterable[str]) -> str:
    """Return the name of a method, unless it is none of `methods`."""
    if name not in (known := tuple(methods)):
        meant = did_you_mean(name, known, f"choose from {', '.join(known)}")
        raise ValueError(f"{name!r} is not a method that fits here; {meant}")
    return name


def project_methods(
    variants: Mapping[str, VariantConfig], seeds: Sequence[int]
) -> Mapping[str, Method]:
    """`METHODS` with the variants of a project, each with its control, and their further seeds.

    A variant is its method with `overrides`; of several seeds, the first is the method itself, and
    each other is a copy called `<method>-seed<number>`. The attribute `name` stays that of the
    installed method.
    """
    methods = dict(METHODS)
    for name, variant in variants.items():
        own = variant.model_dump(exclude_unset=True, exclude={"method"})
        for suffix in ("", CONTROL_SUFFIX):
            methods[name + suffix] = _copy(METHODS[variant.method + suffix], own)
    if not seeds:
        return methods
    seeded: dict[str, Method] = {}
    for name, method in methods.items():
        if isinstance(method, Base):
            seeded[name] = method
            continue
        seeded[name] = _copy(method, {"seed": seeds[0]})
        for seed in seeds[1:]:
            repeated = _copy(method, {"seed": seed})
            repeated.draw = draw_folder(seed) if method.is_control else ""
            seeded[_with_seed(name, seed)] = repeated
    return seeded


def _copy(method: Method, overrides: Mapping[str, Any]) -> Method:
    same = copy(method)
    same.overrides = {**method.overrides, **overrides}
    return same


def _with_seed(name: str, seed: int) -> str:
    method = name.removesuffix(CONTROL_SUFFIX)
    return f"{method}-{draw_folder(seed)}{name.removeprefix(method)}"


def draw_folder(seed: int) -> str:
    """Return the folder of the random pairs of a further seed in the control set."""
    return f"seed{seed}"


def first_seed(name: str) -> str:
    """Return the method of which this is a further seed, or the name itself; a control's is a
    control.
    """
    return _SEED.sub("", name)
