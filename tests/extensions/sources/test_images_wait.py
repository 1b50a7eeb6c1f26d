"""A corpus from a table of URLs: captions are embedded, and only images that are retrieved are
fetched, from a server on loopback.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.drawings import COLOURS, SHAPES, draw, encode
from support.retrieval import configure
from support.stages import run_corpus
from support.upkeep import edit_domain
from support.web import Web, page, served

from react_pipeline.clip import Clip, class_prompts, load
from react_pipeline.corpus import CollectedPairs
from react_pipeline.embedding import StoredVectors, row_metadata, sides
from react_pipeline.embedding.part_encoder import PartEncoder
from react_pipeline.lineage import resolve, run
from react_pipeline.project import Project
from react_pipeline.retrieval import leaked_images, mean_vectors
from react_pipeline.store import (
    Artifact,
    ChangedSource,
    ConfigError,
    CorpusError,
    RetrievalError,
)

Make = Callable[..., Project]
IMAGES = 48
SETTINGS = {"modes": ["t2t"], "k_per_prompt": 20, "max_per_class": 3}
BOTH: Any = {"embedding": {"encode": "both"}, "retrieval": {**SETTINGS, "modes": ["t2i"]}}


def drawing(number: int) -> tuple[bytes, str]:
    shape, colour = SHAPES[number % 4], COLOURS[number // 4 % 4]
    image = encode(draw(shape, colour, number), ("png", "jpg", "webp")[number % 3])
    return image, f"a {colour} {shape} {number}"


@pytest.fixture
def web() -> Iterator[Web]:
    answers: dict[str, Any] = {f"/{number}": drawing(number)[0] for number in range(IMAGES)}
    with served(answers) as server:
        yield server


@pytest.fixture
def table(web: Web, tmp_path: Path) -> Path:
    rows = [(f"{web.url}/{number}", drawing(number)[1]) for number in range(IMAGES)]
    pd.DataFrame(rows, columns=["url", "caption"]).to_parquet(tmp_path / "pairs.parquet")
    return tmp_path / "pairs.parquet"


@pytest.fixture
def make(make_project: Make, table: Path) -> Make:
    def make(download: Any = None, **sections: Any) -> Project:
        options = {"allow_private_addresses": True, "retries": 0, "timeout_seconds": 5}
        corpus = {"kind": "urls", "urls": [str(table)], "download": options | (download or {})}
        return make_project(corpus=corpus, **{"retrieval": SETTINGS, **sections})

    return make


def indexed(project: Project) -> Project:
    run_corpus(project)
    return project


def base_of(project: Project) -> Clip:
    return load(project.store.current("base_checkpoint", "all").path)


def retrieved(project: Project, slug: str = "shapes") -> Artifact:
    run(project, "evaluation_set", slug)
    return run(project, "retrieved_set", slug)


def test_only_images_that_are_retrieved_are_fetched(make: Make, web: Web) -> None:
    project = indexed(make(seeds=[0, 1]))
    embeddings = project.store.current("corpus_embeddings", "all")
    assert embeddings.counts["rows"] == IMAGES and sides(embeddings) == ("text",)
    assert not web.asked
    artifact = retrieved(project)
    pairs = CollectedPairs(artifact)
    assert 0 < len(pairs) == len(web.asked) < IMAGES
    urls = row_metadata(embeddings, pairs.rows, ["url"])["url"].str.removeprefix(web.url)
    assert dict(web.asked) == dict.fromkeys(urls, 1)

    # The set is whole: each image, its digest, and what the encoder makes of it and of its caption.
    table_of_set = pd.read_parquet(artifact.file("pairs.parquet")).set_index("row")
    for row, image, _, _ in pairs:
        assert table_of_set.loc[row, "image_sha256"] == hashlib.sha256(image).hexdigest()
    clip = base_of(project)
    encoded = [clip.preprocess(pairs.decoded(place))[None] for place in range(len(pairs))]
    images = np.concatenate([clip.encode_images(pixels).numpy() for pixels in encoded])
    np.testing.assert_allclose(pairs.vectors("image"), images, atol=2e-3)
    texts = clip.encode_texts([pair.caption for pair in pairs]).numpy()
    np.testing.assert_allclose(pairs.vectors("text"), texts, atol=2e-3)

    # Domains, controls and later builds share what was fetched.
    run(project, "control_set", "shapes")
    retrieved(project, "colours")
    assert max(web.asked.values()) == 1
    files = artifact.manifest["files"]
    shutil.rmtree(artifact.path)
    web.answers.clear()
    web.asked.clear()
    again = retrieved(project).manifest["files"]
    assert not web.asked
    assert {**again, "report.md": None} == {**files, "report.md": None}


def test_fetched_images_are_pruned_when_they_are_old(make: Make, web: Web) -> None:
    project = indexed(make())
    pairs = CollectedPairs(retrieved(project))
    assert not project.store.prune()
    assert project.store.prune(dry_run=True, keep_seconds=0)
    fetched = sum(web.asked.values())
    configure(project, **SETTINGS, shard_pairs=7)
    retrieved(project)
    assert sum(web.asked.values()) == fetched
    assert project.store.prune(keep_seconds=0)
    configure(project, **SETTINGS, shard_pairs=8)
    assert CollectedPairs(retrieved(project)).rows.tolist() == pairs.rows.tolist()
    assert sum(web.asked.values()) == 2 * fetched


def test_a_network_that_is_down_is_refused_and_tried_again(make: Make, web: Web) -> None:
    project = indexed(make())
    answers = dict(web.answers)
    web.answers.update(dict.fromkeys(answers, page))
    with pytest.raises(RetrievalError, match=r"not_an_image.*max_failed_fraction"):
        retrieved(project)
    web.answers.update(answers)
    assert retrieved(project).counts["pairs"]
    shutil.rmtree(project.config.store / ".cache" / "images")
    for path in list(answers)[: IMAGES - 6]:
        del web.answers[path]
    with pytest.raises(RetrievalError, match="http_404"):
        run(project, "control_set", "shapes")


def test_fetched_images_are_compared_with_evaluation_images(
    make: Make, drawings: Path, tmp_path: Path
) -> None:
    project = indexed(make())
    pairs = CollectedPairs(retrieved(project))
    own = shutil.copytree(drawings / "evaluation/shapes", tmp_path / "own")
    evaluation = {"name": "own", "kind": "folder", "path": str(own)}
    edit_domain(project, "shapes", evaluation=evaluation)
    # The same picture in another file: no digest says so.
    pairs.decoded(0).save(own / "circle" / "copy.bmp")
    configure(project, **SETTINGS, near_duplicate_similarity=0.9995)
    artifact = retrieved(project)
    assert artifact.counts["dropped"]["evaluation_image_near"] > 0
    assert pairs.rows[0] not in CollectedPairs(artifact).rows
    leaks = leaked_images(project, "retrieved_set", "shapes")
    assert (leaks.same, leaks.near) == (0, 0)


def test_both_embeds_the_images_and_no_caption_again(
    make: Make, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    del web.answers["/5"]
    before = indexed(make()).store.current("corpus_embeddings", "all")
    captions = StoredVectors(before, "text").take(np.arange(IMAGES))
    monkeypatch.setattr(PartEncoder, "_encode_captions", None)
    project = make(**BOTH)
    embeddings = indexed(project).store.current("corpus_embeddings", "all")
    assert sides(embeddings) == ("image", "text")
    assert embeddings.counts["reasons"] == {"http_404": 1}
    rows = np.arange(embeddings.counts["rows"])
    metadata = row_metadata(embeddings, rows, ["url", "image_sha256"])
    texts = StoredVectors(embeddings, "text").take(rows)
    assert np.array_equal(texts, np.delete(captions, 5, axis=0))
    web.asked.clear()
    pairs = CollectedPairs(retrieved(project))
    assert not web.asked
    sha256 = [hashlib.sha256(image).hexdigest() for _, image, _, _ in pairs]
    assert sha256 == metadata.loc[pairs.rows, "image_sha256"].tolist()
    # An image that changed meanwhile is not taken.
    shutil.rmtree(project.config.store / ".cache" / "images")
    for number in range(0, IMAGES, 2):
        web.answers[f"/{number}"] = drawing(number + 1)[0]
    configure(project, **BOTH["retrieval"], shard_pairs=7)
    artifact = retrieved(project)
    assert artifact.counts["not_collected"]["changed_image"]
    urls = pd.read_parquet(artifact.file("pairs.parquet"))["url"]
    assert all(int(url.rsplit("/", 1)[1]) % 2 for url in urls)


@pytest.mark.parametrize("settings", [{"modes": ["t2t", "t2i"]}, {"fusion": "filter"}])
def test_what_needs_every_image_is_refused(
    make: Make, make_project: Make, settings: dict[str, Any]
) -> None:
    project = make(retrieval=settings)
    with pytest.raises(ConfigError, match=r"embedding\.encode: both"):
        project.retrieval("shapes")
    assert make(retrieval={}).retrieval("shapes").modes == ("t2t",)
    with pytest.raises(ConfigError, match=r"embedding\.encode: captions"):
        make_project(embedding={"encode": "captions"})


def test_a_floor_for_images_is_kept_when_they_are_fetched(make: Make) -> None:
    project = indexed(make())
    prompts = class_prompts(project.domain("shapes"))
    vectors = base_of(project).encode_texts(prompts["prompt"].tolist()).numpy()
    means = mean_vectors(prompts["class_id"], vectors)
    names = project.domain("shapes").class_names

    def cosines(artifact: Artifact) -> Any:
        pairs = CollectedPairs(artifact)
        wanted = [means[names.index(pairs.classes[number])] for number in pairs.class_ids]
        return (pairs.vectors("image") * wanted).sum(axis=1)

    floor = float(np.median(cosines(retrieved(project))))
    configure(project, **SETTINGS, min_similarity={"filter": floor})
    artifact = retrieved(project)
    assert artifact.counts["dropped"]["below_filter"]
    assert cosines(artifact).min() >= floor - 1e-3


def test_a_table_that_changed_must_be_materialized_again(make: Make, table: Path) -> None:
    project = make()
    corpus: Any = project.config.corpus
    made = run(project, "corpus", "all")
    pd.DataFrame({"url": [""], "caption": ["one"]}).to_parquet(table)
    with pytest.raises(ChangedSource, match=r"pairs\.parquet"):
        list(corpus.pairs(project.store, made))
    with pytest.raises(CorpusError, match="no_url"):
        run(project, "corpus", "all")


def test_how_images_are_fetched_decides_their_vectors(make: Make) -> None:
    run_corpus(make(**BOTH), "base_checkpoint")
    before, after = (
        [resolve(make(size, **BOTH), name).fingerprint for name in ("corpus", "corpus_embeddings")]
        for size in ({}, {"image_size": 8})
    )
    assert before[0] == after[0] and before[1] != after[1]
