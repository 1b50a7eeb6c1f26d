"""Shots: the few labelled pictures of each class that a domain may give to train on.

Does not belong here: how labelled images are listed and read (`labelled`), training on them
(extensions). None may show an image of the evaluation set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from react_pipeline.labelled import publish_labelled_set
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.retrieval.decontamination import kept_out
from react_pipeline.retrieval.seeds import encode_apart
from react_pipeline.stage import EVALUATION_SET, FEW_SHOT_SET, encoder_in
from react_pipeline.store import Artifact, InputError, Inputs


def publish_few_shot_set(project: Project, slug: str) -> Artifact:
    """Publish the `shots` of a domain, as `publish_labelled_set` publishes its evaluation set.

    Raises:
        InputError: If the domain has none; or naming each that shows an evaluation image, by its
            bytes or nearly; or as `publish_labelled_set` says.
    """
    domain = project.domain(slug)
    if domain.shots is None:
        raise InputError(f"{slug}.yaml: `shots` is missing; name a few labelled pictures a class")
    inputs = resolve(project, FEW_SHOT_SET, slug)

    def inputs_of(content: Mapping[str, Any]) -> Inputs:
        if reason := content.get("unavailable"):
            raise InputError(f"{slug}.yaml, shots: {reason}")
        return replace(inputs, content=content)

    def require_apart(images: pd.DataFrame) -> None:
        from react_pipeline.clip import choose_device, loaded_base

        encoder = inputs.parents[encoder_in(inputs.parents)]
        clip = loaded_base(encoder.path, choose_device(project.config.device))
        scope = project.retrieval(slug).decontaminate
        evaluation = kept_out(project, slug, inputs.parents[EVALUATION_SET], scope, clip)
        encode_apart(project, images, evaluation, clip, f"{slug}.yaml, shots")

    return publish_labelled_set(project, domain.with_shots, inputs_of, require_apart)
