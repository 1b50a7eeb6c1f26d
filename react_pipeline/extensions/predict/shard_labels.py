"""Predictions for many webdataset shards, one file of labels a shard: here, or on a cluster.

Belongs here: the task of one shard, and the folder of a run. Does not belong here: the columns
(`predict`), decoding and encoding (`encoding`).

The folder::

    labels/000017.parquet   of shard 17 of SOURCE: path, predicted, confidence, ... as of `predict`
    ledger.csv              what could not be used: path, reason, detail
    run.json                model, source, and whether the run is finished
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow.parquet as pq

from react_pipeline.corpus import ShardLocation
from react_pipeline.extensions.predict.encoding import joined, write_whole
from react_pipeline.extensions.predict.pictures import (
    LedgerRow,
    Picture,
    identity_of,
    pictures_of_shard,
    shards_of,
)
from react_pipeline.extensions.predict.predict import (
    Done,
    Options,
    encode,
    finish,
    label_rows,
)
from react_pipeline.extensions.predict.run_folder import (
    LABELS,
    write_ledger,
)
from react_pipeline.project import Project, cluster, require_shared, spread
from react_pipeline.store import CorpusError, InputError
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
        """As `Classifier.load` was called on this machine, by paths that hold on every one."""
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
    stamp = identity_of([Picture(str(shard), shard) for shard in shards])

    def work(_: object) -> tuple[int, dict[str, int]]:
        (output / LABELS).mkdir(exist_ok=True)
        task = ShardTask(loading, options, (output / LABELS).resolve())
        with cluster(options.distributor):
            counted = spread(task, list(enumerate(shards)), f"labelling {source}")
        skipped = write_ledger(output, [row for _, rows in counted for row in rows])
        return sum(used for used, _ in counted), skipped

    about = {"output": LABELS, "source": source, "pictures": stamp}
    return finish(classifier, output, options, about, work)


@dataclass(frozen=True)
class ShardTask:
    """Labels one shard, unless that was done before; an item is its number and its place.

    It may run twice, even at once: it moves what is complete.
    """

    loading: Loading
    options: Options
    folder: Path

    def __call__(self, item: tuple[int, ShardLocation]) -> tuple[int, list[LedgerRow]]:
        """Return how many pictures were used, and what was not."""
        require_shared(self.folder)
        number, shard = item
        path = self.folder / f"{number:06d}.parquet"
        if not path.exists():
            self._label(shard, path)
        with pq.ParquetFile(path) as file:
            ledger = json.loads(file.schema_arrow.metadata[LEDGER])
            return file.metadata.num_rows, [tuple(row) for row in ledger]

    def _label(self, shard: ShardLocation, path: Path) -> None:
        classifier = _load(self.loading)
        try:
            pictures, ledger = pictures_of_shard(shard)
        except CorpusError as error:
            pictures, ledger = [], [(str(shard), "unreadable_shard", str(error))]
        parts = encode(classifier, pictures, self.options, classifier.precision, None)
        whole = joined(parts, classifier.clip.dimension)
        rows = label_rows(classifier, self.options)(whole)
        file = io.BytesIO()
        skipped = json.dumps(ledger + whole.ledger)
        pq.write_table(rows.replace_schema_metadata({LEDGER: skipped}), file)
        write_whole(path, file.getvalue())
