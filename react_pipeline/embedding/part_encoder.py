"""Parts of a corpus made into files: vectors of captions, and unless they wait of images, in
clip-retrieval's layout.

Does not belong here: which parts are left to do (`embed`). Shapes: N pairs of a part, D width.
"""

import shutil
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.clip import choose_device, device_counts, load  # loads torch
from react_pipeline.corpus import (
    POOL,
    ImageSource,
    ListedPair,
    Part,
    Skipped,
    too_many_failed,
)
from react_pipeline.embedding.embed import require_clip_retrieval
from react_pipeline.embedding.encoder import Encoder
from react_pipeline.embedding.images import encode_fetched, read_ahead, require_unit
from react_pipeline.embedding.vectors import DIGITS, FOLDERS, Side, Vectors, part_file
from react_pipeline.settings import CorpusConfig, PipelineConfig
from react_pipeline.store import Artifact, CorpusError

require_clip_retrieval()
with warnings.catch_warnings():
    # clip-retrieval imports packages that warn of their own age.
    warnings.simplefilter("ignore")
    from clip_retrieval.clip_inference.writer import NumpyWriter

MAX_FIELD_NAMES = 256
"""How many different metadata fields one part keeps."""
TOKENS_AHEAD = 4
"""Batches of captions that are tokens before they are encoded."""
_EXAMPLES = 3


@lru_cache(maxsize=1)
def load_encoder(checkpoint: Path, device: str, precision: str, rows: int) -> Encoder:
    """Load the encoder once a process: a cluster gives a process many tasks."""
    return Encoder(load(checkpoint, choose_device(device)), precision, rows=rows)


@dataclass(frozen=True)
class PartEncoder:
    """Encodes parts of one corpus with one checkpoint; can be sent to other processes."""

    config: PipelineConfig
    checkpoint: Path
    corpus: Artifact
    rows: int
    captions: Artifact | None = None
    """Embeddings that have the vectors of all captions."""

    @property
    def encoder(self) -> Encoder:
        """Return the loaded checkpoint."""
        config = self.config
        precision = config.embedding.precision
        return load_encoder(self.checkpoint, config.device, precision, self.rows)

    @cached_property
    def _source(self) -> ImageSource:
        return self.config.corpus.open_images(self.corpus, self.corpus.store.root / POOL)

    def write(self, part: Part, folder: Path) -> dict[str, Any]:
        """Write the files of a part and return its record: counts, and a row of the ledger for each
        sample that was skipped.

        Raises:
            CorpusError: If too many samples are bad, or a vector is not finite or zero.
        """
        began = time.perf_counter()
        kind = self.config.corpus
        listing = part.read(kind)
        longest = kind.max_caption_chars
        cut = sum(len(pair.caption) > longest for pair in listing.pairs)
        table = _table(listing.pairs, longest)
        skipped = list(listing.skipped)
        vectors: dict[Side, NDArray[Any]] = {}
        if not self.config.images_wait and len(table):
            vectors["image"], failed = self._encode_images(table)
            skipped += [self._skipped(listing.pairs[row], *why) for row, *why in failed]
            table = table[table["image_sha256"] != ""]
        record = {
            "digest": part.digest,
            "rows": len(table),
            "reasons": dict(Counter(one.reason for one in skipped)),
            "ledger": [(part.number, *one) for one in skipped],
            "captions_cut": cut,
            "metadata_ignored": listing.metadata_ignored,
        }
        require_good(kind, part, record)  # before it is kept, so that it is tried again
        if len(table):
            if self.captions is None:
                vectors["text"] = self._encode_captions(table)
            else:
                name = part_file(FOLDERS["text"], part.number)
                vectors["text"] = np.load(self.captions.file(name))[table.index]
            _write(folder, part.number, table, vectors)
        return {
            **record,
            "seconds": time.perf_counter() - began,
            **device_counts(self.encoder.clip.device),
            "precision": self.encoder.precision,
        }

    def _encode_images(self, table: pd.DataFrame) -> tuple[NDArray[np.float16], list[Any]]:
        """Encode the images of a part, and set the digest of each; with row, reason and detail of
        those that cannot be used.
        """
        source = self._source
        asked = table.assign(row=table.index)
        sha256, vectors = encode_fetched(source, asked, self.encoder, self.config)
        rows = np.array(list(sha256), np.int64)
        table.loc[rows, "image_sha256"] = list(sha256.values())
        failed = source.ledger.set_index("row").loc[table.index[table["image_sha256"] == ""]]
        failures = failed[["reason", "detail"]].itertuples(name=None)
        return vectors[np.argsort(rows)], list(failures)

    def _skipped(self, pair: ListedPair, reason: str, detail: str) -> Skipped:
        kind = self.config.corpus
        # A field `url` in a tar is the author's: the place to look at is the shard.
        url = pair.fields.get("url", "") if kind.is_listed else ""
        return Skipped(pair.key, reason, detail, kind.source_of(pair.fields) or url)

    def _encode_captions(self, table: pd.DataFrame) -> Vectors:
        """Encode captions; a thread makes their tokens."""
        size = self.config.embedding.batch_size
        captions = table["caption"].tolist()
        clip = self.encoder.clip
        batches = (captions[start : start + size] for start in range(0, len(captions), size))
        with closing(read_ahead(map(clip.tokenizer, batches), TOKENS_AHEAD)) as tokens:
            encoded = np.concatenate([self.encoder.texts(batch).numpy() for batch in tokens])
        require_unit(encoded, table["image_path"])
        return encoded


