"""The pairs of a training: captions in memory, images read from the collected shards and decoded in workers.

Belongs here: reading, decoding and augmenting images in the order that is asked for. Does not belong here: collecting
the shards (`collect`), the order (`schedule`), the loop (`customize`). Shapes: B images of a batch, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from react_pipeline.corpus import decode_image, locate_pairs
from react_pipeline.store import Artifact
from react_pipeline.training.augmentation import Augment

MAX_PIXELS = 1 << 30
"""The configured cap was applied when the pair was embedded; this one only guards memory."""

Draw = tuple[int, int]
"""Position of a pair, and the view of it: 0 is the image as it is, every other number another augmentation."""


class TrainingPairs:
    """Pairs of a retrieved or control set, in the order of their shards; images stay on disk until asked for.

    Attributes:
        classes: Class that each pair was retrieved for; empty strings in a control set.
        rows: Row number of each pair in the corpus.
    """

    def __init__(self, artifact: Artifact) -> None:
        """List the pairs: about 28 bytes a pair beside its caption."""
        located = list(locate_pairs(artifact))
        self._paths = sorted({pair.path for pair in located})
        number = {path: position for position, path in enumerate(self._paths)}
        self._shards = np.array([number[pair.path] for pair in located], dtype=np.int32)
        self._offsets = np.array([pair.offset for pair in located], dtype=np.int64)
        self._sizes = np.array([pair.size_bytes for pair in located], dtype=np.int64)
        self.rows = np.array([pair.row for pair in located], dtype=np.int64)
        # Arrow keeps texts in one buffer: workers that fork share it, which they do not with Python's own objects.
        self.captions: Sequence[str] = _Texts([pair.caption for pair in located])
        self.classes: Sequence[str] = _Texts([pair.label for pair in located])

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._offsets)

    def encoded(self, position: int) -> bytes:
        """The bytes of one image's file."""
        with self._paths[self._shards[position]].open("rb") as file:
            file.seek(int(self._offsets[position]))
            return file.read(int(self._sizes[position]))

    def decoded(self, position: int) -> Image.Image:
        """One image, RGB."""
        return decode_image(self.encoded(position), MAX_PIXELS)


class _Texts(Sequence[str]):
    """Texts by position; slices are not needed."""

    def __init__(self, texts: list[str]) -> None:
        self._array = pa.array(texts, pa.large_string())

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, position: int) -> str:  # type: ignore[override]
        return self._array[position].as_py()


class Views(Dataset[Tensor]):
    """Images of pairs as tensors (3, H, W); equal draws give equal tensors, in whatever process and order."""

    def __init__(
        self, pairs: TrainingPairs, preprocess: Callable[[Image.Image], Tensor], augment: Augment, seed: int
    ) -> None:
        """Augment with seeds that depend on `seed`, the pair and the view alone."""
        self.pairs = pairs
        self._preprocess = preprocess
        self._augment = augment
        self._seed = seed

    def __getitem__(self, draw: Draw) -> Tensor:
        """One view of one image."""
        position, view = draw
        image = self.pairs.decoded(position)
        if not view:
            return self._preprocess(image)
        seed = np.random.SeedSequence([self._seed, position, view]).generate_state(1, np.uint64)[0]
        return self._augment(image, int(seed) >> 1)

    def batches(self, draws: Iterable[Sequence[Draw]], workers: int, *, pinned: bool = False) -> Iterator[Tensor]:
        """Batches (B, 3, H, W) of the draws, in their order, decoded ahead of their use.

        Args:
            draws: The draws of each batch; taken as they are needed, so it may be endless.
            pinned: Put batches into page-locked memory, from which copies to a GPU overlap with its work.
        """
        loader = DataLoader(
            self,
            batch_sampler=draws,  # type: ignore[arg-type]
            num_workers=workers,
            pin_memory=pinned,
            prefetch_factor=2 if workers else None,
            worker_init_fn=_one_thread if workers else None,
        )
        yield from loader


def ahead(make: Callable[[int], Tensor], steps: Iterable[int]) -> Iterator[Tensor]:
    """What `make` gives for each step, made by a thread while the step before it is computed."""
    with ThreadPoolExecutor(1) as pool:
        coming: Future[Tensor] | None = None
        for step in steps:
            following = pool.submit(make, step)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
