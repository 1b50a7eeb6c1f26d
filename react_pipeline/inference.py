"""The parts that clip-retrieval's `Runner` drives: a reader of pairs, a mapper around our model, a logger.

Belongs here: batches in, unit vectors out. Does not belong here: which samples are read, what is published (`embed`).

clip-retrieval's own `WebdatasetReader` is not used: it admits one image extension, drops broken samples without a
trace, and hands shard names to a library that runs some of them in a shell. Its mapper never puts a model into eval
mode; its logger spawns a process and imports wandb.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from react_pipeline.config import CorpusConfig
from react_pipeline.errors import CorpusError
from react_pipeline.pairs import BadSample, read_pair
from react_pipeline.shards import Sample

if TYPE_CHECKING:
    from react_pipeline.model import Clip

MAX_FIELD_NAMES = 256
"""How many different metadata fields one group of shards keeps."""

_TEXT_BATCH = 64

LedgerRow = tuple[int, str, str, str]
"""Shard, key, reason, detail of a sample that was skipped."""


class PairDataset:
    """Samples (shard, sample), each read and decoded when asked for: a map-style dataset of torch."""

    def __init__(
        self,
        samples: list[tuple[int, Sample]],
        paths: list[Path],
        corpus: CorpusConfig,
        preprocess: Callable[..., Any],
    ) -> None:
        """Open no file yet: each worker opens its own."""
        self.samples = samples
        self.paths = paths
        self.corpus = corpus
        self.preprocess = preprocess
        self._open: tuple[int, IO[bytes]] | None = None

    def __len__(self) -> int:
        """How many samples, good or bad."""
        return len(self.samples)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """One row of a batch, or {"skipped": ledger row}."""
        shard, sample = self.samples[position]
        try:
            pair = read_pair(self._file(shard), sample, self.corpus)
        except BadSample as error:
            return {"skipped": (shard, sample.key, error.reason, error.detail)}
        image, caption = sample.image, sample.caption
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
            "image_tensor": self.preprocess(pair.image),
            "image_filename": sample.key,
            "text": pair.caption,
            "ours": ours,
            "fields": pair.fields,
            "captions_cut": pair.caption_cut,
            "metadata_ignored": pair.metadata_ignored,
        }

    def _file(self, shard: int) -> IO[bytes]:
        if self._open is None or self._open[0] != shard:
            if self._open is not None:
                self._open[1].close()
            try:
                self._open = (shard, self.paths[shard].open("rb"))
            except OSError as error:
                raise CorpusError(f"{self.paths[shard]}: cannot be read ({error.strerror or error})") from error
        return self._open[1]


def _collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    import torch

    good = [row for row in rows if "skipped" not in row]
    batch: dict[str, Any] = {name: [row[name] for row in good] for name in ("image_filename", "text", "ours", "fields")}
    batch["image_tensor"] = torch.stack([row["image_tensor"] for row in good]) if good else None
    batch["skipped"] = [row["skipped"] for row in rows if "skipped" in row]
    batch["counts"] = {name: sum(row[name] for row in good) for name in ("captions_cut", "metadata_ignored")}
    return batch


class PairReader:
    """Iterates over batches of pairs, as clip-retrieval's readers do, in the order of the samples.

    Attributes:
        ledger: What was skipped so far.
        counts: `captions_cut` and `metadata_ignored` so far.
    """

    def __init__(self, dataset: PairDataset, batch_size: int, workers: int, *, pin_memory: bool = False) -> None:
        """Decode in `workers` processes, or in this one with 0."""
        self.dataset = dataset
        self.batch_size = batch_size
        # A process for less than a batch would only cost its start.
        self.workers = min(workers, len(dataset) // batch_size)
        self.pin_memory = pin_memory
        self.ledger: list[LedgerRow] = []
        self.counts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches: image_tensor (B, 3, H, W) float32, image_filename, text, metadata (JSON), ours (our columns)."""
        from torch.utils.data import DataLoader

        names: dict[str, None] = {}
        loader: DataLoader[Any] = DataLoader(
            self.dataset,  # type: ignore[arg-type] # a dataset by its methods, so that torch stays unloaded above
            self.batch_size,
            num_workers=self.workers,
            collate_fn=_collate,
            pin_memory=self.pin_memory,
        )
        for batch in loader:
            self.ledger += batch["skipped"]
            self.counts.update(batch["counts"])
            if batch["image_tensor"] is None:
                continue
            for fields in batch["fields"]:
                names.update(dict.fromkeys(list(fields)[: MAX_FIELD_NAMES - len(names)]))
            batch["metadata"] = [
                json.dumps({**{name: value for name, value in fields.items() if name in names}, **ours})
                for fields, ours in zip(batch["fields"], batch["ours"], strict=True)
            ]
            yield batch


class ClipMapper:
    """Turns a batch into unit vectors (B, D) float16 of images and captions."""

    def __init__(self, clip: Clip, precision: str, paths: list[Path]) -> None:
        """Compute in `precision` (`fp32` or `bf16`); `paths` of the shards are for messages."""
        self.clip = clip
        self.precision = precision
        self.paths = paths

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encode one batch into what clip-retrieval's writers take.

        Raises:
            CorpusError: If a vector is not finite or zero, naming shard and key.
        """
        import torch

        with torch.autocast(self.clip.device, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            images = self.clip.encode_images(batch["image_tensor"])
            # Small batches of captions of like length waste little on padding.
            texts = self.clip.encode_texts(batch["text"], batch_size=_TEXT_BATCH)
        return {
            "image_embs": self._checked(images.numpy(), "image", batch),
            "text_embs": self._checked(texts.numpy(), "caption", batch),
            "image_filename": batch["image_filename"],
            "text": batch["text"],
            "metadata": batch["metadata"],
        }

    def _checked(self, vectors: npt.NDArray[np.float32], what: str, batch: dict[str, Any]) -> npt.NDArray[np.float16]:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        # The rows come normalised: anything far from 1 was zero, infinite or NaN.
        wrong = np.flatnonzero(~(np.abs(norms[:, 0] - 1) < 0.1))
        if len(wrong):
            row = int(wrong[0])
            raise CorpusError(
                f"{self.paths[batch['ours'][row]['shard']]}: the encoder gives a vector of length {norms[row, 0]} for "
                f"the {what} of key {batch['image_filename'][row]!r}; check the checkpoint, or use "
                "`embedding.precision: fp32`"
            )
        return (vectors / norms).astype(np.float16)


class StatsLogger:
    """Sums the runner's figures into `stats/N.json`, as clip-retrieval's logger does, and moves a progress bar on."""

    def __init__(self, path: Path, bar: Any) -> None:
        """Write to `path` at the end; `bar` is tqdm's."""
        self.path = path
        self.bar = bar
        self.stats: Counter[str] = Counter()

    def start(self) -> None:
        """Make the folder."""
        self.path.parent.mkdir(exist_ok=True)

    def __call__(self, stats: dict[str, float]) -> None:
        """Add the figures of one batch."""
        self.stats.update(stats)
        self.bar.update(stats["sample_count"])

    def end(self) -> None:
        """Write the sums."""
        self.path.write_text(json.dumps(self.stats))
