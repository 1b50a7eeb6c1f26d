"""Vectors that are spread like a corpus of image-text pairs, and an artifact `corpus_embeddings`
made of them.

Uniform noise would make every index look bad: in 512 dimensions all its points are about equally
far from each other. Real vectors form clusters, near a subspace, and images and texts in clouds of
their own. So each pair has a point in 64 dimensions, of which the first count most (variance 1 /
i): one of N / 50 centres (at least 16; some far larger than others) plus a spread around it. Image
and caption are that point, each moved by an own noise, mapped to 512 dimensions by one orthonormal
map, added to the offset of its cloud (the modality gap), given a little noise in all dimensions,
and brought to unit length. Prompts of a class lie around its centre, moved by their template,
without that little noise. Everything follows from the seed and the number of rows.

How hard that is: one cell of 512 finds 0.42 of the 10 nearest images of a caption among 100,000,
and 32 cells 0.95. Of the demo's own 24,252 pairs one cell of 256 finds 0.22 (images) and 0.58
(captions), 64 cells 0.96 and 0.97.

These numbers were not chosen blindly: they were changed twice after results had been seen. The
first setting (centres of length 1, spread 0.6, N / 200 centres) was too easy: a single cell found
0.87. The second (spread 1.0, noise of a pair 0.5, N / 50 centres) was so hard that cells were
slower than exact search. The third, which stayed (spread 0.8, noise of a pair 0.4, N / 50 centres,
variance 1 / i), is between the two. It is an assumption and no measurement of a web corpus: on the
demo's real vectors (24,252 pairs, 256 cells) images needed a quarter of the cells for 0.96, here a
sixteenth does for 0.95, so what cells gain on real image vectors may be less than the tables say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from react_pipeline.embedding.vectors import GROUPS_FILE
from react_pipeline.project import Project
from react_pipeline.stage import ALL, STAGES
from react_pipeline.store import Artifact, Inputs

LATENT = 64
SPREAD, PAIR_NOISE, FULL_NOISE, GAP = 0.8, 0.4, 0.02, 1.0
"""Around a centre of length 1: a pair, each side of a pair, each of the D numbers; and the length
of the offsets.
"""

TEMPLATE, REST = 0.64, 0.26
"""What a template, and what class and template together, move a prompt. Behind normalisation that
is about what the demo's text encoder gives for names and templates of ImageNet: 0.41 and 0.17 (0.44
around the mean of a class)."""

Vectors = npt.NDArray[np.float32]


class Cloud:
    """Centres, map and offsets for so many rows."""

    def __init__(self, rows: int, dimension: int = 512, seed: int = 0) -> None:
        """Draw them."""
        self.rows, self.dimension, self.seed = rows, dimension, seed
        random = np.random.default_rng([seed, rows])
        latent = min(LATENT, dimension)
        self._scale = _unit(1 / np.sqrt(np.arange(1, latent + 1))[None])
        self._centres = _unit(
            random.standard_normal((max(rows // 50, 16), latent), dtype=np.float32) * self._scale
        )
        basis, _ = np.linalg.qr(random.standard_normal((dimension, latent)))
        self._map = basis.T.astype(np.float32)
        self._offsets = GAP * _unit(random.standard_normal((2, dimension), dtype=np.float32))
        weights = 1 / np.sqrt(np.arange(1, len(self._centres) + 1))
        self._weights = weights / weights.sum()

    def pairs(self, chunk_rows: int = 50_000) -> Iterator[tuple[Vectors, Vectors]]:
        """Unit image and caption vectors of all rows, chunk by chunk."""
        for number, start in enumerate(range(0, self.rows, chunk_rows)):
            random = np.random.default_rng([self.seed, self.rows, number])
            size = min(chunk_rows, self.rows - start)
            centres = self._centres[random.choice(len(self._centres), size=size, p=self._weights)]
            points = centres + self._noise(random, size, SPREAD)
            image = points + self._noise(random, size, PAIR_NOISE)
            text = points + self._noise(random, size, PAIR_NOISE)
            yield self._placed(image, 0, random), self._placed(text, 1, random)

    def prompts(self, classes: int, templates: int) -> Vectors:
        """Unit vectors (classes * templates, D) of texts, class by class, around centres drawn at
        random.

        A template moves the prompts of all classes alike, and each prompt has a small rest of its
        own.
        """
        random = np.random.default_rng([self.seed, self.rows, 1 << 20])
        chosen = random.choice(
            len(self._centres), size=classes, replace=classes > len(self._centres)
        )
        points = np.repeat(self._centres[chosen], templates, axis=0)
        points += np.tile(self._noise(random, templates, TEMPLATE), (classes, 1))
        return self._placed(points + self._noise(random, len(points), REST), 1)

    def _noise(self, random: np.random.Generator, size: int, length: float) -> Vectors:
        directions = random.standard_normal((size, self._map.shape[0]), dtype=np.float32)
        return directions * self._scale * np.float32(length)

    def _placed(
        self, points: Vectors, side: int, random: np.random.Generator | None = None
    ) -> Vectors:
        placed = points @ self._map + self._offsets[side]
        if random is not None:
            placed += FULL_NOISE * random.standard_normal(placed.shape, dtype=np.float32)
        return _unit(placed)


def _unit(vectors: Any) -> Vectors:
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def publish_parents(project: Project, content: Any) -> dict[str, Artifact]:
    """Stand-ins for the corpus (whose state is `content`) and the encoder, that vectors can be
    published under.
    """
    return {
        stage: _publish(project, stage, {}, content if stage == "corpus" else None, lambda *_: {})
        for stage in ("corpus", "base_checkpoint")
    }


def publish_embeddings(
    project: Project,
    chunks: Iterator[tuple[Vectors, Vectors]],
    dimension: int,
    columns: Callable[[Any], dict[str, Any]] = lambda rows: {},
) -> Artifact:
    """Publish vectors as `corpus_embeddings`, one file a chunk, with captions and URLs that name
    the row, or other columns of the numbers of rows, which are texts.
    """
    chunks = iter(chunks)
    parents = {stage: project.store.current(stage, ALL) for stage in ("corpus", "base_checkpoint")}

    def write(directory: Path, _: object) -> dict[str, Any]:
        for folder in ("img_emb", "text_emb", "metadata"):
            (directory / folder).mkdir()
        rows, groups = 0, []
        for number, (images, texts) in enumerate(chunks):
            np.save(directory / "img_emb" / f"img_emb_{number:04}.npy", images.astype(np.float16))
            np.save(directory / "text_emb" / f"text_emb_{number:04}.npy", texts.astype(np.float16))
            names = np.arange(rows, rows + len(images)).astype(str)
            table = {
                "image_path": np.char.zfill(names, 9),
                "caption": np.char.add("a synthetic pair, number ", names),
                "url": np.char.add("https://images.example/", np.char.zfill(names, 9)),
                **columns(names),
            }
            pd.DataFrame(table).to_parquet(
                directory / "metadata" / f"metadata_{number:04}.parquet", index=False
            )
            rows += len(images)
            groups.append(json.dumps({"rows": len(images)}) + "\n")
        (directory / GROUPS_FILE).write_text("".join(groups))
        return {"rows": rows, "dimension": dimension}

    return _publish(project, "corpus_embeddings", parents, None, write)


def _publish(project: Project, stage: str, parents: Any, content: Any, write: Any) -> Artifact:
    row = STAGES[stage]
    inputs = Inputs(stage, ALL, row.identity(project, ALL), parents, row.version, content)
    return project.store.build(inputs, write)
