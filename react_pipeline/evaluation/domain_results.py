"""Evaluation: how well a checkpoint classifies a domain's labelled images from class names alone.

Does not belong here: comparing results (`comparison`). Shapes: N images, C classes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from react_pipeline.clip import LOGIT_SCALE, load_classifier
from react_pipeline.evaluation.calibration import calibrate, confidence
from react_pipeline.evaluation.metrics import METRICS, Metric, Scores
from react_pipeline.extension import blame
from react_pipeline.labelled import encode_images, read_images
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig
from react_pipeline.stage import (
    BASE_CHECKPOINT,
    CUSTOMIZED_CHECKPOINT,
    DOMAIN_RESULTS,
    EVALUATION_SET,
    FEW_SHOT_SET,
    method_key,
)
from react_pipeline.store import Artifact, CorruptArtifact, InputError, Scratch

if TYPE_CHECKING:
    from react_pipeline.clip import ClassHead

EVALUATOR_VERSION = "4"
"""Changed by hand when the same checkpoint and images would get other numbers. Unequal versions are
not compared.
"""

TOP = 5


class EvalResult(BaseModel):
    """One method on one labelled set. Values are fractions; a set that is unavailable has a reason
    and no values.

    Attributes:
        protocol: `few-shot` if the checkpoint learned from labelled images too.
        n_classes: C, among which each image is classified.
        top1: Fraction of the images whose class is ranked first.
        top5: Fraction whose class is among the first min(5, C).
        mean_per_class: Mean of the classes' own fractions, over the classes that have images.
        temperature: With which the softmax of the logits is calibrated, fitted on all of these
            images.
        calibration_error: Of such a temperature on images that it was not fitted on, see
            `held_out_error`.
        uncalibrated_error: The same error of CLIP's own softmax.

    Further metrics of `METRICS` are attributes too; a result from before a metric lacks it.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, float]

    dataset: str
    domain: str
    method: str
    protocol: Literal["zero-shot", "few-shot"] = "zero-shot"
    evaluator_version: str
    checkpoint_fingerprint: str
    evaluation_set_fingerprint: str
    n_classes: int
    n: int = 0
    top1: float | None = None
    top5: float | None = None
    mean_per_class: float | None = None
    temperature: float | None = None
    calibration_error: float | None = None
    uncalibrated_error: float | None = None
    unavailable: str | None = None

    @classmethod
    def read(cls, artifact: Artifact, folder: str = "") -> Self:
        """Read the result of a published `domain_results`, or of another stage in a `folder` of it.

        Raises:
            CorruptArtifact: If `result.json` is of another form.
        """
        text = artifact.file(f"{folder}result.json").read_text(encoding="utf-8")
        try:
            fields = json.loads(text)
            fields.pop("per_class", None)  # has a file of its own since version 4
            return cls.model_validate(fields)
        except (ValueError, AttributeError) as error:  # a ValidationError too
            raise CorruptArtifact(
                f"{artifact.path / folder / 'result.json'}: not a result of this version; "
                f"rematerialize `{artifact.stage}`"
            ) from error


def evaluate(project: Project, slug: str, method: str) -> Artifact:
    """Publish the result of a method on the domain's evaluation set.

    It is zero-shot, since no labelled image is learned from, unless the checkpoint has the parent
    `few_shot_set`: heads too are fitted to retrieved pairs alone. In fp32 on any device, so that
    results of two machines, and those of the benchmark, may be compared.

    Files: `result.json` (`EvalResult`) and, where the set is available, `per_class.parquet` and
    `predictions.parquet` (image, class_id, predicted: class ids of the first min(5, C), probability
    of the first).

    Raises:
        InputError: If an evaluation image is gone or has changed.
        CorruptArtifact: If the checkpoint gives features that are not finite.
    """
    inputs = resolve(project, DOMAIN_RESULTS, method_key(slug, method))
    checkpoint = inputs.parents[BASE_CHECKPOINT if method == "base" else CUSTOMIZED_CHECKPOINT]
    domain = project.domain(slug)

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        return write_evaluation(project, domain, method, checkpoint, inputs.parents, directory)

    return project.store.build(inputs, write)


