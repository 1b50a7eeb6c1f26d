"""Ready embeddings as a corpus: their inventory, and the proof that the configured encoder made them.

Belongs here: the artifacts `corpus` and `corpus_embeddings` of kind `embeddings`. Does not belong here: the files'
layout and its checks (`ready_layout`), reading rows (`vectors`), fetching images (`downloads`).

Nothing is copied and nothing is embedded again: both artifacts record what lies where. Shapes: N rows, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from tqdm import tqdm

from react_pipeline.artifacts import Artifact
from react_pipeline.digests import remembered_sha256
from react_pipeline.embedding.parts import Parts, starts_of, vectors_of
from react_pipeline.errors import CorpusError
from react_pipeline.lineage import Project, resolve
from react_pipeline.sources.ready_layout import Part, check_values, find_parts
from react_pipeline.vectors import READY_FILE, remember_folder

PARTS_FILE = "parts.parquet"
FILES_FILE = "files.parquet"

SAMPLED_CAPTIONS = 64
MIN_ENCODER_SIMILARITY = 0.98
"""Mean cosine of re-encoded captions with their ready vectors. Half precision and other kernels cost about 0.001; two
different CLIPs of one width agree to about 0."""


def publish_inventory(project: Project) -> Artifact:
    """Publish the artifact `corpus` of kind `embeddings`: the inventory of the files.

    Files: `parts.parquet` (number, the three names, rows, dimension), `files.parquet` (name, bytes, sha256).

    The identity of the corpus is names and digests in order, so a folder that is moved stays the same corpus. Digests
    are remembered by path, size and time: a terabyte is read for them once. A new corpus is read once more for its
    values.

    Raises:
        CorpusError: Naming the file that is missing, damaged or does not fit, or the row that is no unit vector.
    """
    config = project.config.corpus
    folder = config.embeddings
    if folder is None:
        raise CorpusError("corpus.embeddings: names no folder; kind `embeddings` needs it")
    parts = find_parts(folder, config.url_column, config.caption_column)
    names = [name for part in parts for name in part.names]
    digests = [
        remembered_sha256(project.store.root, folder / name)
        for name in tqdm(names, desc="checking files", unit="file", disable=None, leave=False)
    ]

    def write(staging: Path) -> dict[str, Any]:
        check_values(folder, parts)
        files = pd.DataFrame({"name": names, "bytes": [(folder / name).stat().st_size for name in names]})
        files.assign(sha256=digests).to_parquet(staging / FILES_FILE, index=False)
        pd.DataFrame(parts).to_parquet(staging / PARTS_FILE, index=False)
        return {
            "shards": len(parts),
            "bytes": int(files["bytes"].sum()),
            "pairs": sum(part.rows for part in parts),
            "dimension": parts[0].dimension,
            "empty_captions": sum(_empty_captions(folder / part.metadata, config.caption_column) for part in parts),
        }

    content = [list(pair) for pair in zip(names, digests, strict=True)]
    artifact = project.store.build(resolve(project, "corpus", content=content), write)
    remember_folder(artifact, folder)
    return artifact


def adopt_embeddings(project: Project) -> Artifact:
    """Publish the artifact `corpus_embeddings` of kind `embeddings`: `ready.json`, which names the files in place.

    Vectors of another CLIP would be searched without any error and find nothing of sense. So the configured encoder
    encodes `SAMPLED_CAPTIONS` captions from all over the corpus, and they must agree with their ready vectors.

    Raises:
        CorpusError: If width or sampled vectors show another encoder, or the files have changed since `corpus`.
    """
    inputs = resolve(project, "corpus_embeddings")
    corpus, base = inputs.parents["corpus"], inputs.parents["base_checkpoint"]
    config = project.config.corpus
    folder = config.embeddings
    if folder is None:
        raise CorpusError("corpus.embeddings: names no folder; kind `embeddings` needs it")
    parts = [Part(**row) for row in pd.read_parquet(corpus.file(PARTS_FILE)).to_dict("records")]
    files = pd.read_parquet(corpus.file(FILES_FILE))
    for row in files.itertuples():
        if not (folder / row.name).is_file() or remembered_sha256(project.store.root, folder / row.name) != row.sha256:
            raise CorpusError(f"{folder / row.name}: is gone or has changed; materialize `corpus` again")

    def write(staging: Path) -> dict[str, Any]:
        similarity = _encoder_similarity(project, base, folder, parts)
        ready = {
            "folder": str(folder),
            "columns": {"url": config.url_column, "caption": config.caption_column},
            "files": files[["name", "sha256"]].to_numpy().tolist(),
            "rows": [part.rows for part in parts],
        }
        (staging / READY_FILE).write_text(json.dumps(ready, indent=1))
        return {
            "rows": corpus.counts["pairs"],
            "dimension": corpus.counts["dimension"],
            "skipped": 0,
            "reasons": {},
            "ready": True,
            "encoder_similarity": round(similarity, 5),
        }

    return project.store.build(inputs, write)


def _encoder_similarity(project: Project, base: Artifact, folder: Path, parts: list[Part]) -> float:
    from react_pipeline.model import choose_device, load

    clip = load(base.path, choose_device(project.config.device))
    if clip.dimension != parts[0].dimension:
        raise CorpusError(
            f"{folder}: vectors of {parts[0].dimension} numbers, the configured encoder makes {clip.dimension}; set "
            "`encoder` to the CLIP that made them"
        )
    rows, captions = _sampled_captions(folder, parts, project.config.corpus.caption_column)
    if not len(rows):
        raise CorpusError(f"{folder}: every sampled caption is empty; name the right column in corpus.caption_column")
    starts = starts_of([part.rows for part in parts])
    ready = vectors_of(Parts(folder, [part.text for part in parts], starts), rows, clip.dimension)
    encoded = clip.encode_texts(captions).numpy()
    lengths = np.linalg.norm(ready, axis=1)
    similarity = float(((encoded * ready).sum(axis=1) / lengths).mean())
    if not similarity >= MIN_ENCODER_SIMILARITY:
        raise CorpusError(
            f"{folder}: another CLIP made these vectors, or of other captions: {len(rows)} captions encoded by the "
            f"configured encoder agree with their vectors to {similarity:.3f} on average, {MIN_ENCODER_SIMILARITY} is "
            "needed. Set `encoder` (model and pretrained weights) to the CLIP that made them, check "
            "corpus.caption_column, or embed the pairs anew from their shards"
        )
    return similarity


def _sampled_captions(folder: Path, parts: list[Part], column: str) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Rows spread over the corpus, and their captions, less the empty ones."""
    total = sum(part.rows for part in parts)
    chosen = np.unique(np.linspace(0, total - 1, min(SAMPLED_CAPTIONS, total)).astype(np.int64))
    rows, captions, start = [], [], 0
    for part in parts:
        inside = chosen[(chosen >= start) & (chosen < start + part.rows)]
        if len(inside):
            file, before = pq.ParquetFile(folder / part.metadata), start
            for group in range(file.num_row_groups):
                end = before + file.metadata.row_group(group).num_rows
                here = inside[(inside >= before) & (inside < end)]
                if len(here):
                    texts = file.read_row_group(group, columns=[column]).column(0).take(here - before).to_pylist()
                    kept = [(row, text) for row, text in zip(here, texts, strict=True) if text and text.strip()]
                    rows += [row for row, _ in kept]
                    captions += [text for _, text in kept]
                before = end
        start += part.rows
    return np.array(rows, dtype=np.int64), captions


def _empty_captions(path: Path, column: str) -> int:
    empty = 0
    for batch in pq.ParquetFile(path).iter_batches(columns=[column]):
        empty += sum(text is None or not text.strip() for text in batch.column(0).to_pylist())
    return empty