def require_good(kind: CorpusConfig, part: Part, record: Mapping[str, Any]) -> None:
    """Refuse a part if too many of its samples are bad.

    Raises:
        CorpusError: Naming the shard, how many there are and what they are.
    """
    bad = Counter(record["reasons"]), record["rows"]
    # A shard that was copied from the user's files is no place to look at, and nothing to remove.
    sources = [row[4] for row in record["ledger"] if row[4]][:_EXAMPLES]
    place = "corpus" if sources or kind.is_listed else part.content
    if kind.is_listed:
        problem = too_many_failed(*bad, kind.downloads().max_failed_fraction)
    else:
        remedy = (
            f"fix or remove {', '.join(sources) or 'the shard'}, or raise `corpus.max_bad_fraction`"
        )
        problem = too_many_failed(*bad, kind.max_bad_fraction, remedy)
    if problem:
        raise CorpusError(f"{place}: {problem}")


def _table(pairs: Sequence[ListedPair], longest: int) -> pd.DataFrame:
    names = dict.fromkeys(name for pair in pairs for name in pair.fields)
    table = pd.DataFrame([pair.fields for pair in pairs], columns=list(names)[:MAX_FIELD_NAMES])
    table.insert(0, "image_path", [pair.key for pair in pairs])
    table.insert(1, "caption", [pair.caption[:longest].strip() for pair in pairs])
    return table.assign(image_sha256="")


def _write(
    folder: Path, number: int, table: pd.DataFrame, vectors: Mapping[Side, NDArray[Any]]
) -> None:
    """Write the files of a part by clip-retrieval's own writer; vectors become float16."""
    no_images = np.empty((len(table), 0))
    writer = NumpyWriter(number, str(folder), True, True, True, 10 ** (DIGITS - 1))
    fields = table.drop(columns=["image_path", "caption"])
    writer(
        {
            "image_filename": table["image_path"],
            "image_embs": vectors.get("image", no_images).astype(np.float16),
            "text": table["caption"],
            "text_embs": vectors["text"].astype(np.float16),
            "metadata": fields.to_json(
                orient="records", lines=True, double_precision=15
            ).splitlines(),
        }
    )
    writer.flush()
    if "image" not in vectors:  # it names pairs only where it writes vectors of images
        shutil.rmtree(folder / FOLDERS["image"])
