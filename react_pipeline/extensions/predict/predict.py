"""Predictions for many pictures as files: parquet, CSV, a page, a ledger; and their vectors.

Belongs here: the folder that a run writes, and resuming it. Does not belong here: which pictures
(`pictures`), decoding and encoding them (`encoding`), the page (`extensions.pages`).

The folder::

    predictions.parquet, .csv   path, predicted, confidence, margin, class_1, score_1, ...
    vectors.parquet             of `embed`, instead: path, vector
    ledger.csv                  what could not be used: path, reason, detail
    index.html                  contact sheets
    run.json                    model, source, and whether the run is finished
    .work/                      parts of a run that is not finished
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import torch

from react_pipeline.clip import choose_precision
from react_pipeline.embedding import LONG_RUN, Encoder
from react_pipeline.extensions.pages import write_page
from react_pipeline.extensions.predict.encoding import Part, encode_pictures, joined
from react_pipeline.extensions.predict.pictures import Picture, find_pictures, identity_of
from react_pipeline.extensions.predict.run_folder import (
    LEDGER_FILE,
    PREDICTIONS,
    WORK,
    held_run,
    write_ledger,
    write_record,
)
from react_pipeline.extensions.predict.transduction import transduce, uncalibrated
from react_pipeline.settings import MAX_PIXELS, DistributorConfig, StorageConfig
from react_pipeline.store import InputError, remove, rename_synced
from react_pipeline.use import UNKNOWN, Classifier, margins

CPU_BATCH, GPU_BATCH = 64, 256

Rows = Callable[[Part], pa.Table]
"""What is written of a part: a row a picture."""


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
    column: str = "path"
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
    if options.transductive:
        classifier = uncalibrated(classifier)
    return _run(classifier, source, output, options, PREDICTIONS, label_rows(classifier, options))


def embed_pictures(classifier: Classifier, source: str, output: Path, options: Options) -> Done:
    """Write the unit vector (D,), float32, of every picture; as `predict_pictures` otherwise."""
    return _run(uncalibrated(classifier), source, output, options, "vectors", _vector_rows)


def label_rows(classifier: Classifier, options: Options) -> Rows:
    """Return what is written of a part of a prediction.

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

    def rows(part: Part) -> pa.Table:
        if options.transductive and len(part.vectors):
            similarities, _ = transduce(part.vectors, classifier.head)
        else:
            similarities = classifier.head.scores(torch.from_numpy(part.vectors))
        ids, scores, confidence = classifier.rank(similarities.numpy(), top_k)
        labels = np.where(confidence >= options.threshold, names[ids[:, 0]], UNKNOWN)
        columns = {
            "path": pa.array(part.names, pa.string()),
            "predicted": pa.array(labels, pa.string()),
            "confidence": pa.array(confidence),
            "margin": pa.array(margins(scores)),
        }
        for place in range(top_k):
            columns[f"class_{place + 1}"] = pa.array(names[ids[:, place]], pa.string())
            columns[f"score_{place + 1}"] = pa.array(scores[:, place])
        return pa.table(columns)

    return rows


def _vector_rows(part: Part) -> pa.Table:
    values = pa.array(part.vectors.reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(values, part.vectors.shape[1])
    return pa.table({"path": pa.array(part.names, pa.string()), "vector": vectors})


def _run(
    classifier: Classifier, source: str, output: Path, options: Options, name: str, rows: Rows
) -> Done:
    pictures, refused = find_pictures(source, options.column, options.storage)

    def work(record: dict[str, Any]) -> tuple[int, dict[str, int]]:
        # The precision that `auto` came to is measured, so a run that resumes keeps it.
        device = classifier.clip.device
        record.setdefault("precision", choose_precision(classifier.precision, device))
        write_record(output, record)
        file = output / WORK / f"{name}.parquet"
        file.parent.mkdir(exist_ok=True)
        parts = encode(classifier, pictures, options, record["precision"], file.parent)
        if options.transductive:
            parts = iter([joined(parts, classifier.clip.dimension)])
        ledger = list(refused)
        used = 0
        schema = rows(joined([], classifier.clip.dimension)).schema
        with pq.ParquetWriter(file, schema) as writer:
            for part in parts:
                writer.write_table(rows(part))
                used += len(part.names)
                ledger += part.ledger
        skipped = write_ledger(output, ledger)
        if not used:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in skipped.items())
            raise InputError(
                f"{source}: no picture could be used ({reasons}); see {output / LEDGER_FILE}"
            )
        rename_synced(file, output / file.name)
        if name == PREDICTIONS:
            csv.write_csv(pq.read_table(output / file.name), file)
            rename_synced(file, output / f"{name}.csv")
            by_name = {picture.name: picture for picture in pictures}
            write_page(output, classifier, source, by_name, skipped)
        return used, skipped

    about = {"output": name, "source": source, "pictures": identity_of(pictures)}
    return finish(classifier, output, options, about, work)


def finish(
    classifier: Classifier,
    output: Path,
    options: Options,
    about: dict[str, str],
    work: Callable[[dict[str, Any]], tuple[int, dict[str, int]]],
) -> Done:
    """Do the work of a run, unless its folder says that it is done.

    Args:
        about: What the run is of; a run that resumes agrees in it, in the model and the options.
        work: Writes the files; returns how many pictures were used, and what was skipped.
    """
    identity: dict[str, Any] = {
        **about,
        "model": str(classifier.origin),
        "fingerprint": classifier.origin.fingerprint,
        "classes": list(classifier.classes),
        "wanted_precision": classifier.precision,
        "temperature": classifier.temperature,
    }
    for name in ("top_k", "threshold", "transductive", "max_pixels"):
        identity[name] = getattr(options, name)
    with held_run(output, identity, options.overwrite) as record:
        if "used" not in record:
            write_record(output, record)
            used, skipped = work(record)
            record |= {"used": used, "skipped": skipped}
            write_record(output, record)
        remove(output / WORK)
    return Done(record["used"], record["skipped"], classifier.calibration)


def encode(
    classifier: Classifier,
    pictures: Sequence[Picture],
    options: Options,
    precision: str,
    folder: Path | None,
) -> Iterator[Part]:
    """Encode pictures by a model; `folder` keeps each part for a run that resumes."""
    return encode_pictures(
        Encoder(classifier.clip, precision, long_run=len(pictures) >= LONG_RUN),
        pictures,
        folder,
        batch_size=CPU_BATCH if classifier.clip.device == "cpu" else GPU_BATCH,
        workers=options.workers,
        max_pixels=options.max_pixels,
    )
