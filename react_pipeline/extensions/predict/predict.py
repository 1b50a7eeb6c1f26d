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

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import torch

from react_pipeline.clip import choose_precision
from react_pipeline.extensions.pages import write_page
from react_pipeline.extensions.predict.encoding import (
    encode_pictures,
    ledger_of,
    no_pictures,
    usable_rows,
    vectors_of,
)
from react_pipeline.extensions.predict.heads import uncalibrated
from react_pipeline.extensions.predict.pictures import find_pictures, identity_of
from react_pipeline.extensions.predict.run_folder import (
    LEDGER_FILE,
    PREDICTIONS,
    VECTORS,
    WORK,
    Options,
    held_run,
    write_ledger,
    write_record,
)
from react_pipeline.extensions.predict.transduction import transduce
from react_pipeline.store import InputError, remove, rename_synced
from react_pipeline.use import UNKNOWN, Classifier, margins

Rows = Callable[[pa.Table], pa.Table]
"""What is written of a part (`encoding`): a row a picture."""


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
    return _run(uncalibrated(classifier), source, output, options, VECTORS, usable_rows)


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

    def rows(part: pa.Table) -> pa.Table:
        paths, vectors = vectors_of(part)
        if options.transductive and len(vectors):
            similarities, _ = transduce(vectors, classifier.head)
        else:
            similarities = classifier.head.scores(torch.from_numpy(vectors))
        ids, scores, confidence = classifier.rank(similarities.numpy(), top_k)
        labels = np.where(confidence >= options.threshold, names[ids[:, 0]], UNKNOWN)
        columns = {
            "path": pa.array(paths, pa.string()),
            "predicted": pa.array(labels, pa.string()),
            "confidence": pa.array(confidence),
            "margin": pa.array(margins(scores)),
        }
        for place in range(top_k):
            columns[f"class_{place + 1}"] = pa.array(names[ids[:, place]], pa.string())
            columns[f"score_{place + 1}"] = pa.array(scores[:, place])
        return pa.table(columns)

    return rows


def _run(
    classifier: Classifier, source: str, output: Path, options: Options, name: str, rows: Rows
) -> Done:
    pictures, refused = find_pictures(source, options.column, options.storage)
    clip = classifier.clip

    def work(folder: Path, record: dict[str, Any]) -> tuple[int, dict[str, int]]:
        # The precision that `auto` came to is measured, so a run that resumes keeps it.
        precision = choose_precision(classifier.precision, clip.device)
        precision = record.setdefault("precision", precision)
        write_record(output, record)
        parts = encode_pictures(clip, pictures, folder, precision, options)
        if options.transductive:
            parts = iter([pa.concat_tables(parts)])
        ledger = list(refused)
        used = 0
        file = folder / f"{name}.parquet"
        with pq.ParquetWriter(file, rows(no_pictures(clip.dimension)).schema) as writer:
            for part in parts:
                table = rows(part)
                writer.write_table(table)
                used += len(table)
                ledger += ledger_of(part)
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
    work: Callable[[Path, dict[str, Any]], tuple[int, dict[str, int]]],
) -> Done:
    """Do the work of a run, unless its folder says that it is done.

    Args:
        about: What the run is of; a run that resumes agrees in it, in the model and the options.
        work: Gets a folder for what survives a kill, and the record of the run; writes the files,
            and returns how many pictures were used, and what was skipped.
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
            (output / WORK).mkdir(exist_ok=True)
            record["used"], record["skipped"] = work(output / WORK, record)
            write_record(output, record)
        remove(output / WORK)
    return Done(record["used"], record["skipped"], classifier.calibration)
