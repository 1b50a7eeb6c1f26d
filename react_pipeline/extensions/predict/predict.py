"""Predictions for many pictures as files: parquet, CSV, a page, a ledger; and their vectors.

Belongs here: the folder that a run writes, and resuming it. Does not belong here: which pictures
(`pictures`), decoding and encoding them (`encoding`), the page (`prediction_page`).

The folder::

    predictions.parquet, .csv   path, predicted, confidence, margin, class_1, score_1, ...
    vectors.parquet             of `embed`, instead: path, vector
    ledger.csv                  what could not be used: path, reason, detail
    index.html                  contact sheets
    run.json                    model, source, and whether the run is finished
    .work/                      parts and downloads of a run that is not finished
"""

from __future__ import annotations

import csv as csv_rows
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from react_pipeline.clip import choose_precision
from react_pipeline.embedding import LONG_RUN, Encoder
from react_pipeline.extensions.predict.encoding import Columns, encode_pictures, read_parts
from react_pipeline.extensions.predict.pictures import (
    LedgerRow,
    Picture,
    find_pictures,
    identity_of,
)
from react_pipeline.extensions.predict.prediction_page import write_page
from react_pipeline.extensions.predict.run_folder import (
    LEDGER_FILE,
    PREDICTIONS,
    WORK,
    held_run,
    write_record,
)
from react_pipeline.extensions.predict.transduction import transduce, uncalibrated
from react_pipeline.settings import (
    MAX_PIXELS,
    DistributorConfig,
    StorageConfig,
)
from react_pipeline.store import InputError, rename_synced
from react_pipeline.use import UNKNOWN, Classifier, margins

CPU_BATCH, GPU_BATCH = 64, 256


@dataclass(frozen=True)
class Options:
    """How a run goes.

    Attributes:
        top_k: Classes per picture.
        threshold: Below this confidence the prediction is `unknown`.
        transductive: Judge all pictures together (`transduction`).
        column: Of a table of pictures.
        workers: Decoding processes.
        max_pixels: Larger pictures are skipped.
        overwrite: Replace an earlier run of another model, source or options.
        distributor: Where shards are labelled (`shard_labels`).
    """

    top_k: int = 5
    threshold: float = 0.0
    transductive: bool = False
    column: str | None = None
    workers: int = 2
    max_pixels: int = MAX_PIXELS
    storage: StorageConfig = StorageConfig()
    overwrite: bool = False
    distributor: DistributorConfig = DistributorConfig()


@dataclass(frozen=True)
class Done:
    """What a run gave: how many pictures were used, what was skipped by reason, and what the
    confidence is worth.
    """

    used: int
    skipped: dict[str, int]
    calibration: str


def predict_pictures(classifier: Classifier, source: str, output: Path, options: Options) -> Done:
    """Classify every picture of a source; see the files above. A killed run resumes when it is
    called again.

    Raises:
        InputError: If the source has no usable picture, or the folder holds something else.
        ReactError: If a decoding process dies.
    """
    if not options.transductive:
        columns = label_columns(classifier, options)
        return _run(classifier, source, output, options, PREDICTIONS, columns)
    classifier = uncalibrated(classifier)
    columns = label_columns(classifier, options)
    return _run(classifier, source, output, options, PREDICTIONS, _vectors, columns)


def label_columns(classifier: Classifier, options: Options) -> Columns:
    """What is written of each picture.

    Raises:
        InputError: If a class has the name that pictures below the threshold get.
    """
    if options.threshold and UNKNOWN in classifier.classes:
        raise InputError(
            f"a class is called {UNKNOWN!r}, which a threshold gives to other pictures; rename "
            "the class"
        )
    top_k = min(options.top_k, len(classifier.classes))
    names = np.asarray(classifier.classes, dtype=object)

    def columns(vectors: NDArray[np.float32]) -> dict[str, pa.Array]:
        similarities = (
            transduce(vectors, classifier.head)[0]
            if options.transductive
            else classifier.head.scores(torch.from_numpy(vectors))
        )
        ids, scores, confidence = classifier.rank(similarities.numpy(), top_k)
        labels = np.where(confidence >= options.threshold, names[ids[:, 0]], UNKNOWN)
        ranked = {}
        for place in range(top_k):
            ranked[f"class_{place + 1}"] = pa.array(names[ids[:, place]], pa.string())
            ranked[f"score_{place + 1}"] = pa.array(scores[:, place])
        head = {"predicted": pa.array(labels, pa.string()), "confidence": pa.array(confidence)}
        return {**head, "margin": pa.array(margins(scores)), **ranked}

    return columns


def embed_pictures(classifier: Classifier, source: str, output: Path, options: Options) -> Done:
    """Write the unit vector (D,), float32, of every picture; as `predict_pictures` otherwise."""
    return _run(classifier, source, output, options, "vectors", _vectors)


