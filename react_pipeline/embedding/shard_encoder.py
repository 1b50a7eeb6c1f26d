"""A model that brings shards into files: reader, encoder and writer around
clip-retrieval's `Runner`.

Does not belong here: which shards are left to do (`embed`), where it runs (`spread`), what is
recorded (`embedded_shards`).
"""

import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from react_pipeline.clip import choose_device, device_counts, load
from react_pipeline.corpus import ShardLocation
from react_pipeline.embedding.embedded_shards import EmbeddedShard
from react_pipeline.embedding.encoder import Encoder
from react_pipeline.embedding.inference import ClipMapper, PairDataset, StatsLogger, read_shards
from react_pipeline.embedding.installed import require_clip_retrieval
from react_pipeline.settings import PipelineConfig

require_clip_retrieval()
with warnings.catch_warnings():
    # clip-retrieval imports packages that warn of their own age.
    warnings.simplefilter("ignore")
    from clip_retrieval.clip_inference.runner import Runner
    from clip_retrieval.clip_inference.writer import NumpyWriter


class ShardEncoder:
    """Encodes shards of one corpus with one checkpoint.

    Attributes:
        arithmetic: `device` and `gpu` that the model is on and its `precision`, for the manifest.
    """

    def __init__(
        self,
        config: PipelineConfig,
        checkpoint: Path,
        locations: Sequence[ShardLocation],
    ) -> None:
        """Load the checkpoint; `locations` are all shards."""
        self._embedding = config.embedding
        self._count = len(locations)
        clip = load(checkpoint, choose_device(config.device))
        self._encoder = Encoder(clip, config.embedding.precision, long_run=True)
        self.arithmetic = {**device_counts(clip.device), "precision": self._encoder.precision}
        self._dataset = PairDataset(
            locations, config.corpus, self._encoder.to_tensor, clip.tokenizer
        )
        self._mapper = ClipMapper(self._encoder, locations, config.corpus)

    def encode(
        self, shards: Iterator[EmbeddedShard], directory: Path, bar: Any, pairs: int | None
    ) -> Iterator[tuple[EmbeddedShard, dict[str, Any]]]:
        """Each shard once its files are in `directory`, with what was counted; its ledger is
        complete then.

        Args:
            shards: With their headers read; asked for in a thread that reads ahead.
            directory: Gets `img_emb/`, `text_emb/` and `metadata/`.
            pairs: How many are to come at the most, if known: a process for less than a batch only
                costs its start.

        Raises:
            CorpusError: If a shard cannot be read, or a vector is not finite or zero.
            SourceUnavailable: If a server does not answer.
            ReactError: If a decoding process dies for want of memory.
        """
        size = self._embedding.batch_size
        workers = self._embedding.worker_count
        if pairs is not None:
            workers = min(workers, pairs // size)
        stream = read_shards(
            shards, self._dataset, size, workers, pin_memory=self.arithmetic["device"] == "cuda"
        )
        # Waiting for a shard's first batch, and for the workers to start, is part of what it takes.
        started = time.perf_counter()
        for shard, reader in stream:
            logger = StatsLogger(bar)
            runner = Runner(
                lambda _sampler, reader=reader: reader,
                lambda: self._mapper,
                lambda partition: NumpyWriter(
                    partition, str(directory), True, True, True, self._count
                ),
                lambda _partition, logger=logger: logger,
                self._count,
            )
            runner(shard.number)
            shard.ledger += reader.ledger
            seconds = time.perf_counter() - started
            yield shard, {"rows": logger.pairs, **reader.counts, "seconds": seconds}
            shard.samples = []
            started = time.perf_counter()
