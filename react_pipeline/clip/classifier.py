"""Classifiers: a checkpoint and a domain made into an image encoder and a head.

Belongs here: the zero-shot head, and which head a checkpoint has. Does not belong here: training
one, its form on disk (`class_head`). Shapes: N texts, C classes, D embedding dimension.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from react_pipeline.clip.prompts import fill, prompt_templates
from react_pipeline.settings import DomainConfig
from react_pipeline.store import Artifact, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from react_pipeline.clip.class_head import ClassHead
    from react_pipeline.clip.model import Clip

LOGIT_SCALE = 100.0
"""Fixed, not the learned scale, as in CLIP's and REACT's evaluation. It moves no rank, only
probabilities.
"""

HEAD_FILE = "head.safetensors"
"""Tensors `head` (D, C), the class vectors, and `bias` (C,), if they have one."""

HEAD_RECORD_FILE = "head.json"
"""`classes` in the order of the columns, `templates`, and of a fitted head its `temperature`."""


def load_classifier(
    checkpoint: Artifact, base: Artifact | None, domain: DomainConfig, device: str
) -> tuple[Clip, ClassHead]:
    """Load a checkpoint of any method as a classifier: an image is of the class with the highest
    score.

    A checkpoint that holds a model gives its own zero-shot head. A head belongs to the images as
    the base encodes them.

    Args:
        base: The `base_checkpoint` that it was trained on; only a head needs it.

    Returns:
        The model, and the head, in the order of the domain's classes.

    Raises:
        InputError: If a head was trained for other classes.
    """
    from react_pipeline.clip.class_head import ClassHead
    from react_pipeline.clip.model import load, loaded_base

    if HEAD_FILE not in checkpoint.manifest["files"]:
        load_model = loaded_base if checkpoint.stage == "base_checkpoint" else load
        clip = load_model(checkpoint.path, device)
        return clip, ClassHead(domain_head(clip, domain))
    assert base is not None  # noqa: S101 - a parent of every head
    record = json.loads(checkpoint.file(HEAD_RECORD_FILE).read_text(encoding="utf-8"))
    if record["classes"] != domain.class_names:
        raise InputError(
            f"{checkpoint.path / HEAD_RECORD_FILE}: `classes` are not those of domain "
            f"{domain.slug!r}; rematerialize `{checkpoint.stage}` for {checkpoint.key!r}"
        )
    return loaded_base(base.path, device), ClassHead.read(checkpoint.file(HEAD_FILE))


def zero_shot_head(clip: Clip, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return class vectors (D, C) of C names: the unit vectors of all templates, their mean, made
    unit again.

    The same as open_clip's `build_zero_shot_classifier` and REACT's evaluation (Radford et al.
    2021, section 3.1.4).
    """
    texts = [fill(template, name) for name in class_names for template in templates]
    vectors = prompt_vectors(clip, texts).reshape(len(class_names), len(templates), -1).mean(dim=1)
    return (vectors / vectors.norm(dim=1, keepdim=True)).T


def prompt_vectors(clip: Clip, prompts: Sequence[str]) -> Tensor:
    """Encode prompts to unit vectors (N, D); a process encodes equal prompts once."""
    if not len(prompts):
        return clip.encode_texts(prompts)
    inputs = clip.tokenize(prompts).numpy().tobytes()
    return clip.once("text", inputs, lambda: clip.encode_texts(prompts))


def domain_head(clip: Clip, domain: DomainConfig) -> Tensor:
    """Return class vectors (D, C) of a domain; a class's own prompts count like its filled
    templates.
    """
    templates = prompt_templates(domain)
    head = zero_shot_head(clip, domain.prompt_names, templates)
    for class_id, entry in enumerate(domain.classes):
        if entry.label in domain.prompts:
            texts = [fill(template, entry.name) for template in templates]
            mean = prompt_vectors(clip, [*texts, *domain.prompts[entry.label]]).mean(dim=0)
            head[:, class_id] = mean / mean.norm()
    return head
