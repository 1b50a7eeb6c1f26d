"""Images of chosen rows: what only looking at them shows, whether the corpus holds them or they
must be fetched.

Does not belong here: which rows are looked at (`ranking`, `control`), getting images (`corpus`).
Shapes: N rows, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from react_pipeline.corpus import BadImage, ImageSource, open_source, too_many_failed
from react_pipeline.embedding import Rows, StoredVectors, Vectors, row_metadata, sides
from react_pipeline.project import Project
from react_pipeline.stage import CORPUS, CORPUS_EMBEDDINGS
from react_pipeline.store import Artifact, RetrievalError

if TYPE_CHECKING:
    from react_pipeline.clip import Clip
    from react_pipeline.embedding import Encoder

REFILL_ROUNDS = 3
"""How often images are fetched in place of those that are not available."""


def load_encoder(project: Project, checkpoint: Artifact) -> Clip:
    """Return the encoder that retrieves, on the configured device."""
    from react_pipeline.clip import choose_device, loaded_base

    return loaded_base(checkpoint.path, choose_device(project.config.device))


class Images:
    """The images of a corpus, as far as they were looked at.

    Attributes:
        source: Where they come from.
        fetches: Whether looking at one fetches it.
        sha256: Digest of each image that was fetched, by row.
        embeddings: The artifact `corpus_embeddings`.
    """

    def __init__(self, project: Project, parents: Mapping[str, Artifact], clip: Clip) -> None:
        """Look at nothing yet."""
        self.source: ImageSource = open_source(project, parents[CORPUS])
        self.fetches = self.source.fetches
        self.sha256: dict[int, str] = {}
        self._rounds = 0
        self.embeddings = parents[CORPUS_EMBEDDINGS]
        self._stored = "image" in sides(self.embeddings)
        self.config = project.config
        self._clip = clip
        self._encoder: Encoder | None = None
        self._places: dict[int, int] = {}
        # The first vector is that of images that were not looked at.
        self._vectors = np.zeros((1, clip.dimension), np.float16)

    def look(self, rows: Rows) -> None:
        """Fetch the images of rows (N,), and encode them where the corpus has captions alone."""
        if not self.fetches:
            return
        rows = rows[[row not in self.sha256 for row in rows.tolist()]]
        self._rounds += 1
        columns = [*dict.fromkeys([*self.source.columns, "image_sha256"])]
        located = row_metadata(self.embeddings, rows, columns).assign(row=rows)
        if self._stored:
            embedded = located["image_sha256"]
            for pair, _ in self.source.fetch(located):
                row, sha256 = int(pair.row), str(pair.image_sha256)
                if embedded[row] in ("", sha256):
                    self.sha256[row] = sha256
                else:
                    self.source.refuse(row, BadImage("changed_image"))
            return
        from react_pipeline.embedding import Encoder, encode_fetched  # loads torch

        if self._encoder is None:
            precision = self.config.embedding.precision
            self._encoder = Encoder(self._clip, precision, rows=len(rows))
        fetched, vectors = encode_fetched(self.source, located, self._encoder, self.config)
        self._places |= {row: len(self._vectors) + n for n, row in enumerate(fetched)}
        self._vectors = np.concatenate([self._vectors, vectors])
        self.sha256 |= fetched

    def vectors(self, rows: Rows) -> Vectors:
        """Return the unit vectors (N, D) of rows; zeros where images wait and were not looked
        at.
        """
        if self._stored:
            return StoredVectors(self.embeddings, "image").take(rows)
        places = [self._places.get(row, 0) for row in rows.tolist()]
        return self._vectors[places].astype(np.float32)

    def require(self, slug: str) -> None:
        """Refuse a set of which too many images are not available: the network or the corpus is
        wrong.

        Raises:
            RetrievalError: Naming the commonest reasons.
        """
        allowed = self.config.corpus.downloads().max_failed_fraction
        reasons = Counter(self.source.failed.values())
        if problem := too_many_failed(reasons, len(self.sha256), allowed):
            raise RetrievalError(f"{slug}: {problem}")

    def counts(self) -> dict[str, Any]:
        """Return the counts of the manifest; none where nothing was fetched."""
        if not self._rounds:
            return {}
        reasons = Counter(self.source.failed.values())
        return {"fetch_rounds": self._rounds, "not_collected": dict(sorted(reasons.items()))}
