"""Decontamination: which labelled images are kept out of training pairs, and the search for any
that slipped in.

Does not belong here: dropping pairs, and those that are like each other (`ranking`). Shapes: N rows
of the corpus, M evaluation images, D width.

By default only a domain's own set is kept out, since a model customized for one domain is not
measured on another's. With `decontaminate: all` the sets of all domains count, by hash and by
embedding, and the test images of ELEVATER's data sets and of detection and segmentation by hash:
their files are read for it. Whatever is published later makes the pairs stale (`lineage`). With
`same_subject: exclude`, pairs that show the very thing of an evaluation image are kept out too: the
corpus and the manifest of the set name it in `subject`. Where no set names a subject, none is
excluded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.corpus import CollectedPairs
from react_pipeline.embedding import field_names, row_metadata
from react_pipeline.extension import blame, joined
from react_pipeline.labelled import encode_images, read_images
from react_pipeline.project import Project, other_evaluation_sets, taken_down
from react_pipeline.retrieval.images import load_encoder
from react_pipeline.stage import ALL, CORPUS_EMBEDDINGS, EVALUATION_SET, encoder_in
from react_pipeline.store import CACHE, Artifact, InputError, Scratch, hash_value

if TYPE_CHECKING:
    from react_pipeline.clip import Clip

VECTORS = f"{CACHE}/evaluation_vectors"
BLOCK_VALUES = 1 << 24
"""Similarities that are computed at a time."""


@dataclass(frozen=True)
class KeptOut:
    """The images that must not be trained on.

    Attributes:
        sha256: Digests of all evaluation images.
        vectors: Unit vectors of those that are compared, too, by the encoder that retrieves,
            float32 (M, D).
        near: Cosine from which a corpus image counts as one of these.
        sets: Number of images by set: a domain's slug, `elevater/<data set>`, or `dense/<set>`.
        subjects: What the images show, where a pair that shows the same is kept out; else empty.
        refused: Digests and URLs of images that people took down or rejected.
    """

    sha256: frozenset[str]
    vectors: NDArray[np.float32]
    near: float
    sets: Mapping[str, int] = field(default_factory=dict)
    subjects: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()

    @property
    def row_columns(self) -> list[str]:
        """Columns of the corpus that say whether a row must be kept out."""
        return ["subject"] if self.subjects else []

    def similarity(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the cosine of each of (N, D) unit vectors with the nearest evaluation image, (N,);
        NaN if there are none.
        """
        if not len(self.vectors):
            return np.full(len(vectors), np.nan, np.float32)
        rows = max(1, BLOCK_VALUES // len(self.vectors))
        blocks = np.array_split(vectors, len(vectors) // rows + 1)
        return np.concatenate([(block @ self.vectors.T).max(axis=1) for block in blocks])

    def holds(self, sha256: pd.Series) -> pd.Series:
        """Return whether each digest is an evaluation image's."""
        return sha256.isin(self.sha256)

    def shows_same_subject(self, rows: pd.DataFrame) -> pd.Series:
        """Return whether each row, described by `row_columns`, shows what an evaluation image
        shows.
        """
        return rows.get("subject", pd.Series("", rows.index)).isin(self.subjects)

    def refuses(self, rows: pd.DataFrame) -> pd.Series:
        """Return which rows (N,) show an image that people refused."""
        keys = rows.columns.intersection(["image_sha256", "url"])
        return rows[keys].isin(self.refused).any(axis=1)


@dataclass(frozen=True)
class Leaks:
    """How many pairs of a published set show an evaluation image: byte for byte, (others) nearly,
    or its subject.
    """

    same: int
    near: int
    compared: int
    subject: int = 0


def read_kept_out(
    project: Project, slug: str, own: Artifact, clip: Clip, scope: str = ""
) -> KeptOut:
    """Return the images that a domain must not be trained on; of those that people refused, what is
    taken down for all domains.

    Args:
        own: The domain's `evaluation_set`.
        clip: The encoder that retrieves.
        scope: `own` or `all`; by default the domain's `decontaminate`.

    Raises:
        InputError: If a listed image is gone or has changed.
    """
    settings = project.retrieval(slug)
    images = {slug: read_images(own, project.domain(slug))}
    digests = dict[str, frozenset[str]]()
    if (scope or settings.decontaminate) == "all":
        for other in other_evaluation_sets(project, slug):
            images[other] = read_images(project.store.current(EVALUATION_SET, other))
        sets = joined(lambda extension: extension.test_digests(project, slug))
        for name, read in sets.items():
            with blame(f"test images of {name}", getattr(read, "__module__", "react_pipeline.")):
                if of_set := read():
                    digests[name] = of_set
    subjects = frozenset[str]()
    if settings.same_subject == "exclude":
        named = (table["subject"] for table in images.values() if "subject" in table)
        subjects = subjects.union(*named) - {""}
    # With the model's own preprocessing, as the corpus: where an evaluation prepares its images
    # otherwise (`kitti-distance`), a copy in the corpus would not be near.
    mine, *others = images.values()
    vectors = [encode_images(project.config, clip, mine), *_encoded_once(project, clip, others)]
    by_set: dict[str, Any] = {name: table["sha256"] for name, table in images.items()}
    by_set |= digests
    sizes = {name: len(of_set) for name, of_set in by_set.items()}
    sha256 = frozenset[str]().union(*by_set.values())
    near = settings.near_duplicate_similarity
    return KeptOut(sha256, np.concatenate(vectors), near, sizes, subjects, taken_down(project))


def _encoded_once(
    project: Project, clip: Clip, sets: Sequence[pd.DataFrame]
) -> list[NDArray[np.float32]]:
    """Return the unit vectors (M, D) of sets that many domains keep out, encoded by the first on
    this machine: each would encode the images of all.
    """
    device = clip.device.partition(":")[0]
    encoder = hash_value(
        [clip.source, device, project.config.embedding.precision, repr(clip.preprocess)]
    )

    def vectors(images: pd.DataFrame) -> NDArray[np.float32]:
        file = Scratch(project.store.root / VECTORS).keep(
            f"{hash_value([*images['sha256']])}-{encoder}.npy",
            lambda path: np.save(path, encode_images(project.config, clip, images)),
        )
        os.utime(file)  # used now, for `prune`
        return np.load(file)

    return list(map(vectors, sets))


def require_subjects(embeddings: Artifact, kept_out: KeptOut) -> None:
    """Refuse to exclude subjects from a corpus that names none.

    Raises:
        InputError: If subjects are to be excluded and no row has one.
    """
    if kept_out.subjects and "subject" not in field_names(embeddings):
        raise InputError(
            "`retrieval.same_subject: exclude` needs a corpus whose pairs have `subject` in their "
            "JSON; none has it"
        )


def leaked_images(project: Project, stage: str, slug: str) -> Leaks:
    """Look for evaluation images in a published retrieved or control set, independent of what
    retrieval recorded.

    The images in the training shards are hashed again; the vectors are those of the set, compared
    with evaluation images of the domain that are encoded again.

    Raises:
        MissingArtifact: If the set, or what it was made from, is not there.
        CorruptArtifact: If the set cannot be read.
    """
    artifact = project.store.current(stage, slug)
    own = project.store.current(EVALUATION_SET, slug)
    config = artifact.manifest["config"]
    scope = "all" if "evaluation_sets" in config else "own"
    near = float(config["near_duplicate_similarity"])
    sets, read = [], []
    for draw in ["", *artifact.counts.get("draws", {})]:
        collected = CollectedPairs(artifact, draw)
        table = f"{draw}/pairs.parquet" if draw else "pairs.parquet"
        recorded = pd.read_parquet(artifact.file(table), columns=["row", "image_sha256"])
        recorded = recorded.set_index("row")
        sets.append(collected)
        # Where a download made images smaller, the recorded digest is of the file on the web.
        read += [
            (pair.row, hashlib.sha256(pair.image).hexdigest(), recorded["image_sha256"][pair.row])
            for pair in collected
        ]
    pairs = pd.DataFrame(read, columns=["row", "sha256", "on_the_web"])
    embeddings = project.store.open(CORPUS_EMBEDDINGS, ALL, artifact.parents[CORPUS_EMBEDDINGS])
    encoder = encoder_in(artifact.parents)
    clip = load_encoder(project, project.store.open(encoder, ALL, artifact.parents[encoder]))
    images = read_kept_out(project, slug, own, clip, scope)
    similarity = images.similarity(np.concatenate([one.vectors("image") for one in sets]))
    same = (images.holds(pairs["sha256"]) | images.holds(pairs["on_the_web"])).to_numpy()
    described = row_metadata(embeddings, pairs["row"], images.row_columns)
    by_subject = images.shows_same_subject(described).to_numpy()
    nearly = ~same & (similarity >= near)
    others = by_subject & ~same & ~nearly
    return Leaks(int(same.sum()), int(nearly.sum()), len(images.sha256), int(others.sum()))
