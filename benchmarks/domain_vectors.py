"""A domain in memory: its pairs, random pairs and labelled images as vectors, so that a head is
measured in a second.

Heads are those that `customize` publishes (`test_benchmarks_domain_vectors` compares both), but no
pair is written. Shapes: N pairs, P labelled images, C classes, D
embedding dimension.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor

from react_pipeline.clip import (
    EVALUATION_PRECISION,
    ClassHead,
    choose_device,
    domain_head,
    loaded_base,
)
from react_pipeline.embedding import StoredVectors
from react_pipeline.extensions.methods import HeadMethod, HeadSamples
from react_pipeline.extensions.methods.head import class_accuracy, without_near_copies
from react_pipeline.extensions.methods.head_samples import nearest_class
from react_pipeline.extensions.plan.signs import Signs, read_signs
from react_pipeline.labelled import (
    encode_images,
    preprocessing_for,
    publish_evaluation_set,
    read_images,
)
from react_pipeline.lineage import fresh, run
from react_pipeline.project import Project
from react_pipeline.retrieval.control import draw_pairs, seeded_random
from react_pipeline.retrieval.decontamination import KeptOut, read_kept_out
from react_pipeline.retrieval.images import Images, load_encoder
from react_pipeline.settings import METHODS, TrainingConfig
from react_pipeline.training import choose_fraction, split_held_out


@dataclass(frozen=True)
class DomainVectors:
    """What heads of a domain are fitted to and measured on.

    Attributes:
        signs: With the retrieved pairs.
        images: Of the labelled set (P, D).
        class_ids: Of these (P,).
        prompt_seconds: Of the processor, for the zero-shot head and all prompts.
    """

    project: Project
    slug: str
    signs: Signs
    images: Tensor
    class_ids: Tensor
    prompt_seconds: float

    @classmethod
    def of(cls, project: Project, slug: str) -> DomainVectors:
        """Publish the labelled set if it is not there, and encode it."""
        domain = project.domain(slug)
        images = read_images(publish_evaluation_set(project, slug), domain)
        device = choose_device(project.config.device)
        clip = loaded_base(fresh(project, "base_checkpoint").path, device)
        preprocess = preprocessing_for(clip, domain)
        vectors = encode_images(project.config, clip, images, preprocess, EVALUATION_PRECISION)
        class_ids = torch.tensor(images["class_id"].to_numpy())
        before = processor_seconds()
        domain_head(clip, domain)
        # Twice: all prompts are encoded too, which are about as many.
        seconds = 2 * (processor_seconds() - before)
        for stage in ("retrieved_set", "control_set"):
            run(project, stage, slug)
        signs = read_signs(project, slug)
        return cls(project, slug, signs, torch.from_numpy(vectors), class_ids, seconds)

    @property
    def base(self) -> float:
        """Top-1 of the zero-shot head."""
        return self.top1(ClassHead(self.signs.samples.zero_shot))

    def top1(self, head: ClassHead) -> float:
        """On the labelled images, as a fraction."""
        right = head.scores(self.images).argmax(dim=1) == self.class_ids
        return float(right.double().mean())

    def fit(self, name: str, seed: int = 0) -> tuple[ClassHead, float]:
        """A head, of a control on random pairs of a seed, and the processor seconds it took."""
        method = METHODS[name]
        near = self.project.retrieval(self.slug).near_duplicate_similarity
        assert isinstance(method, HeadMethod)  # noqa: S101 - the caller asks for heads
        training = self.project.training(self.slug, name).model_copy(update={"seed": seed})
        samples = self.signs.samples
        groups = samples.class_ids.numpy()
        if method.is_control:
            samples = self._drawn.get(seed) or self._random_samples(seed)
            groups = np.zeros(len(samples.images), np.int64)
        before = processor_seconds()
        head = fitted(training, method, samples, groups, near)
        return head, self.prompt_seconds + processor_seconds() - before

    @cached_property
    def _drawn(self) -> dict[int, HeadSamples]:
        """Random pairs by seed."""
        return {}

    @cached_property
    def _kept_out(self) -> KeptOut:
        """What is kept out."""
        project = self.project
        clip = loaded_base(
            fresh(project, "base_checkpoint").path, choose_device(project.config.device)
        )
        scope = project.retrieval(self.slug).decontaminate
        labelled = fresh(project, "evaluation_set", self.slug)
        return read_kept_out(project, self.slug, labelled, scope, clip)

    def _random_samples(self, seed: int) -> HeadSamples:
        """As many random pairs, drawn and labelled as those of a control."""
        project, samples = self.project, self.signs.samples
        parents = {stage: fresh(project, stage) for stage in ("corpus", "corpus_embeddings")}
        looked = Images(project, parents, load_encoder(project, fresh(project, "base_checkpoint")))
        settings, random = project.retrieval(self.slug), seeded_random(seed, self.slug)
        pairs, _ = draw_pairs(looked, self._kept_out, settings, random, len(samples.images))
        rows = np.sort(pairs["row"].to_numpy())
        images, captions = (
            functional.normalize(torch.from_numpy(vectors), dim=1)
            for vectors in (
                looked.vectors(rows),
                StoredVectors(looked.embeddings, "text").take(rows),
            )
        )
        class_ids = nearest_class(captions, samples.prompts, samples.prompt_ids)
        self._drawn[seed] = HeadSamples(
            samples.zero_shot, images, captions, class_ids, samples.prompts, samples.prompt_ids
        )
        return self._drawn[seed]


def fitted(
    training: TrainingConfig,
    method: HeadMethod,
    samples: HeadSamples,
    groups: NDArray[np.int64],
    near: float,
) -> ClassHead:
    """The head that `customize` would publish.

    Args:
        groups: Classes of the pairs as their set names them (N,), which held-out pairs are drawn
            by. near: The cosine from which on two images are near copies.
    """
    ids = samples.class_ids
    held = split_held_out(_Pairs(groups), training.held_out_fraction, training.seed)  # type: ignore[arg-type]  # it asks for no more
    trained_on, held_out = held
    held_out = without_near_copies(samples.images, trained_on, held_out, near)
    part = samples.at(trained_on)
    training = training.in_steps(len(part.images), training.batch_size)
    trained, _ = method.fit(part, training, _Silent())  # type: ignore[arg-type]  # likewise
    zero_shot = ClassHead(samples.zero_shot)
    setting = training.interpolation if len(held_out) else method.without_held_out

    def score(fraction: float) -> float:
        head = method.join(zero_shot, trained, fraction)
        return class_accuracy(head.scores(samples.images[held_out]), ids[held_out])

    tie = max if len(part.class_ids.unique()) == samples.zero_shot.shape[1] else min
    fraction, _ = choose_fraction(setting, score, method.grid, tie)
    return method.join(zero_shot, trained, fraction)


@dataclass(frozen=True)
class _Pairs:
    class_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.class_ids)


class _Silent:
    """A training log that keeps nothing."""

    def add(self, *_: Any, **__: Any) -> None:
        """A record of one step."""


def processor_seconds() -> float:
    """Of this process and those that it waited for."""
    return sum(os.times()[:4])
