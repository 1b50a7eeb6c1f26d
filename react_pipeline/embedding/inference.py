"""The parts that clip-retrieval's `Runner` drives: a reader of pairs, a mapper around our encoder,
a logger.

clip-retrieval's own `WebdatasetReader` is not used: it admits one image extension, drops broken
samples without a trace, and hands shard names to a library that runs some of them in a shell. Its
mapper never puts a model into eval mode; its logger spawns a process and imports wandb. Shapes: B
pairs of a batch, L token ids, D dimension, H x W pixels.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from react_pipeline.corpus import (
    BadSample,
    RemoteShard,
    Sample,
    ShardLocation,
    fields_of,
    load_batches,
    open_shard,
    read_pair,
)
from react_pipeline.embedding.embedded_shards import EmbeddedShard, LedgerRow
from react_pipeline.embedding.encoder import Encoder
from react_pipeline.embedding.parts import bad_rows
from react_pipeline.settings import CorpusConfig
from react_pipeline.store import CorpusError, ReactError

MAX_FIELD_NAMES = 256
"""How many different metadata fields one shard keeps."""

_COUNTED = ("captions_cut", "metadata_ignored")


@dataclass
class PairDataset(Dataset[dict[str, Any]]):
    """Pairs, each read and decoded when asked for: a map-style dataset of torch, whose indices are
    samples.

    Each worker opens files of its own, and runs `to_tensor` and `tokenizer`.
    """

    locations: Sequence[ShardLocation]
    corpus: CorpusConfig
    to_tensor: Callable[..., Any]
    tokenizer: Callable[..., Any]
    _open: tuple[int, BinaryIO] | None = None

    def __getitem__(self, place: tuple[int, Sample]) -> dict[str, Any]:
        """One row of a batch, or {"skipped": ledger row}, or {"failed": error}."""
        shard, sample = place
        try:
            pair = read_pair(self._file(shard), sample, self.corpus)
        except BadSample as error:
            source = self.corpus.source_of(fields_of(self._file(shard), sample))
            return {"skipped": (shard, sample.key, error.reason, error.detail, source)}
        except ReactError as error:
            # Raised in a worker it would reach the user wrapped in the worker's traceback.
            return {"failed": error}
        image = sample.image
        caption = sample.members.get(self.corpus.caption_extension_in_shards())
        assert image is not None and caption is not None  # noqa: S101 - read_pair refuses such samples
        ours = {
            "shard": shard,
            "image_offset": image.offset,
            "image_bytes": image.size_bytes,
            "caption_offset": caption.offset,
            "caption_bytes": caption.size_bytes,
            "image_sha256": pair.image_sha256,
        }
        return {
            "image_tensor": self.to_tensor(pair.image),
            "image_filename": sample.key,
            "text": pair.caption,
            "ours": ours,
            "fields": pair.fields,
            "captions_cut": pair.caption_cut,
            "metadata_ignored": pair.metadata_ignored,
        }

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Rows to a batch; `image_tensor` and `text_tokens` are None where no row is good."""
        good = [row for row in rows if "skipped" not in row and "failed" not in row]
        batch: dict[str, Any] = {"image_tensor": None, "text_tokens": None}
        for name in ("image_filename", "text", "ours", "fields"):
            batch[name] = [row[name] for row in good]
        if good:
            batch["image_tensor"] = torch.stack([row["image_tensor"] for row in good]).contiguous()
            batch["text_tokens"] = self.tokenizer(batch["text"])
        batch["skipped"] = [row["skipped"] for row in rows if "skipped" in row]
        batch["failed"] = next((row["failed"] for row in rows if "failed" in row), None)
        batch["counts"] = {name: sum(row[name] for row in good) for name in _COUNTED}
        return batch

    def _file(self, shard: int) -> BinaryIO:
        if self._open is None or self._open[0] != shard:
            if self._open is not None:
                self._open[1].close()
                self._open = None
            self._open = (shard, open_shard(self.locations[shard]))
        return self._open[1]


