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
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from react_pipeline.corpus import ShardLocation
from react_pipeline.extensions.predict.encoding import encode_pictures, ledger_of, no_pictures
from react_pipeline.extensions.predict.pictures import (
    LedgerRow,
    Picture,
    identity_of,
    pictures_of_shard,
    shards_of,
)
from react_pipeline.extensions.predict.predict import Done, finish, label_rows
from react_pipeline.extensions.predict.run_folder import LABELS, Options, write_ledger
from react_pipeline.project import Project, cluster, require_shared, spread
from react_pipeline.store import CorpusError, InputError, Scratch, remove
from react_pipeline.use import Classifier, is_exported

LEDGER = b"skipped"
"""In the metadata of a file of labels: what was skipped, as JSON."""


@dataclass(frozen=True)
class Loading:
    """The arguments of `Classifier.load`, and the fingerprint of what it must give."""

    source: str
    model: str
    config: str | None
    fingerprint: str

    @classmethod
    def of(cls, source: str, model: str, config: Path | None, classifier: Classifier) -> Loading:
        """Return the arguments of this machine's call, by paths that hold on every machine."""
        if is_exported(source):
            source = str(Path(source).expanduser().absolute())
        elif config is None:
            config = Project.load().path
        place = str(config.absolute()) if config else None
        return cls(source, model, place, classifier.origin.fingerprint)


@lru_cache(maxsize=1)
def _load(loading: Loading) -> Classifier:
    """Load the classifier, once a process."""
    classifier = Classifier.load(loading.source, loading.model, config=loading.config)
    if classifier.origin.fingerprint != loading.fingerprint:
        raise InputError(
            f"{loading.source}: the model is now {classifier.origin}, and the run began with "
            f"{loading.fingerprint}: name the version by --model, and run again"
        )
    return classifier


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
    label_rows(classifier, options)  # refused here, not by each task
    shards = shards_of(source, options.storage)

    def work(*_: Any) -> tuple[int, dict[str, int]]:
        task = ShardTask(loading, options, (output / LABELS).resolve())
        task.folder.mkdir(exist_ok=True)
        with cluster(options.distributor):
            counted = spread(task, list(enumerate(shards)), f"labelling {source}")
        for record in task.folder.glob(".*"):
            remove(record)
        skipped = write_ledger(output, [row for _, rows in counted for row in rows])
        return sum(used for used, _ in counted), skipped

    stamp = identity_of([Picture(str(shard), shard) for shard in shards])
    about = {"output": LABELS, "source": source, "pictures": stamp}
    return finish(classifier, output, options, about, work)


@dataclass(frozen=True)
class ShardTask:
    """Labels one shard, unless that was done before; an item is its number and its place.

    It may run twice, even at once: what is complete is kept.
    """

    loading: Loading
    options: Options
    folder: Path

    def __call__(self, item: tuple[int, ShardLocation]) -> tuple[int, list[LedgerRow]]:
        """Return how many pictures were used, and what was not."""
        require_shared(self.folder)
        number, shard = item
        label = partial(self._label, shard)
        path = Scratch(self.folder).keep(f"{number:06d}.parquet", label)
        with pq.ParquetFile(path) as file:
            ledger = json.loads(file.schema_arrow.metadata[LEDGER])
            return file.metadata.num_rows, [tuple(row) for row in ledger]

    def _label(self, shard: ShardLocation, file: Path) -> None:
        classifier = _load(self.loading)
        try:
            pictures, ledger = pictures_of_shard(shard)
        except CorpusError as error:
            pictures, ledger = [], [(str(shard), "unreadable_shard", str(error))]
        clip, precision = classifier.clip, classifier.precision
        parts = encode_pictures(clip, pictures, None, precision, self.options)
        whole = pa.concat_tables([no_pictures(clip.dimension), *parts])
        rows = label_rows(classifier, self.options)(whole)
        skipped = json.dumps(ledger + ledger_of(whole))
        pq.write_table(rows.replace_schema_metadata({LEDGER: skipped}), file)
