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
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
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
    fetch_urls,
    find_pictures,
    identity_of,
)
from react_pipeline.extensions.predict.prediction_page import write_page
from react_pipeline.extensions.predict.transduction import transduce, uncalibrated
from react_pipeline.settings import (
    MAX_PIXELS,
    DistributorConfig,
    DownloadConfig,
    StorageConfig,
)
from react_pipeline.store import InputError, StoreWriteError, lock, rename_synced, write_atomically
from react_pipeline.use import UNKNOWN, Classifier, margins

RUN_FILE = "run.json"
LEDGER_FILE = "ledger.csv"
WORK = ".work"
PREDICTIONS, LABELS = "predictions", "labels"
WRITTEN = {
    RUN_FILE,
    LEDGER_FILE,
    WORK,
    LABELS,
    "index.html",
    "predictions.parquet",
    "predictions.csv",
    "vectors.parquet",
    "assessed.parquet",
    "assessment.json",
}
"""What `overwrite` removes, and nothing else."""

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
    download: DownloadConfig = field(default_factory=DownloadConfig)
    storage: StorageConfig = StorageConfig()
    overwrite: bool = False
    distributor: DistributorConfig = DistributorConfig()


@dataclass(frozen=True)
class Done:
    """What a run gave: how many pictures were used, what was skipped by reason, the pictures of
    SOURCE by name, and what the confidence is worth.
    """

    used: int
    skipped: dict[str, int]
    pictures: dict[str, Picture]
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
            local = _encode(classifier, pictures, output, options, columns, record)
            used, skipped = _join(output, name, refused, of_all)
            if not used:
                reasons = ", ".join(f"{reason} {count:,}" for reason, count in skipped.items())
                raise InputError(
                    f"{source}: no picture could be used ({reasons}); see {output / LEDGER_FILE}"
                )
            record |= {"used": used, "skipped": skipped}
            if name == PREDICTIONS:
                by_name = {picture.name: picture for picture in local}
                write_page(output, classifier, source, by_name, skipped)
            write_record(output, record)
        shutil.rmtree(output / WORK, ignore_errors=True)
    by_name = {picture.name: picture for picture in pictures}
    return Done(record["used"], record["skipped"], by_name, classifier.calibration)


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
) -> list[Picture]:
    """Download and encode what is missing; returns the pictures as they were read."""
    device = classifier.clip.device
    # The precision that `auto` came to is measured, so a run that resumes keeps it.
    record.setdefault("precision", choose_precision(classifier.precision, device))
    write_record(output, record)
    work = output / WORK
    local = fetch_urls(pictures, work / "downloads", options.download, options.max_pixels)
    encode_pictures(
        Encoder(classifier.clip, record["precision"], long_run=len(local) >= LONG_RUN),
        local,
        work / "parts",
        columns,
        batch_size=CPU_BATCH if device == "cpu" else GPU_BATCH,
        workers=options.workers,
        max_pixels=options.max_pixels,
    )
    return local


_locked: set[int] = set()


def _let_go() -> None:
    # A decoding process outlives a killed run by seconds, and would keep its lock.
    for descriptor in _locked:
        os.close(descriptor)
    _locked.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def held_run(output: Path, identity: dict[str, Any], overwrite: bool) -> Iterator[dict[str, Any]]:
    """The record of the run of this identity in a folder that no other process writes to."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(
            f"{output}: {error.strerror}; choose another folder with --output"
        ) from error
    try:
        if not lock(descriptor, wait=False):
            raise InputError(
                f"{output}: another run writes to it; wait for it, or choose another folder"
            )
        _locked.add(descriptor)
        record = _record(output)
        if record is None and any(output.iterdir()):
            raise InputError(
                f"{output}: holds other files; choose an empty or new folder with --output"
            )
        changed = sorted(
            field for field, value in identity.items() if (record or identity).get(field) != value
        )
        if changed and not overwrite:
            raise InputError(
                f"{output}: holds a run of other {', '.join(changed)}; choose another folder, or "
                "--overwrite it"
            )
        if changed:
            _clear(output)
            record = None
        yield record or dict(identity)
    except OSError as error:
        raise StoreWriteError(
            f"{error.filename or output}: {error.strerror or error}; free space and run again"
        ) from error
    finally:
        _locked.discard(descriptor)
        os.close(descriptor)


def _clear(output: Path) -> None:
    """Remove the files of an earlier run, and nothing else."""
    for path in output.iterdir():
        if path.name in WRITTEN:
            is_folder = path.is_dir() and not path.is_symlink()
            shutil.rmtree(path) if is_folder else path.unlink()


def _record(output: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((output / RUN_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def write_record(output: Path, record: dict[str, Any]) -> None:
    """Write what is known of a run."""
    write_atomically(output / RUN_FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


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