def write_evaluation(
    project: Project,
    domain: DomainConfig,
    method: str,
    checkpoint: Artifact,
    parents: Mapping[str, Artifact],
    directory: Path,
) -> dict[str, Any]:
    """Measure a checkpoint on the `evaluation_set` among `parents`, and write the files of
    `evaluate`; returns counts.

    Args:
        domain: Whose classes and templates these are.
        checkpoint: It need not be the current one of its method.
        parents: With `base_checkpoint` too where a head needs its encoder.

    Raises:
        InputError: If an evaluation image, or what the classes are, has changed.
        CorruptArtifact: If the checkpoint gives features that are not finite.
    """
    started = time.monotonic()
    evaluation_set = parents[EVALUATION_SET]
    blank = EvalResult(
        dataset=domain.evaluation.name if domain.evaluation else "none",
        domain=domain.slug,
        method=method,
        protocol="few-shot" if FEW_SHOT_SET in checkpoint.parents else "zero-shot",
        evaluator_version=EVALUATOR_VERSION,
        checkpoint_fingerprint=checkpoint.fingerprint,
        evaluation_set_fingerprint=evaluation_set.fingerprint,
        n_classes=len(domain.classes),
        unavailable=evaluation_set.counts.get("unavailable"),
    )
    if blank.unavailable:
        write_result(directory, blank)
        return {"unavailable": blank.unavailable}
    from react_pipeline.clip import EVALUATION_PRECISION, choose_device, device_counts  # torch

    images = read_images(evaluation_set, domain)
    device = choose_device(project.config.device)
    clip, head = load_classifier(checkpoint, parents.get(BASE_CHECKPOINT), domain, device)
    squash = bool(domain.evaluation and domain.evaluation.squash)
    vectors = encode_images(project.config, clip, images, EVALUATION_PRECISION, squash=squash)
    logits = _logits(head, vectors, checkpoint)
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    scores = Scores(ranked, images["class_id"].to_numpy(), domain.class_names, logits)
    calibration = calibrate(logits, scores.class_ids)
    result = blank.model_copy(update=score(scores) | calibration)
    write_result(directory, result)
    write_classes(directory, scores)
    predictions = images[["name", "class_id"]].rename(columns={"name": "image"})
    predictions = predictions.assign(predicted=ranked.tolist(), probability=confidence(logits, 1.0))
    predictions.to_parquet(directory / "predictions.parquet", index=False)
    return {
        **result.model_dump(include={*METRICS, "n", "n_classes"}),
        **calibration,
        "seconds": round(time.monotonic() - started, 2),
        **device_counts(device),
        "precision": EVALUATION_PRECISION,
    }


def _logits(
    head: ClassHead, vectors: NDArray[np.float32], checkpoint: Artifact
) -> NDArray[np.float32]:
    """Return the logits (N, C) of unit vectors (N, D)."""
    import torch

    logits: NDArray[np.float32] = (LOGIT_SCALE * head.scores(torch.from_numpy(vectors))).numpy()
    if not np.isfinite(logits).all():
        raise CorruptArtifact(
            f"{checkpoint.path}: its features are not finite; rematerialize `{checkpoint.stage}` "
            f"for {checkpoint.key!r}"
        )
    return logits


def score(scores: Scores) -> dict[str, Any]:
    """Compute the metrics of `EvalResult`, and how many images there are.

    Raises:
        InputError: Naming a metric of an extension that raises, or whose value is not finite.
    """
    values = {name: _value(metric, scores) for name, metric in METRICS.items()}
    return {"n": len(scores.class_ids), **values}


def _value(metric: Metric, scores: Scores) -> float:
    with blame(f"metric {metric.name}", metric.value.__module__):
        value = float(metric.value(scores))
    if not math.isfinite(value):
        raise InputError(f"metric {metric.name} is {value}; a metric is a fraction")
    return value


def write_result(directory: Path, result: EvalResult) -> None:
    """Write `result.json`."""
    text = result.model_dump_json(indent=1) + "\n"
    (directory / "result.json").write_text(text, encoding="utf-8")


def write_classes(directory: Path, scores: Scores) -> None:
    """Write `per_class.parquet`: a row a class, with its images, how many of them are right at rank
    1 and within the top 5, and the fraction at rank 1, which a class without images lacks.
    """
    hits = pd.DataFrame({"images": 1, "correct": scores.hits[:, 0]})
    hits["correct_top5"] = scores.hits.any(axis=1)
    classes = range(len(scores.class_names))
    table = hits.groupby(scores.class_ids).sum().reindex(classes, fill_value=0).astype("int64")
    table["accuracy"] = table["correct"] / table["images"]
    table.insert(0, "class", pd.Series(scores.class_names, dtype=str))
    table.to_parquet(directory / "per_class.parquet", index=False)