def read_shards(
    shards: Iterator[EmbeddedShard],
    dataset: PairDataset,
    batch_size: int,
    workers: int,
    *,
    pin_memory: bool = False,
) -> Iterator[tuple[EmbeddedShard, PairReader]]:
    """Each shard with its reader, which must be read to its end before the next.

    Batches of the next shard are read and decoded while one is still encoded, in `workers`
    processes that live as long as this runs, or in this one with 0. How much is buffered does not
    depend on how many shards there are, which are made ready in a thread, one ahead.
    """
    begun: deque[EmbeddedShard] = deque()

    def batches_of_samples() -> Iterator[list[tuple[int, Sample]]]:
        # The first workers are forked before this is asked, so none inherits a lock of the thread.
        ahead = ThreadPoolExecutor(1)
        try:
            pending = ahead.submit(next, shards, None)
            while (shard := pending.result()) is not None:
                pending = ahead.submit(next, shards, None)
                begun.append(shard)
                for start in range(0, len(shard.samples), batch_size):
                    batch = shard.samples[start : start + batch_size]
                    yield [(shard.number, sample) for sample in batch]
        finally:
            # Not joined: the garbage collector may end this in a thread that is only starting, and
            # both would wait for ever.
            ahead.shutdown(wait=False)

    batches = load_batches(
        dataset,
        batches_of_samples(),
        workers,
        dataset.collate,
        pin_memory=pin_memory,
        spawn=any(isinstance(location, RemoteShard) for location in dataset.locations),
    )
    while True:
        # Asking for the next batch is what brings the next shards in, some of which have none.
        first: Any = next(batches, None)
        while begun:
            shard = begun.popleft()
            count = -(-len(shard.samples) // batch_size)
            yield shard, PairReader(islice(chain([first], batches), count))
            if count:
                break
        else:
            if first is None:
                return


class PairReader:
    """Iterates over a shard's batches, as clip-retrieval's readers do, in the order of the samples.

    Attributes:
        counts: `captions_cut` and `metadata_ignored` so far.
    """

    def __init__(self, batches: Iterable[dict[str, Any]]) -> None:
        self._batches = batches
        self.ledger: list[LedgerRow] = []
        self.counts: Counter[str] = Counter(dict.fromkeys(_COUNTED, 0))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches: image_tensor (B, 3, H, W), text_tokens (B, L), image_filename, text, metadata
        (JSON), ours.

        Raises:
            CorpusError: If a shard cannot be read.
            SourceUnavailable: If its server does not answer.
        """
        names: dict[str, None] = {}
        for batch in self._batches:
            if batch["failed"] is not None:
                raise batch["failed"]
            self.ledger += batch["skipped"]
            self.counts.update(batch["counts"])
            if batch["image_tensor"] is None:
                continue
            for fields in batch["fields"]:
                names.update(dict.fromkeys(list(fields)[: MAX_FIELD_NAMES - len(names)]))
            batch["metadata"] = []
            for fields, ours in zip(batch["fields"], batch["ours"], strict=True):
                kept = {name: value for name, value in fields.items() if name in names}
                batch["metadata"].append(json.dumps({**kept, **ours}))
            yield batch


@dataclass
class ClipMapper:
    """Turns a batch into unit vectors (B, D) float16 of images and captions; messages name shards,
    or their sources.
    """

    encoder: Encoder
    locations: Sequence[ShardLocation]
    corpus: CorpusConfig

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encode one batch into what clip-retrieval's writers take.

        Raises:
            CorpusError: If a vector is not finite or zero, naming shard and key, or the user's
                file.
        """
        images = self.encoder.images(batch["image_tensor"])
        texts = self.encoder.texts(batch["text_tokens"])
        return {
            "image_embs": self._checked(images.numpy(), "image", batch),
            "text_embs": self._checked(texts.numpy(), "caption", batch),
            "image_filename": batch["image_filename"],
            "text": batch["text"],
            "metadata": batch["metadata"],
        }

    def _checked(
        self, vectors: npt.NDArray[np.float32], what: str, batch: dict[str, Any]
    ) -> npt.NDArray[np.float16]:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        # The rows come normalised: anything else was zero, infinite or NaN.
        for row in bad_rows(vectors).tolist():
            shard = self.locations[batch["ours"][row]["shard"]]
            place = self.corpus.source_of(batch["fields"][row])
            place = place or f"{shard}: key {batch['image_filename'][row]!r}"
            raise CorpusError(
                f"{place}: the encoder gives a vector of length {lengths[row, 0]} for the {what}; "
                "check the checkpoint, or use `embedding.precision: fp32`"
            )
        return (vectors / lengths).astype(np.float16)


@dataclass
class StatsLogger:
    """Counts the pairs that the runner has written, and moves a progress bar on."""

    bar: Any
    pairs: int = 0

    def start(self) -> None:
        """Begin; called by the runner."""

    def __call__(self, stats: dict[str, float]) -> None:
        """Add the figures of one batch."""
        self.pairs += int(stats["sample_count"])
        self.bar.update(stats["sample_count"])

    def end(self) -> None:
        """End; called by the runner."""
