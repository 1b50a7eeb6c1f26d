"""Predictions for many pictures as files: parquet, CSV, a page, a ledger; and their vectors.

Belongs here: the folder that a run writes, and resuming it. Does not belong here: which pictures
(`pictures`), decoding and encoding them (`encoding`), the page (`extensions.pages`).

The folder::

    predictions.parquet, .csv   path, predicted, confidence, margin, class_1, score_1, ...
    vectors.parquet             of `embed`, instead: path, vector
    labels/000017.parquet       by shard, instead: of shard 17 of SOURCE, as predictions.parquet
    ledger.csv                  what could not be used: path, reason, detail
    index.html                  contact sheets
    run.json                    model, source, and whether the run is finished
    .work/                      parts of a run that is not finished
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import torch

from react_pipeline.clip import choose_precision
from react_pipeline.corpus import ShardLocation
from react_pipeline.extensions.pages import write_page
from react_pipeline.extensions.predict.encoding import Part, encode_pictures
from react_pipeline.extensions.predict.pictures import (
    LedgerRow,
    Picture,
    find_pictures,
    find_shards,
    hash_pictures,
    pictures_of_shard,
)
from react_pipeline.extensions.predict.run_folder import (
    LABELS,
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
from react_pipeline.project import Project, cluster, require_shared, spread
from react_pipeline.store import CorpusError, InputError, Scratch, remove, rename_synced
from react_pipeline.use import UNKNOWN, Classifier, is_exported, margins

Rows = Callable[[Part], pa.Table]
"""Maps encoded pictures to the table that is written of them, a row for each picture."""

Arguments = tuple[str, str, str | None]
"""Source, model and config for `Classifier.load`."""

LEDGER = b"skipped"
"""In the metadata of a file of labels: what was skipped, as JSON."""


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
        classifier = _uncalibrated(classifier)
    return _run(classifier, source, output, options, PREDICTIONS, _label_rows(classifier, options))


def embed_pictures(classifier: Classifier, source: str, output: Path, options: Options) -> Done:
    """Write the unit vector (D,), float32, of every picture; as `predict_pictures` otherwise."""
    return _run(_uncalibrated(classifier), source, output, options, VECTORS, _vector_rows)


def _vector_rows(part: Part) -> pa.Table:
    flat, dimension = part.vectors.reshape(-1), part.vectors.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(flat, dimension)
    return pa.table({"path": pa.array(part.names, pa.string()), "vector": vectors})


def _uncalibrated(classifier: Classifier) -> Classifier:
    """Return the same without a temperature, which was fitted on pictures judged alone."""
    return replace(classifier, temperature=None, calibrated_on="")


def _label_rows(classifier: Classifier, options: Options) -> Rows:
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
        if options.transductive and part.names:
            similarities = transduce(part.vectors, classifier.head)
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


def _run(
    classifier: Classifier, source: str, output: Path, options: Options, name: str, rows: Rows
) -> Done:
    pictures, refused = find_pictures(source, options.column)
    clip = classifier.clip

    def work(folder: Path, record: dict[str, Any]) -> tuple[int, dict[str, int]]:
        # The precision that `auto` came to is measured, so a run that resumes keeps it.
        precision = choose_precision(classifier.precision, clip.device)
        precision = record.setdefault("precision", precision)
        record["column"] = options.column  # `labels export` finds the pictures again
        write_record(output, record)
        parts = encode_pictures(clip, pictures, folder, precision, options)
        if options.transductive:
            parts = iter([Part.joined(parts)])
        ledger = list(refused)
        used = 0
        file = folder / f"{name}.parquet"
        none = Part([], np.zeros((0, clip.dimension), np.float32), [])
        with pq.ParquetWriter(file, rows(none).schema) as writer:
            for part in parts:
                table = rows(part)
                writer.write_table(table)
                used += len(table)
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

    about = {"output": name, "source": source, "pictures": hash_pictures(pictures)}
    return _finish(classifier, output, options, about, work)


def _finish(
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
    with held_run(output, identity) as record:
        if "used" not in record:
            write_record(output, record)
            (output / WORK).mkdir(exist_ok=True)
            record["used"], record["skipped"] = work(output / WORK, record)
            write_record(output, record)
        remove(output / WORK)
    return Done(record["used"], record["skipped"], classifier.calibration)


def shared_arguments(source: str, model: str, config: Path | None) -> Arguments:
    """Return arguments of `Classifier.load` by paths that hold on every machine."""
    if is_exported(source):
        source = str(Path(source).expanduser().absolute())
    elif config is None:
        config = Project.load().path
    return source, model, str(config.absolute()) if config else None


@lru_cache(maxsize=1)
def _load(arguments: Arguments, fingerprint: str) -> Classifier:
    """Load the classifier, once a process."""
    source, model, config = arguments
    classifier = Classifier.load(source, model, config=config)
    if classifier.origin.fingerprint != fingerprint:
        raise InputError(
            f"{source}: the model is now {classifier.origin}, and the run began with "
            f"{fingerprint}: name a method by --model, and run again"
        )
    return classifier


def predict_shards(
    classifier: Classifier, arguments: Arguments, source: str, output: Path, options: Options
) -> Done:
    """Classify the pictures of each shard of a source; see the files above. A killed run resumes
    when it is called again; a shard that cannot be read is a line of the ledger.

    Args:
        arguments: Arguments with which each task loads `classifier`.

    Raises:
        InputError: If the source is not made of shards, or the folder holds something else.
        SourceUnavailable: If a server does not answer.
    """
    if options.transductive:
        raise InputError("--transductive judges all pictures together; leave out --by-shard")
    _label_rows(classifier, options)  # refused here, not by each task
    shards = find_shards(source)

    def work(*_: Any) -> tuple[int, dict[str, int]]:
        folder = (output / LABELS).resolve()
        folder.mkdir(exist_ok=True)
        label = partial(label_shard, arguments, classifier.origin.fingerprint, options, folder)
        with cluster(options.distributor):
            counted = spread(label, list(enumerate(shards)), f"labelling {source}")
        for record in folder.glob(".*"):
            remove(record)
        skipped = write_ledger(output, [row for _, rows in counted for row in rows])
        return sum(used for used, _ in counted), skipped

    stamp = hash_pictures([Picture(str(shard), shard) for shard in shards])
    about = {"output": LABELS, "source": source, "pictures": stamp}
    return _finish(classifier, output, options, about, work)


def label_shard(
    arguments: Arguments,
    fingerprint: str,
    options: Options,
    folder: Path,
    item: tuple[int, ShardLocation],
) -> tuple[int, list[LedgerRow]]:
    """Label one shard, by its number and place, unless that was done before; return how many
    pictures were used, and what was not.

    It may run twice, even at once: what is complete is kept.
    """
    number, shard = item

    def write(file: Path) -> None:
        classifier = _load(arguments, fingerprint)
        try:
            pictures, ledger = pictures_of_shard(shard)
        except CorpusError as error:
            pictures, ledger = [], [(str(shard), "unreadable_shard", str(error))]
        clip, precision = classifier.clip, classifier.precision
        whole = Part.joined(encode_pictures(clip, pictures, None, precision, options))
        rows = _label_rows(classifier, options)(whole)
        skipped = json.dumps(ledger + whole.ledger)
        pq.write_table(rows.replace_schema_metadata({LEDGER: skipped}), file)

    require_shared(folder)
    path = Scratch(folder).keep(f"{number:06d}.parquet", write)
    with pq.ParquetFile(path) as kept:
        ledger = json.loads(kept.schema_arrow.metadata[LEDGER])
        return kept.metadata.num_rows, [tuple(row) for row in ledger]
