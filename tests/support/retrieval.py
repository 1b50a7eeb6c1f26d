"""Hits of a small domain, written down by hand, for tests of what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

from react_pipeline.clip.prompts import class_prompts
from react_pipeline.embedding import row_metadata
from react_pipeline.extensions.sources.downloads import UrlSource
from react_pipeline.extensions.sources.kinds import UrlTables
from react_pipeline.project.project import Project
from react_pipeline.retrieval.decontamination import KeptOut
from react_pipeline.retrieval.images import Images
from react_pipeline.settings.config import ClassConfig, DomainConfig
from react_pipeline.store import Artifact
from support.upkeep import edit_domain

DOMAIN = DomainConfig(
    slug="pets", classes=("cat", ClassConfig(name="dog", synonyms=("hound",)), "eel")
)
NOTHING = KeptOut(frozenset(), np.zeros((0, 2), np.float32), 0.9)


def hits_of(*hits: tuple[str, str, int, float, int]) -> pd.DataFrame:
    """Hits as (mode, prompt's name, row, similarity, rank)."""
    prompts = class_prompts(DOMAIN).reset_index(names="query")
    table = pd.DataFrame(hits, columns=["mode", "name", "row", "similarity", "rank"])
    return table.merge(prompts, on="name", how="left", validate="many_to_one")


def configure(
    project: Project,
    slug: str = "shapes",
    seeds: dict[str, list[str]] | None = None,
    **retrieval: Any,
) -> None:
    """Set `retrieval` of a domain file, and seed images of its classes."""
    fields: dict[str, Any] = {"retrieval": retrieval} if retrieval else {}
    if seeds is not None:
        fields["classes"] = [
            {
                "name": entry.name,
                "synonyms": list(entry.synonyms),
                "seeds": seeds.get(entry.name, []),
            }
            for entry in project.domain(slug).classes
        ]
    edit_domain(project, slug, **fields)


def pairs_of(artifact: Artifact) -> pd.DataFrame:
    """The table of a set of chosen pairs."""
    return pd.read_parquet(artifact.file("pairs.parquet"))


class Web:
    """Images that must be fetched; a row without an entry cannot be had. Keeps which rows each call
    asked for.
    """

    columns = ["caption"]
    identity = "url"
    fetches = True

    def __init__(self, images: dict[int, bytes], digests: dict[int, str] | None = None) -> None:
        self.images, self.digests = images, digests or {}
        self.failed: dict[int, str] = {}
        self.asked: list[list[int]] = []

    def fetch(self, rows: pd.DataFrame) -> Iterator[tuple[Any, bytes]]:
        self.asked.append(rows["row"].tolist())
        for row in rows["row"]:
            if row not in self.images:
                self.failed[row] = "http_404"
        known = rows[rows["row"].isin(list(self.images))]
        known = known.assign(
            image_sha256=[self.digests.get(row, f"digest {row}") for row in known["row"]]
        )
        for pair in known.itertuples(index=False):
            yield pair, self.images[pair.row]

    def fetchable(self, rows: pd.DataFrame) -> pd.Series:
        if self.identity != "url":
            return pd.Series(True, rows.index)
        return UrlSource(UrlTables(urls=("/t",)), Path()).fetchable(rows)


def images_of(project: Project, web: Web | None = None) -> Images:
    """The images of a corpus, fetched from `web` if it is given."""
    stages = ("corpus", "corpus_embeddings")
    parents = {stage: project.store.current(stage, "all") for stage in stages}
    images = Images(project, parents, SimpleNamespace(dimension=32))  # type: ignore[arg-type]
    if web:
        images.source, images.fetches = web, True  # type: ignore[assignment]
    return images


class Seen:
    """Images of rows as `retrieval.Images` shows them: vectors by row number, some of which cannot
    be had.
    """

    def __init__(self, vectors: Any = None, failed: frozenset[int] | None = None) -> None:
        self._vectors = vectors
        self._failed = failed or frozenset()
        self.fetches = failed is not None
        self.source = self
        self.sha256: dict[int, str] = {}
        self.looks: list[list[int]] = []

    def fetchable(self, rows: pd.DataFrame) -> pd.Series:
        return pd.Series(True, rows.index)

    def look(self, rows: Any) -> None:
        self.looks.append(rows.tolist())
        there = [row for row in rows.tolist() if row not in self._failed]
        self.sha256 |= {row: f"image {row}" for row in there}

    def vectors(self, rows: Any) -> Any:
        return np.zeros((len(rows), 2)) if self._vectors is None else self._vectors[rows]


def no_digest_is_known() -> Any:
    """Let the metadata of rows have no digest, as those of images that were never seen."""

    def unseen(*asked: Any) -> pd.DataFrame:
        return row_metadata(*asked).assign(image_sha256="")

    return patch("react_pipeline.retrieval.images.row_metadata", unseen)
