"""Embedding a corpus that lists its pairs: captions, and with `encode: both` their images too.

Belongs here: the order of events, the files of a part. Does not belong here: corpora in shards
(`embed`), how images are fetched (`corpus.ImageSource`). Shapes: N pairs of a part, D width.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from react_pipeline.corpus import (
    ImageSource,
    ListedCorpus,
    ListedPair,
    count_pairs,
    load_batches,
    open_source,
    too_many_failed,
)
from react_pipeline.embedding.encoder import LONG_RUN, Encoder
from react_pipeline.embedding.images import encode_fetched
from react_pipeline.embedding.parts import Vectors, bad_rows
from react_pipeline.embedding.vectors import FOLDERS, GROUPS_FILE, METADATA
from react_pipeline.project import Project
from react_pipeline.settings import PipelineConfig
from react_pipeline.stage import encoder_in
from react_pipeline.store import CorpusError, Inputs, Scratch

PART_PAIRS = 20_000
"""Pairs that are encoded and kept together; a kill loses less."""


def embed_listed(
    project: Project, inputs: Inputs, staging: Path, scratch: Scratch
) -> dict[str, Any]:
    """Write `text_emb/`, `metadata/` and `groups.jsonl`, and with `encode: both` `img_emb/`; return
    the counts.

    Rows are the pairs in the order of the corpus. With images, pairs whose image is not available
    are left out and counted. A killed build resumes with the first unfinished part.

    Raises:
        CorpusError: If no pair is left, more than `corpus.download.max_failed_fraction` of the
            images of a part are not available, or a vector is not finite or zero.
    """
    from react_pipeline.clip import choose_device, device_counts, load  # loads torch

    config = project.config
    kind = config.corpus
    assert isinstance(kind, ListedCorpus)  # noqa: S101 - `is_listed` says so
    corpus = inputs.parents["corpus"]
    clip = load(inputs.parents[encoder_in(inputs.parents)].path, choose_device(config.device))
    total = count_pairs(corpus) or 0
    encoder = Encoder(clip, config.embedding.precision, long_run=total >= LONG_RUN)
    source = None if config.images_wait else open_source(project, corpus)
    pairs = kind.pairs(project.store, corpus)
    totals = Counter[str]()
    reasons = Counter[str]()
    lines = []
    with tqdm(total=total, desc="embedding", unit="pair", disable=None) as bar:
        for number, part in enumerate(_parts(pairs)):

            def write(folder: Path, part: list[ListedPair] = part, number: int = number) -> Any:
                return _write_part(folder, f"{number:06d}", part, encoder, source, config)

            counts = scratch.build(f"part-{number}", staging, write)
            reasons.update(counts.pop("reasons"))
            totals.update(counts)
            lines.append(json.dumps({"rows": counts["rows"]}) + "\n")
            bar.update(len(part))
    (staging / GROUPS_FILE).write_text("".join(lines))
    if not totals["rows"]:
        raise CorpusError("corpus: no usable pair")
    seconds = totals["seconds"]
    return {
        "rows": totals["rows"],
        "skipped": reasons.total(),
        "reasons": dict(reasons.most_common()),
        "dimension": clip.dimension,
        "captions_cut": totals["captions_cut"],
        "seconds": round(seconds, 2),
        "pairs_per_second": round(totals["rows"] / seconds, 1) if seconds else 0.0,
        **device_counts(clip.device),
        "precision": encoder.precision,
    }


def _parts(pairs: Iterator[ListedPair]) -> Iterator[list[ListedPair]]:
    while part := list(islice(pairs, PART_PAIRS)):
        yield part


def _write_part(
    folder: Path,
    number: str,
    pairs: Sequence[ListedPair],
    encoder: Encoder,
    source: ImageSource | None,
    config: PipelineConfig,
) -> dict[str, Any]:
    """Write the files of a part and return its counts."""
    began = time.perf_counter()
    longest = config.corpus.max_caption_chars
    table = pd.DataFrame([pair.fields for pair in pairs])
    table.insert(0, "image_path", [pair.key for pair in pairs])
    table.insert(1, "caption", [pair.caption[:longest].strip() for pair in pairs])
    table["image_sha256"] = ""
    cut = sum(len(pair.caption) > longest for pair in pairs)
    reasons: Counter[str] = Counter()
    if source is not None:
        table["row"] = np.arange(len(table))
        fetched = encode_fetched(source, table, encoder, config)
        reasons.update(source.failed[row] for row in set(table["row"]) - set(fetched.sha256))
        table = table[table["row"].isin(fetched.sha256)].drop(columns="row")
        allowed = config.corpus.access()[1].max_failed_fraction
        if problem := too_many_failed(reasons, len(table), allowed):
            raise CorpusError(f"corpus: {problem}")  # so that the part is tried again
        table["image_sha256"] = list(fetched.sha256.values())
        _save(folder, FOLDERS["image"], number, fetched.vectors)
    vectors = encode_captions(encoder, table["caption"].tolist(), config)
    if bad := bad_rows(vectors).tolist():
        raise CorpusError(
            f"corpus: the encoder gives no unit vector for the caption of "
            f"{table['image_path'].iloc[bad[0]]!r}; check the checkpoint, or use "
            "`embedding.precision: fp32`"
        )
    _save(folder, FOLDERS["text"], number, vectors)
    if len(table):
        (folder / METADATA).mkdir()
        file = folder / METADATA / f"{METADATA}_{number}.parquet"
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), file)
    seconds = time.perf_counter() - began
    return {"rows": len(table), "captions_cut": cut, "seconds": seconds, "reasons": dict(reasons)}


def encode_captions(encoder: Encoder, captions: list[str], config: PipelineConfig) -> Vectors:
    """Encode captions as unit vectors (N, D); tokens are made by the processes of `embedding`."""
    size = config.embedding.batch_size
    batches = [captions[start : start + size] for start in range(0, len(captions), size)]
    workers = min(config.embedding.worker_count, len(batches) // 64)
    positions = (range(start, start + 1) for start in range(len(batches)))
    tokens = load_batches(batches, positions, workers, lambda part: encoder.clip.tokenizer(part[0]))
    vectors = [encoder.texts(batch).numpy() for batch in tokens]
    return np.concatenate(vectors) if vectors else np.empty((0, encoder.clip.dimension), np.float32)


def _save(folder: Path, side: str, number: str, vectors: NDArray[Any]) -> None:
    """Save vectors as float16; an empty part has no file."""
    if len(vectors):
        (folder / side).mkdir()
        np.save(folder / side / f"{side}_{number}.npy", vectors.astype(np.float16))
