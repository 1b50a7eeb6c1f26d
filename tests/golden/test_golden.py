"""Stores, checkpoints and exports of earlier versions, and of this one, are opened and give what
they gave.
"""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.vectors import read_vectors

from react_pipeline.clip import load
from react_pipeline.corpus import CollectedPairs
from react_pipeline.embedding import read_metadata
from react_pipeline.evaluation import EvalResult
from react_pipeline.indexing import Index
from react_pipeline.project import Project
from react_pipeline.use import Classifier

KEPT = sorted(Path(__file__).parent.glob("*.tar.xz"))
CHECKPOINTS = {
    "base": ("base_checkpoint", "all"),
    "gated-image": ("customized_checkpoint", "shapes/gated-image"),
}


def features(folder: Path) -> dict[str, list[list[float]]]:
    """Unit vectors (3, D) of three pictures, by each checkpoint and by the export."""
    paths = sorted((folder / "inputs" / "evaluation" / "shapes").glob("*/0.png"))[:3]
    store = Project.load(folder / "pipeline.yaml").store
    found = {}
    for name, (stage, key) in CHECKPOINTS.items():
        clip = load(store.current(stage, key).path)
        pictures = torch.stack([clip.preprocess(Image.open(path)) for path in paths])
        found[name] = clip.encode_images(pictures).numpy()
    found["export"] = Classifier.load(folder / "export", device="cpu", precision="fp32").embed(
        paths
    )
    return {name: np.round(values, 6).tolist() for name, values in found.items()}


@pytest.fixture(params=KEPT, ids=lambda path: path.name)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(request.param) as tar:
        if hasattr(tarfile, "data_filter"):  # not before Python 3.11.4
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(tmp_path)  # noqa: S202 - our own
    # A setting that is gone; a project that has it is refused with the line to remove.
    settings = tmp_path / "golden" / "pipeline.yaml"
    settings.write_text(re.sub(r"\n *shards_per_group: .*", "", settings.read_text()))
    return tmp_path / "golden"


def test_every_artifact_is_whole_and_can_be_read(golden: Path) -> None:
    store = Project.load(golden / "pipeline.yaml").store
    checked = list(store.verify())
    assert len(checked) >= 12
    assert not [error for _, error in checked if error is not None]
    embeddings = store.current("corpus_embeddings", "all")
    vectors, rows = read_vectors(embeddings, "image"), len(read_metadata(embeddings))
    assert vectors.shape == (rows, embeddings.counts["dimension"])
    hits = Index(store.current("faiss_index", "all")).search("image", vectors[:4], 1)
    assert hits["similarity"].to_numpy() == pytest.approx(np.ones(4), abs=1e-2)
    for stage in ("retrieved_set", "control_set"):
        pairs = store.current(stage, "shapes")
        assert len(list(CollectedPairs(pairs))) == pairs.counts["pairs"] > 0
    for method in ("base", "gated-image", "gated-image-control"):
        result = EvalResult.read(store.current("domain_results", f"shapes/{method}"))
        assert result.n == 16 and 0 <= result.top1 <= 1


def test_checkpoints_and_an_export_give_features_that_they_gave(golden: Path) -> None:
    recorded = json.loads((golden / "features.json").read_text())
    for name, values in features(golden).items():
        np.testing.assert_allclose(values, recorded[name], atol=1e-4, err_msg=name)
