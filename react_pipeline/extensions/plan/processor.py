"""The processor seconds of one core for the work of a project's encoder, measured by running it for
some seconds.

Belongs here: which model is run, and what follows for other machines. Does not belong here: what is
run (`encoding_cost`, `step_cost`), how much of it there is (`plan`).
"""

from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from react_pipeline.clip import (
    Clip,
    build,
    choose_precision,
)
from react_pipeline.extensions.plan.encoder_cost import (
    IMAGE_OPERATIONS,
    TEXT_OPERATIONS,
    EncoderCost,
    architecture_named,
    architecture_of,
)
from react_pipeline.extensions.plan.encoding_cost import EncodingCost
from react_pipeline.extensions.plan.step_cost import StepCost
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Project
from react_pipeline.settings import EncoderConfig, TrainingConfig
from react_pipeline.stage import ALL
from react_pipeline.store import ReactError
from react_pipeline.training import ModelMethod

LARGEST = 50
"""Encoders with more operations than so many ViT-B/32 are not run; they count in proportion to it.
"""
GPU_PAIRS_PER_SECOND = 1_500.0
"""With a ViT-B/32 on an RTX 3080, by the README of clip-retrieval; not run here."""


class Processor:
    """What an encoder of a project costs on a core of this machine, or on a GPU.

    Attributes:
        encoder: Counted, not measured.
    """

    def __init__(self, project: Project, config: EncoderConfig, stage: str) -> None:
        """Count the encoder; nothing is run before it is asked for."""
        self._precision = choose_precision("auto", "cpu")
        base: Path | None = None
        with suppress(ReactError):  # it may be damaged
            published = fresh_or_none(project, stage, ALL)
            base = None if published is None else published.path
        self._architecture = architecture_of(config, base)
        model_cfg, _, folder = self._architecture
        self.encoder = EncoderCost.of(model_cfg, folder)
        self._operations = (self.encoder.image + self.encoder.text) / (
            IMAGE_OPERATIONS + TEXT_OPERATIONS
        )
        self._steps: dict[tuple[str, int], StepCost] = {}

    @cached_property
    def _run(self) -> tuple[Clip, float]:
        """The model that is run, with random weights, and what its seconds are multiplied by."""
        if self._operations < LARGEST:
            with suppress(ReactError):
                return _in_eval_mode(build(*self._architecture)), 1.0
        return _in_eval_mode(build(architecture_named("ViT-B-32"), {})), self._operations

    @cached_property
    def encoding(self) -> EncodingCost:
        """Of a core."""
        clip, scale = self._run
        measured = EncodingCost.measured(clip, self._precision)
        return replace(measured, image=measured.image * scale, text=measured.text * scale)

    def step(self, method: ModelMethod, training: TrainingConfig) -> StepCost:
        """Of a core, for a step of a method."""
        key = (method.name, training.last_k_layers)
        (clip, scale) = self._run
        if key not in self._steps:
            measured = StepCost.measured(clip, method, training, self._precision)
            seconds = {
                name: scale * getattr(measured, name) for name in ("frozen", "image", "text")
            }
            self._steps[key] = replace(measured, **seconds)
        return self._steps[key]

    @property
    def gpu_share(self) -> float:
        """Seconds of a GPU for a core's second: as when pairs are encoded."""
        pair = self.encoding.image + self.encoding.text
        return self._operations / GPU_PAIRS_PER_SECOND / pair


def _in_eval_mode(clip: Clip) -> Clip:
    clip.model.eval()
    return clip
