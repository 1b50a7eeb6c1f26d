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
"""Tensors `head` (D, C), the class vectors to use, and `bias` (C,), if they have one; `trained` and
`trained_bias` are these before they met the zero-shot head.
"""

HEAD_RECORD_FILE = "head.json"
"""`classes` in the order of the columns, `templates`, `embed_dim`, and how the head came about."""


def load_classifier(
    checkpoint: Artifact, base: Artifact | None, domain: DomainConfig, device: str
) -> tuple[Clip, ClassHead]:
    """Load a checkpoint of any method as a classifier: an image is of the class with the highest
    score.

    A checkpoint that holds a model gives its own zero-shot head. A head belongs to the images as
    the base encodes them.

    Args:
        base: The `base_checkpoint`; only a head needs it.

    Returns:
        The model, and the head, in the order of the domain's classes.

    Raises:
        InputError: If a head was trained for other classes, or on another base.
    """
    from react_pipeline.clip.class_head import ClassHead
    from react_pipeline.clip.model import load, loaded_base

    if HEAD_FILE not in checkpoint.manifest["files"]:
        load_model = loaded_base if checkpoint.stage == "base_checkpoint" else load
        clip = load_model(checkpoint.path, device)
        return clip, ClassHead(domain_head(clip, domain))
    assert base is not None  # noqa: S101 - a parent of every head
    trained_on = checkpoint.parents["base_checkpoint"]
    if trained_on != base.fingerprint:
        raise InputError(
            f"{checkpoint.path / HEAD_FILE}: trained on the features of base {trained_on}, which "
            f"is now {base.fingerprint}; {_rematerialize(checkpoint)}"
        )
    clip = loaded_base(base.path, device)
    return clip, _read_head(checkpoint, domain)


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
    """Encode prompts to unit vectors (N, D) as `Clip.encode_texts` does, shared by the steps of a
    process (`recent_results`).
    """
    from react_pipeline.clip.recent_results import recent

    if not len(prompts):
        return clip.encode_texts(prompts)
    inputs = clip.tokenize(prompts).numpy().tobytes()
    return recent(clip, "text", inputs, lambda: clip.encode_texts(prompts))


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


def _read_head(checkpoint: Artifact, domain: DomainConfig) -> ClassHead:
    from react_pipeline.clip.class_head import ClassHead

    classes = json.loads(checkpoint.file(HEAD_RECORD_FILE).read_text(encoding="utf-8"))["classes"]
    if classes != domain.class_names:
        changed = sorted({*classes} ^ {*domain.class_names}) or ["their order"]
        more = ", ..." if len(changed) > 5 else ""
        raise InputError(
            f"{checkpoint.path / HEAD_RECORD_FILE}: `classes` are not those of domain "
            f"{domain.slug!r} (they differ in {', '.join(changed[:5])}{more}); "
            f"{_rematerialize(checkpoint)}"
        )
    return ClassHead.read(checkpoint.file(HEAD_FILE))


def _rematerialize(checkpoint: Artifact) -> str:
    return f"rematerialize `{checkpoint.stage}` for {checkpoint.key!r}"
