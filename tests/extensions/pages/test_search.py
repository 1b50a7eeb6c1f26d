"""Searching the corpus: what the page finds, and what the command line does."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import write_project
from support.drawings import draw, encode, pair, write_shard
from support.ready import CAPTIONS, encoded, write_ready
from support.stages import run_corpus

from react_pipeline.extensions.pages.search import CorpusBoard, search_pairs
from react_pipeline.extensions.pages.server import PER_PAGE, create_app
from react_pipeline.project.project import Project
from react_pipeline.store.errors import InputError, MissingArtifact

HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script> a red circle'


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    drawings: Path,
    _indexed_store: Path,
) -> Project:
    project = write_project(tmp_path_factory.mktemp("served"), tiny_checkpoint, drawings)
    shutil.copytree(_indexed_store, project.config.store)
    return project


@pytest.fixture(scope="module")
def board(project: Project) -> CorpusBoard:
    return CorpusBoard(project)


def rows_of(view: Any) -> list[int]:
    return [int(item.picture.removeprefix("picture/")) for item in view.items]


def test_a_text_finds_what_the_command_line_finds(board: CorpusBoard, project: Project) -> None:
    for side, mode in (("text", "t2t"), ("image", "t2i")):
        view = board.view({"text": "a red circle", "side": side})
        expected = search_pairs(project, "a red circle", mode, PER_PAGE)
        assert rows_of(view) == expected["row"].tolist()
        assert [item.caption for item in view.items] == expected["caption"].tolist()
        notes = [float(item.note) for item in view.items]
        assert notes == pytest.approx(expected["similarity"].tolist(), abs=1e-3)
    assert board.view({"text": "a red circle"}).menus[0].value == "text"
    (more,) = view.buttons
    rest = board.view({"text": "a red circle", "side": "image", **dict(more.ask or {})})
    assert len(rest.items) == 96 - PER_PAGE and not rest.buttons
    assert not set(rows_of(view)) & set(rows_of(rest))


def test_a_picture_and_a_row_find_themselves(
    board: CorpusBoard, project: Project, tmp_path: Path
) -> None:
    # Row 0 of the corpus is this drawing.
    image = encode(draw("circle", "red", 0), "jpg")
    for asked in ({"image": base64.b64encode(image).decode()}, {"row": "0"}):
        view = board.view(asked)
        assert rows_of(view)[0] == 0 and view.menus[0].value == "image"
        assert float(view.items[0].note) == pytest.approx(1, abs=2e-3)
    assert board.picture(0) == image
    (tmp_path / "red.jpg").write_bytes(image)
    best = search_pairs(project, image=tmp_path / "red.jpg", k=3).iloc[0]
    assert best[["row", "rank"]].tolist() == [0, 0]
    assert best["similarity"] == pytest.approx(1, abs=2e-3)


def test_without_a_question_pairs_at_even_distances_are_shown(board: CorpusBoard) -> None:
    rows = rows_of(board.view({}))
    assert len(rows) == PER_PAGE and rows[0] == 0 and rows == sorted(set(rows)) and rows[-1] > 90


@pytest.mark.parametrize(
    "asked",
    [
        {"image": "no base64!"},
        {"image": base64.b64encode(b"<svg/>").decode()},
        {"image": "http://127.0.0.1:9/secret"},
        {"text": "a", "side": "sound"},
        {"text": "a", "page": 1_000},
        {"text": "\ud800"},
        *({"row": row} for row in (1_000_000, -1, float("inf"), "../x")),
    ],
)
def test_what_cannot_be_searched_for_is_reported(board: CorpusBoard, asked: Any) -> None:
    with pytest.raises((InputError, ValueError)):
        board.view(asked)


@pytest.fixture
def hostile_project(make_project: Callable[..., Project], tmp_path: Path) -> Project:
    samples = {f"{number:03d}": pair("circle", "red", number) for number in range(6)}
    samples["002"]["txt"] = HOSTILE.encode()
    # A key that names a file of this machine.
    samples[str(Path(__file__).with_suffix("")).lstrip("/")] = pair("square", "red", 9)
    shard = write_shard(tmp_path / "0.tar", samples)
    project = make_project(corpus={"shards": [str(shard)]})
    run_corpus(project)
    return project


def test_a_shard_that_is_gone_costs_its_pictures_only(
    hostile_project: Project, tmp_path: Path
) -> None:
    client = create_app(CorpusBoard(hostile_project)).test_client()
    assert all(client.get(f"/picture/{row}").status_code == 200 for row in range(7))
    (tmp_path / "0.tar").unlink()
    found = client.post("/view", json={"asked": {"text": HOSTILE}}).get_json()["items"]
    assert len(found) == 7 and found[0]["caption"] == HOSTILE
    assert client.get("/picture/0").status_code == 404
    assert client.get("/picture/7").status_code == 404


def test_without_an_index_the_missing_asset_is_named(tiny_project: Project) -> None:
    with pytest.raises(MissingArtifact, match="faiss_index|corpus"):
        CorpusBoard(tiny_project)


def test_pictures_at_urls_are_left_to_the_browser(
    make_project: Callable[..., Project], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    write_ready(tmp_path / "ready", encoded(tiny_checkpoint, CAPTIONS))
    metadata = tmp_path / "ready" / "metadata" / "metadata_00.parquet"
    table = pd.read_parquet(metadata)
    table.loc[0, "url"] = "javascript:alert(1)"
    table.to_parquet(metadata, index=False)
    project = make_project(corpus={"kind": "embeddings", "embeddings": str(tmp_path / "ready")})
    run_corpus(project)
    board = CorpusBoard(project)
    client = create_app(board).test_client()
    found = {item.caption: item for item in board.view({"text": CAPTIONS[5]}).items}
    assert found[CAPTIONS[5]].picture == "http://127.0.0.1:9/5.png"
    # Nothing listens there: the vector is the stored one.
    assert float(board.view({"row": 5}).items[0].note) == pytest.approx(1, abs=2e-3)
    # What is no address of the web is not handed on, and nothing is fetched by us.
    assert found[CAPTIONS[0]].picture == ""
    assert client.get("/picture/5").status_code == 404
    assert "img-src 'self' data: http: https:" in client.get("/").headers["Content-Security-Policy"]


def test_what_is_no_image_is_reported(project: Project) -> None:
    for image, words in ("/dev/zero", "/dev/zero: cannot be read"), (__file__, "not_an_image"):
        with pytest.raises(InputError, match=words):
            search_pairs(project, image=Path(image))
