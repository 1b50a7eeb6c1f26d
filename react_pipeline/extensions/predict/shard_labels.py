"""Predictions for many webdataset shards, one file of labels a shard: here, or on a cluster.

Belongs here: the task of one shard, and the folder of a run. Does not belong here: the columns
(`predict`), decoding and encoding (`encoding`).

The folder::

    labels/000017.parquet   of shard 17 of SOURCE: path, predicted, confidence, ... as of `predict`
    ledger.csv              what could not be used: path, reason, detail
    run.json                model, source, and whether the run is finished
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from react_pipeline.corpus import ShardLocation
from react_pipeline.embedding import Encoder
from react_pipeline.extensions.predict.encoding import LEDGER, encode_pictures, read_parts
from react_pipeline.extensions.predict.pictures import (
    LedgerRow,
    Picture,
    identity_of,
    pictures_of_shard,
    shards_of,
)
from react_pipeline.extensions.predict.predict import (
    CPU_BATCH,
    GPU_BATCH,
    Done,
    Options,
    identity_of_run,
    label_columns,
    write_ledger,
)
from react_pipeline.extensions.predict.run_folder import LABELS, held_run, write_record
from react_pipeline.project import Project, cluster, require_shared, spread
from react_pipeline.store import CorpusError, InputError, rename_synced
from react_pipeline.use import Classifier, is_exported


@dataclass(frozen=True)
class Loading:
    """The arguments of `Classifier.load`, and the fingerprint of what it must give."""

    source: str
    model: str
    config: str | None
    fingerprint: str

    @classmethod
    def of(cls, source: str, model: str, config: Path | None, classifier: Classifier) -> Loading:
        """As `Classifier.load` was called on this machine, by paths that hold on every one."""
        if is_exported(source):
            source = str(Path(source).expanduser().absolute())
        elif config is None:
            config = Project.load().path
        place = str(config.absolute()) if config else None
        return cls(source, model, place, classifier.origin.fingerprint)

    def load(self) -> Classifier:
        """The classifier; a process loads it once."""
        if self not in _loaded:
            config = self.config and Path(self.config)
            classifier = Classifier.load(self.source, self.model, config=config)
            if classifier.origin.fingerprint != self.fingerprint:
                raise InputError(
                    f"{self.source}: the model is now {classifier.origin}, and the run began with "
                    f"{self.fingerprint}: name the version by --model, and run again"
                )
            _loaded.clear()
            _loaded[self] = classifier
        return _loaded[self]


_loaded: dict[Loading, Classifier] = {}


def predict_shards(
    loading: Loading, classifier: Classifier, source: str, output: Path, options: Options
) -> Done:
    """Classify the pictures of each shard of a source; see the files above. A killed run resumes
    when it is called again; a shard that cannot be read is a line of the ledger.

    Args:
        loading: How the tasks load `classifier`.

    Raises:
        InputError: If the source is not made of shards, or the folder holds something else.
        SourceUnavailable: If a server does not answer.
    """
    if options.transductive:
        raise InputError("--transductive judges all pictures together; leave out --by-shard")
    label_columns(classifier, options)  # refused here, not by each task
    shards = shards_of(source, options.storage)
    stamp = identity_of([Picture(str(shard), shard) for shard in shards])
    identity = identity_of_run(classifier, source, options, LABELS, stamp)
    with held_run(output, identity, options.overwrite) as record:
        if "used" not in record:
            write_record(output, record)
            (output / LABELS).mkdir(exist_ok=True)
            task = ShardTask(loading, options, (output / LABELS).resolve())
            items = list(enumerate(shards))
            with cluster(options.distributor):
                counted = spread(task, items, f"labelling {source}")
            ledger = [row for _, rows in counted for row in rows]
            write_ledger(output / f".{LABELS}", ledger)
            rename_synced(output / f".{LABELS}", output / "ledger.csv")
            skipped = dict(Counter(reason for _, reason, _ in ledger).most_common())
            record |= {"used": sum(used for used, _ in counted), "skipped": skipped}
            write_record(output, record)
    return Done(record["used"], record["skipped"], classifier.calibration)


@dataclass(frozen=True)
class ShardTask:
    """Labels one shard, unless that was done before; an item is its number and its place.

    It may run twice, even at once: it works in a folder of its own, and moves what is complete.
    """

    loading: Loading
    options: Options
    folder: Path

    def __call__(self, item: tuple[int, ShardLocation]) -> tuple[int, list[LedgerRow]]:
        """The number of pictures that were used, and what was not."""
        require_shared(self.folder)
        number, shard = item
        path = self.folder / f"{number:06d}.parquet"
        if not path.exists():
            work = self.folder / f".{number:06d}-{uuid4().hex}"
            try:
                self._label(shard, work)
                rename_synced(work / "labels.parquet", path)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        with pq.ParquetFile(path) as file:
            ledger = json.loads(file.schema_arrow.metadata[LEDGER])
            return file.metadata.num_rows, [tuple(row) for row in ledger]

    def _label(self, shard: ShardLocation, work: Path) -> None:
        classifier = self.loading.load()
        columns = label_columns(classifier, self.options)
        try:
            pictures, ledger = pictures_of_shard(shard)
        except CorpusError as error:
            pictures, ledger = [], [(str(shard), "unreadable_shard", str(error))]
        on_cpu = classifier.clip.device == "cpu"
        encode_pictures(
            Encoder(classifier.clip, classifier.precision),
            pictures,
            work,
            columns,
            batch_size=CPU_BATCH if on_cpu else GPU_BATCH,
            workers=self.options.workers,
            max_pixels=self.options.max_pixels,
        )
        nothing = columns(np.zeros((0, classifier.clip.dimension), np.float32))
        tables = [pa.table({"path": pa.array([], pa.string()), **nothing})]
        for table, skipped in read_parts(work):
            tables.append(table)
            ledger += skipped
        labels = pa.concat_tables(tables).replace_schema_metadata({LEDGER: json.dumps(ledger)})
        pq.write_table(labels, work / "labels.parquet")