def _vectors(vectors: NDArray[np.float32]) -> dict[str, pa.Array]:
    values = pa.array(vectors.reshape(-1))
    return {"vector": pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])}


def _run(
    classifier: Classifier,
    source: str,
    output: Path,
    options: Options,
    name: str,
    columns: Columns,
    of_all: Columns | None = None,
) -> Done:
    """Encode pictures to columns, part by part; `of_all` makes others of all vectors, which the
    parts keep then.
    """
    pictures, refused = find_pictures(source, options.column, options.storage)
    identity = identity_of_run(classifier, source, options, name, identity_of(pictures))
    with held_run(output, identity, options.overwrite) as record:
        if "used" not in record:
            _encode(classifier, pictures, output, options, columns, record)
            used, skipped = _join(output, name, refused, of_all)
            if not used:
                reasons = ", ".join(f"{reason} {count:,}" for reason, count in skipped.items())
                raise InputError(
                    f"{source}: no picture could be used ({reasons}); see {output / LEDGER_FILE}"
                )
            record |= {"used": used, "skipped": skipped}
            if name == PREDICTIONS:
                by_name = {picture.name: picture for picture in pictures}
                write_page(output, classifier, source, by_name, skipped)
            write_record(output, record)
        shutil.rmtree(output / WORK, ignore_errors=True)
    return Done(record["used"], record["skipped"], classifier.calibration)


def identity_of_run(
    classifier: Classifier, source: str, options: Options, name: str, pictures: str
) -> dict[str, Any]:
    """What a run that resumes must agree in; `pictures` is a digest."""
    settings: dict[str, Any] = {"dimension": classifier.clip.dimension}
    if name != "vectors":
        settings = {
            "top_k": min(options.top_k, len(classifier.classes)),
            "threshold": options.threshold,
            "temperature": classifier.temperature,
            "transductive": options.transductive,
        }
    return {
        "output": name,
        "model": str(classifier.origin),
        "fingerprint": classifier.origin.fingerprint,
        "source": source,
        "pictures": pictures,
        "classes": list(classifier.classes),
        "wanted_precision": classifier.precision,
        "max_pixels": options.max_pixels,
        **settings,
    }


def _encode(
    classifier: Classifier,
    pictures: Sequence[Picture],
    output: Path,
    options: Options,
    columns: Columns,
    record: dict[str, Any],
) -> None:
    """Encode what is missing."""
    device = classifier.clip.device
    # The precision that `auto` came to is measured, so a run that resumes keeps it.
    record.setdefault("precision", choose_precision(classifier.precision, device))
    write_record(output, record)
    work = output / WORK
    encode_pictures(
        Encoder(classifier.clip, record["precision"], long_run=len(pictures) >= LONG_RUN),
        pictures,
        work / "parts",
        columns,
        batch_size=CPU_BATCH if device == "cpu" else GPU_BATCH,
        workers=options.workers,
        max_pixels=options.max_pixels,
    )


def _rows(parts: Path, of_all: Columns | None) -> Iterator[tuple[pa.Table, list[LedgerRow]]]:
    """The rows to write, and what was skipped."""
    if of_all is None:
        yield from read_parts(parts)
        return
    tables, skipped = zip(*read_parts(parts), strict=True)
    table = pa.concat_tables(tables).combine_chunks()
    rows = table.select(["path"])
    if len(table):
        (vectors,) = table["vector"].chunks
        columns = of_all(vectors.flatten().to_numpy().reshape(len(table), -1))
        rows = pa.table({"path": table["path"], **columns})
    yield rows, [row for ledger in skipped for row in ledger]


def _join(
    output: Path, name: str, refused: Sequence[LedgerRow], of_all: Columns | None
) -> tuple[int, dict[str, int]]:
    """Make the files of all parts; returns the number of rows, and what was skipped by reason."""
    ledger = list(refused)
    used = 0
    work = output / WORK
    formats: dict[str, Any] = {f"{name}.parquet": pq.ParquetWriter}
    if name == PREDICTIONS:
        formats[f"{name}.csv"] = csv.CSVWriter
    with ExitStack() as files:
        writers: list[Any] = []
        for rows, skipped in _rows(work / "parts", of_all):
            ledger += skipped
            used += len(rows)
            if not writers:
                for file, writer in formats.items():
                    writers.append(files.enter_context(writer(work / file, rows.schema)))
            for writer in writers:
                writer.write_table(rows)
    write_ledger(work / LEDGER_FILE, ledger)
    for file in (*formats, LEDGER_FILE):
        rename_synced(work / file, output / file)
    return used, dict(Counter(reason for _, reason, _ in ledger).most_common())


def write_ledger(path: Path, ledger: Sequence[LedgerRow]) -> None:
    """Write what could not be used."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv_rows.writer(file)
        lines.writerow(("path", "reason", "detail"))
        lines.writerows(ledger)
