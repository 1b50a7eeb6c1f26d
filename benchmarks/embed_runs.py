"""The three ways to embed that `benchmarks.embed` compares: clip-retrieval, ours, and the bare
forward pass.

Each is called to embed everything once and gives the seconds it took; nothing is compared or
reported here. Shapes: N pairs, D embedding
dimension, B images, L token ids of a text.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from benchmarks import embed_inputs
from react_pipeline.clip import Clip, load, publish_base
from react_pipeline.corpus import decode_image, publish_corpus
from react_pipeline.embedding import FOLDERS, embed_corpus, read_metadata
from react_pipeline.embedding.vectors import StoredVectors
from react_pipeline.project import Project
from react_pipeline.store import Artifact

Vectors = dict[str, npt.NDArray[np.float64]]
"""Unit rows (N, D) by side, in the order of keys."""


@dataclass(frozen=True)
class Batch:
    """Images (B, 3, H, W), normalised, and token ids (B, L), in memory."""

    images: Tensor
    tokens: Tensor

    @classmethod
    def read(cls, shards: Path, clip: Clip) -> list[Batch]:
        """A batch of each shard."""
        batches = []
        for path in sorted(shards.glob("*.tar")):
            images, texts = [], []
            with tarfile.open(path) as tar:
                for member in tar:
                    data = tar.extractfile(member).read()  # type: ignore[union-attr] # all are files
                    if member.name.endswith(".jpg"):
                        images.append(clip.preprocess(decode_image(data, 10**7)))
                    else:
                        texts.append(data.decode())
            batches.append(cls(torch.stack(images), clip.tokenizer(texts)))
        return batches


class Theirs:
    """clip-retrieval over the shards; a call gives the seconds its runner counted."""

    def __init__(
        self, pattern: str, checkpoint: Path, output: Path, given: argparse.Namespace
    ) -> None:
        """Load and warm up, as it does."""
        from all_clip.main import load_clip_without_warmup
        from clip_retrieval.clip_inference import worker

        self.output = output
        self.figures: Counter[str] = Counter()
        worker.LoggerWriter = self._logger
        model = f"open_clip:{embed_inputs.ARCHITECTURE}/{checkpoint}"
        # The arguments under which it looks the model up again.
        load_clip_without_warmup(model, False, given.device, None)[0].eval()
        self._run = lambda: worker.worker(
            tasks=[0],
            input_dataset=pattern,
            output_folder=str(output),
            output_partition_count=1,
            input_format="webdataset",
            batch_size=given.batch,
            num_prepro_workers=given.workers,
            enable_metadata=False,
            wds_image_key="jpg",
            clip_model=model,
            use_jit=False,
        )

    def __call__(self) -> float:
        """Embed all shards."""
        shutil.rmtree(self.output, ignore_errors=True)
        self.figures.clear()
        with contextlib.redirect_stdout(io.StringIO()):
            self._run()
        return self.figures["total_duration"]

    def _logger(self, *_args: Any, **_options: Any) -> Any:
        figures = self.figures

        class Logger:
            def start(self) -> None: ...

            def end(self) -> None: ...

            def __call__(self, stats: dict[str, float]) -> None:
                figures.update(stats)

        return Logger()

    def vectors(self) -> Vectors:
        """What the last call wrote."""
        keys = pd.read_parquet(self.output / "metadata" / "metadata_0.parquet")[
            "image_path"
        ].tolist()
        files = {side: self.output / folder / f"{folder}_0.npy" for side, folder in FOLDERS.items()}
        return {side: unit_rows(np.load(path), keys) for side, path in files.items()}


class Ours:
    """Our embedding over the shards; a call gives the seconds from one group to the next.

    Ours reads ahead, so the runner would not count the wait for a group's first batch, which
    clip-retrieval's does.
    """

    def __init__(self, path: Path) -> None:
        """Publish corpus and base, which every call uses."""
        self.project = Project.load(path)
        self.artifact: Artifact | None = None
        publish_corpus(self.project)
        publish_base(self.project)

    def __call__(self) -> float:
        """Embed all shards; nothing of an earlier call is taken over."""
        if self.artifact is not None:
            shutil.rmtree(self.artifact.path)
        self.artifact = artifact = embed_corpus(self.project)
        return float(artifact.counts["seconds"])

    def clip(self) -> Clip:
        """The model."""
        return load(self.project.store.current("base_checkpoint", "all").path)

    def vectors(self) -> Vectors:
        """What the last call published."""
        assert self.artifact is not None
        keys = read_metadata(self.artifact, ["image_path"])["image_path"].tolist()
        rows = np.arange(self.artifact.counts["rows"])
        stored = {side: StoredVectors(self.artifact, side) for side in FOLDERS}
        return {side: unit_rows(vectors.take(rows), keys) for side, vectors in stored.items()}


def unit_rows(vectors: npt.NDArray[Any], keys: list[str]) -> npt.NDArray[np.float64]:
    """Unit rows in the order of keys."""
    rows = vectors[np.argsort(keys)].astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def bare(clip: Clip, batches: list[Batch], *, bf16: bool) -> Callable[[], float]:
    """The model's own forward pass over batches in memory."""

    def take() -> float:
        began = time.perf_counter()
        with (
            torch.inference_mode(),
            torch.autocast(clip.device, dtype=torch.bfloat16, enabled=bf16),
        ):
            for batch in batches:
                clip.model.encode_image(batch.images, normalize=True)
                clip.model.encode_text(batch.tokens, normalize=True)
        return time.perf_counter() - began

    return take
