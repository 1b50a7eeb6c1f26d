"""The ONNX model with 8-bit weights, and what it loses, measured on pictures of the domain.

Does not belong here: the graph in full precision (`onnx_model`). Shapes: N pictures, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from react_pipeline.clip import load
from react_pipeline.corpus import CollectedPairs
from react_pipeline.extensions.hub.formats import Exported
from react_pipeline.extensions.hub.onnx_model import ONNX_FILE, OUTPUTS, opened, write_onnx
from react_pipeline.labelled import PublishedImages, preprocessing_for, read_images
from react_pipeline.lineage import fresh_or_none
from react_pipeline.store import InputError, ReactError
from react_pipeline.use import training_pairs

INT8_FILE = "model.int8.onnx"

MAX_PICTURES = 1_000
"""Evenly spaced among those there are; both models see each of them."""

_BATCH = 32


def write_int8(exported: Exported) -> dict[str, Any]:
    """Add `model.int8.onnx`: the matrices of `model.onnx` as 8-bit integers, activations quantized
    as they come.

    Returns:
        `pictures` (N), `of` (what they are), `agreement` (fraction to which both models give the
        same class) and, of labelled pictures, `top1` and `top1_fp32` (fractions).

    Raises:
        ReactError: If the model cannot be converted.
    """
    import onnx
    from onnxruntime.quantization import (  # type: ignore[import-untyped]
        QuantType,
        quantize_dynamic,
    )

    target = exported.folder / INT8_FILE
    with TemporaryDirectory() as scratch:
        full = exported.folder / ONNX_FILE
        if not full.exists():
            full = Path(scratch) / ONNX_FILE
            write_onnx(exported.folder, full)
        logging.disable(logging.WARNING)  # it advises a preparation for models with fixed shapes
        try:
            nodes = onnx.load(str(full), load_external_data=False).graph.node
            products = [node.name for node in nodes if node.op_type == "MatMul"]
            # With 7 bits no processor saturates a sum of products (VPMADDUBSW), so that the loss
            # which is measured here is that of every machine.
            quantize_dynamic(
                full,
                target,
                op_types_to_quantize=["MatMul"],
                nodes_to_exclude=products[-1:],  # the class vectors: few, and all decide
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # whatever a converter of any architecture raises
            raise ReactError(
                f"this model cannot be written in 8 bits: {' '.join(str(error).split())[:300]}"
            ) from error
        finally:
            logging.disable(logging.NOTSET)
        return _loss(exported, full, target)


def _loss(exported: Exported, full: Path, int8: Path) -> dict[str, Any]:
    of, pictures, class_ids = _pictures(exported)
    clip = load(exported.folder)
    preprocess = preprocessing_for(clip, exported.domain)
    sessions = [opened(full), opened(int8)]
    predicted: list[list[int]] = [[], []]
    for start in range(0, len(pictures), _BATCH):
        images = [preprocess(picture()) for picture in pictures[start : start + _BATCH]]
        batch = {"batch": torch.stack(images).numpy()}
        for ids, session in zip(predicted, sessions, strict=True):
            ids += session.run([OUTPUTS[1]], batch)[0].argmax(axis=1).tolist()
    exact, ours = map(np.array, predicted)
    loss: dict[str, Any] = {"pictures": len(pictures), "of": of}
    loss["agreement"] = float((exact == ours).mean())
    if class_ids is not None:
        loss["top1"] = float((ours == class_ids).mean())
        loss["top1_fp32"] = float((exact == class_ids).mean())
    return loss


def _pictures(
    exported: Exported,
) -> tuple[str, Sequence[Callable[[], Image.Image]], NDArray[np.int64] | None]:
    """What the pictures are, how to open each, and the class ids of labelled ones: the evaluation
    set of these classes, or the pairs that the model was trained on.
    """
    project, slug = exported.project, exported.domain.slug
    try:
        labelled = fresh_or_none(project, "evaluation_set", slug)
        same = project.domain(slug).class_names == exported.domain.class_names
    except InputError:  # the domain's file is gone
        labelled, same = None, False
    if labelled is not None and same and "unavailable" not in labelled.counts:
        table = read_images(labelled, project.domain(slug))
        table = table.iloc[_spaced(len(table))]
        images = PublishedImages(
            tuple(table["path"]), tuple(table["sha256"]), project.config.corpus.max_pixels
        )
        openers = [lambda at=at: images.decoded(at) for at in range(len(images))]
        return labelled.counts["name"], openers, table["class_id"].to_numpy()
    pairs = CollectedPairs(training_pairs(project, exported.checkpoint))
    openers = [lambda at=at: pairs.decoded(at) for at in _spaced(len(pairs))]
    return "the pairs that it was trained on", openers, None


def _spaced(count: int) -> NDArray[np.int64]:
    return np.linspace(0, count - 1, min(count, MAX_PICTURES)).round().astype(np.int64)
