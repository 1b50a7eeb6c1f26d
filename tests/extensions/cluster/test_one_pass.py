"""One pass over the corpus for several domains: the same pairs, and each vector and caption is read
once.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from support.drawings import draw, encode
from support.retrieval import configure

from react_pipeline.extensions import cluster
from react_pipeline.extensions.cluster import one_pass
from react_pipeline.extensions.names import name_counts
from react_pipeline.indexing import index
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.lineage import resolve
from react_pipeline.project.project import Project
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.store import Artifact, ReactError

SLUGS = ("shapes", "colours")


@pytest.fixture
def project(indexed_project: Project) -> Project:
    (indexed_project.config.domains / "seed.png").write_bytes(encode(draw("circle", "red", 5000)))
    configure(
        indexed_project,
        seeds={"circle": ["seed.png"]},
        modes=["lexical", "t2t", "t2i", "i2i"],
        k_per_prompt=7,
    )
    configure(indexed_project, "colours", modes=["t2i", "lexical"])
    for slug in SLUGS:
        publish_evaluation_set(indexed_project, slug)
    return indexed_project


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Rows of each side that searches read, and captions that names are looked for in."""
    rows: Counter[str] = Counter()
    hits, captions = index.exact_hits, name_counts.read_captions

    def counted_hits(stored: Any, *args: Any, **named: Any) -> Any:
        rows[stored.side] += stored.rows
        return hits(stored, *args, **named)

    def counted_captions(embeddings: Artifact, some: tuple[int, int]) -> Any:
        rows["captions"] += some[1] - some[0]
        return captions(embeddings, some)

    monkeypatch.setattr(index, "exact_hits", counted_hits)
    monkeypatch.setattr(name_counts, "read_captions", counted_captions)
    return rows


@pytest.fixture
def alone(project: Project, monkeypatch: pytest.MonkeyPatch) -> list[Artifact]:
    """The retrieved sets as each domain makes its own, which leave the store again."""
    with monkeypatch.context() as patched:
        patched.setattr(cluster, "read_together", lambda *_: None)
        artifacts = [retrieve_pairs(project, slug) for slug in SLUGS]
    shutil.rmtree(project.store.root / "retrieved_set")
    return artifacts


def run_files(artifacts: list[Artifact]) -> list[Any]:
    """Fingerprint, and digest of each file; a report says how many seconds it took."""
    return [
        (one.fingerprint, {n: f for n, f in one.manifest["files"].items() if n != "report.md"})
        for one in artifacts
    ]


def test_domains_that_are_due_share_what_is_read(
    alone: list[Artifact], project: Project, reads: Counter[str]
) -> None:
    artifacts = [retrieve_pairs(project, slug) for slug in SLUGS]
    rows = project.store.current("corpus_embeddings", "all").counts["rows"]
    assert run_files(artifacts) == run_files(alone)
    assert artifacts[0].counts["pairs_by_mode"]["lexical"] > 0
    # Captions: to count names, and to find those that say one.
    assert reads == {"text": rows, "image": rows, "captions": 2 * rows}
    assert not list((project.store.root / ".scratch").iterdir())


def test_what_a_pass_left_may_be_gone(alone: list[Artifact], project: Project) -> None:
    artifacts = [retrieve_pairs(project, "shapes")]
    (left,) = project.store.root.glob(".scratch/retrieved_set--colours--*/*")
    for path in (left / "search").glob("*.npy"):
        path.unlink()
    artifacts.append(retrieve_pairs(project, "colours"))
    assert run_files(artifacts) == run_files(alone)


def test_a_killed_pass_is_resumed(
    alone: list[Artifact],
    project: Project,
    reads: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def kill(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(one_pass, "count_in_corpus", kill)
        with pytest.raises(KeyboardInterrupt):
            retrieve_pairs(project, "shapes")
    before = dict(reads)
    assert run_files([retrieve_pairs(project, slug) for slug in SLUGS]) == run_files(alone)
    assert (reads["text"], reads["image"]) == (before["text"], before["image"])


def spoil_seeds(project: Project) -> None:
    configure(project, "colours", seeds={"red": ["gone.png"]}, modes=["i2i"])


def take_down_evaluation_set(project: Project) -> None:
    shutil.rmtree(project.store.root / "evaluation_set" / "colours")


def fill_disk(project: Project) -> None:
    inputs = resolve(project, "retrieved_set", "colours")
    (project.store.root / ".scratch" / inputs.slug).write_text("in the way")


@pytest.mark.parametrize("harm", [spoil_seeds, take_down_evaluation_set, fill_disk])
def test_a_domain_is_read_for_alone_where_another_fails(
    alone: list[Artifact], project: Project, harm: Callable[[Project], None]
) -> None:
    harm(project)
    assert run_files([retrieve_pairs(project, "shapes")]) == run_files(alone[:1])
    if harm is not fill_disk:
        with pytest.raises(ReactError):
            retrieve_pairs(project, "colours")


@pytest.mark.parametrize(("limit", "value"), [("MAX_QUERIES", 1), ("PASS_COMPARISONS", 1e-12)])
def test_a_pass_takes_no_more_than_its_limits(
    alone: list[Artifact],
    project: Project,
    reads: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    value: float,
) -> None:
    monkeypatch.setattr(one_pass, limit, value)
    assert run_files([retrieve_pairs(project, slug) for slug in SLUGS]) == run_files(alone)
    assert reads["image"] == 2 * project.store.current("corpus_embeddings", "all").counts["rows"]
