"""Predictions: what a SOURCE may be, the files they give, bad input, and a run that is killed."""

from __future__ import annotations

import csv
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support.deadly_images import MARK, deadly_images
from support.drawings import COLOURS, SHAPES, draw, encode, write_shard
from support.processes import killed
from support.web import serve_folder

from react_pipeline.clip import load_classifier
from react_pipeline.corpus import BadImage, Member, decode_image, remote
from react_pipeline.embedding import Encoder
from react_pipeline.evaluation import EvalResult, evaluate
from react_pipeline.extensions.predict import (
    Options,
    Picture,
    encoding,
    find_pictures,
    pictures,
    run_folder,
)
from react_pipeline.extensions.predict.predict import Done, embed_pictures, predict_pictures
from react_pipeline.extensions.predict.transduction import transduce
from react_pipeline.project import Project
from react_pipeline.store import (
    CorpusError,
    InputError,
    MissingArtifact,
    ReactError,
    Scratch,
    SourceUnavailable,
)
from react_pipeline.use import Classifier

NOW = Options(workers=0)
Predict = Callable[..., Done]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Sixteen drawings in two folders."""
    folder = tmp_path / "photos"
    for number, (shape, colour) in enumerate(
        (shape, colour) for shape in SHAPES for colour in COLOURS
    ):
        path = folder / ("a" if number % 2 else "b") / f"{shape}-{colour}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(draw(shape, colour, 7)))
    return folder


@pytest.fixture
def classifier(retrieved_project: Project) -> Classifier:
    return Classifier.load(
        "shapes", "base", config=retrieved_project.path, device="cpu", precision="fp32"
    )


@pytest.fixture
def predict(classifier: Classifier, photos: Path, tmp_path: Path) -> Predict:
    """Predict `photos` into a folder."""

    def run(output: str = "out", **options: Any) -> Done:
        given = replace(NOW, **options)
        return predict_pictures(classifier, str(photos), tmp_path / output, given)

    return run


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def ledger(output: Path) -> list[tuple[str, str]]:
    with (output / "ledger.csv").open(encoding="utf-8", newline="") as file:
        return [(Path(row["path"]).name, row["reason"]) for row in csv.DictReader(file)]


def test_predictions_equal_the_checkpoint_in_every_format(
    retrieved_project: Project,
    classifier: Classifier,
    predict: Predict,
    photos: Path,
    tmp_path: Path,
) -> None:
    done, output = predict(), tmp_path / "out"
    assert (done.used, done.skipped) == (16, {})
    found = pq.read_table(output / "predictions.parquet").to_pandas()
    paths = sorted(photos.rglob("*.png"))
    assert found["path"].tolist() == list(map(str, paths))
    # As the evaluation classifies: cosines of the checkpoint's own vectors, times 100, in a
    # softmax.
    base = retrieved_project.store.current("base_checkpoint", "all")
    clip, head = load_classifier(base, None, retrieved_project.domain("shapes"), "cpu")
    pixels = [clip.preprocess(decode_image(path.read_bytes(), 10_000)) for path in paths]
    cosines = clip.encode_images(torch.stack(pixels)) @ head.vectors
    scores, order = cosines.sort(descending=True, stable=True)
    classes = found[[f"class_{place}" for place in (1, 2, 3, 4)]]
    assert (classes.to_numpy() == np.array(SHAPES)[order]).all()
    written = found[[f"score_{place}" for place in (1, 2, 3, 4)]]
    np.testing.assert_allclose(written, scores, atol=1e-5)
    np.testing.assert_allclose(found["margin"], scores[:, 0] - scores[:, 1], atol=1e-5)
    confidence = (100 * cosines).softmax(dim=1).max(dim=1).values
    np.testing.assert_allclose(found["confidence"], confidence, atol=1e-3)
    assert (found["predicted"] == found["class_1"]).all()
    table = pd.read_csv(output / "predictions.csv")
    pd.testing.assert_frame_equal(table, found, check_dtype=False, rtol=1e-5)
    (one,) = classifier.predict([paths[0]], top_k=2)
    with pytest.raises(InputError, match="top_k"):
        classifier.predict([paths[0]], top_k=0)
    assert one.classes == tuple(found.loc[0, ["class_1", "class_2"]]) and one.label in one.classes
    assert one.scores == pytest.approx(scores[0, :2].tolist(), abs=1e-5)
    page = (output / "index.html").read_text()
    assert page.count("data:image/jpeg") == 32  # the least certain, and the sheets
    assert "not calibrated" in page and "http" not in re.sub("http-equiv", "", page)
    assert {path.name for path in output.iterdir()} == {
        *("predictions.parquet", "predictions.csv", "ledger.csv", "index.html", "run.json")
    }


def test_a_measured_model_has_temperature_and_unknown_answers(
    retrieved_project: Project, photos: Path, tmp_path: Path
) -> None:
    result = EvalResult.read(evaluate(retrieved_project, "shapes", "base"))
    assert result.temperature is not None
    measured = Classifier.load("shapes", "base", config=retrieved_project.path, precision="fp32")
    assert measured.temperature == result.temperature
    assert "16 labelled images of drawn shapes" in measured.calibration
    # A wrong half of the time, a random tower may not be as certain as its softmax says.
    assert measured.temperature > 1
    path = retrieved_project.config.domains / "shapes.yaml"
    before = path.read_text()
    path.write_text(before.replace("a {} shape", "some {}"))
    other = Classifier.load("shapes", "base", config=retrieved_project.path)
    assert other.temperature is None  # it was fitted with other class vectors
    path.write_text(before)
    limit = float(
        np.median([one.confidence for one in measured.predict(sorted(photos.rglob("*.png")))])
    )
    predict_pictures(measured, str(photos), tmp_path / "out", Options(workers=0, threshold=limit))
    found = rows(tmp_path / "out")
    assert {row["predicted"] == "unknown" for row in found} == {True, False}
    for row in found:
        assert (row["predicted"] == "unknown") == (float(row["confidence"]) < limit)


def test_every_form_of_source(photos: Path, drawings: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    (photos / ".hidden").mkdir()
    (photos / ".hidden" / "x.png").write_bytes(files[0].read_bytes())
    (photos / "notes.md").write_text("no picture")
    (photos / "round").symlink_to(photos)
    relative = [str(path.relative_to(photos)) for path in files]
    (photos / "list.txt").write_text("\n\n".join(relative[:2]))
    (photos / "t.csv").write_text("id,path\n" + "".join(f"00,{name}\n" for name in relative))
    pq.write_table(pa.table({"bild": relative}), photos / "t.parquet")

    def names(source: Path, column: str = "path") -> list[str]:
        return [picture.name for picture in find_pictures(str(source), column)[0]]

    every = [str(path) for path in files]
    assert names(photos) == names(photos / "t.csv") == names(photos / "t.parquet", "bild") == every
    for pattern, word in (("*/circle-*.png", "circle"), ("{a,b}/cross-*.png", "cross")):
        assert names(photos / pattern) == [name for name in every if word in name]
    assert names(files[3]) == [str(files[3])] and names(photos / "list.txt") == every[:2]
    shards = str(drawings / "shards" / "*.tar")
    pictures, _ = find_pictures(shards)
    assert len(pictures) == 96 and pictures[0].name.startswith(shards.replace("*", "00000") + "@")
    assert decode_image(pictures[95].read(), 10_000).size == (40, 40)


@pytest.mark.parametrize(
    ("source", "token"),
    [
        ("nowhere", "no such folder"),
        ("*.nothing", "no file matches"),
        ("empty", "no picture"),
        ("bad.parquet", "cannot be read as a table"),
        ("other.csv", "--column"),
        ("s3://bucket/photos", "shards"),
        ("https://user:planted@host/a.tar", "environment"),
        ("pipe://id/a.tar", "refused"),
        ("urls.txt", "not downloaded"),
    ],
)
def test_a_source_without_pictures_is_one_clear_error(
    tmp_path: Path, source: str, token: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    (tmp_path / "other.csv").write_text("name\nx\n")
    (tmp_path / "urls.txt").write_text("http://127.0.0.1/a.png\n")
    with pytest.raises(InputError, match=token):
        find_pictures(source if "://" in source else str(tmp_path / source))


def test_unusable_pictures_are_counted_and_others_unchanged(
    predict: Predict, photos: Path, tmp_path: Path
) -> None:
    predict("clean")
    expected = rows(tmp_path / "clean")
    picture = encode(draw("circle", "red", 1))
    (photos / "a" / "cut.png").write_bytes(picture[:90])
    (photos / "b" / "text.jpg").write_text("<html>")
    (photos / "gone.png").symlink_to(photos / "nothing")
    os.mkfifo(photos / "pipe.png")
    (photos / "deadly.png").write_bytes(picture + MARK)
    with deadly_images():
        done = predict()
    left_out = {
        "cut.png": "truncated",
        "deadly.png": "killed_decoder",
        "gone.png": "unreadable",
        "pipe.png": "unreadable",
        "text.jpg": "not_an_image",
    }
    assert done.skipped == Counter(left_out.values())
    assert sorted(ledger(tmp_path / "out")) == list(left_out.items())
    for row, before in zip(rows(tmp_path / "out"), expected, strict=True):
        assert row["path"] == before["path"]
        assert float(row["score_1"]) == pytest.approx(float(before["score_1"]), abs=1e-6)
    for path in photos.rglob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match="not_an_image 1"):
        predict("none")
    assert ledger(tmp_path / "none") == [("text.jpg", "not_an_image")]


def test_a_place_without_the_right_to_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--output"):
        run_folder.require_output(tmp_path / "file" / "out")
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    with pytest.raises(InputError, match=r"right to write.*--output"):
        run_folder.require_output(tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_another_run_writes_to_is_refused(predict: Predict, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--output"):
        run_folder.require_output(tmp_path / ("x" * 300))
    with run_folder.held_run(tmp_path / "out", {}):
        with pytest.raises(InputError, match="another run"):
            predict()
        (tmp_path / "out" / ".run.json.half").touch()  # as the record is while it is written
        run_folder.require_output(tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()
    predict()


def test_a_vector_that_is_not_finite_is_an_error_of_model(
    predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Encoder.images
    monkeypatch.setattr(Encoder, "images", lambda *given: images(*given) * torch.nan)
    with pytest.raises(ReactError, match="not finite"):
        predict()


@pytest.mark.parametrize("member", [None, Member(0, 1_000)])
def test_a_picture_of_too_many_bytes_is_not_read_whole(
    photos: Path, monkeypatch: pytest.MonkeyPatch, member: Member | None
) -> None:
    path = photos / "large.png"
    path.write_bytes(b"x" * 2_000)
    monkeypatch.setattr(pictures, "MAX_IMAGE_BYTES", 999)
    with pytest.raises(BadImage) as caught:
        Picture("large", path, member).read()
    assert caught.value.reason == "too_many_bytes"


def test_a_shard_is_read_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    for data in (b"one", b"other"):
        path.unlink(missing_ok=True)
        write_shard(path, {"a": {"png": data}})
        (found,), _ = find_pictures(str(path))
        assert found.read() == data
    path.unlink()
    with pytest.raises(CorpusError, match=r"0\.tar"):
        found.read()


def predict_until_killed(config: Path, source: str, output: Path, transductive: bool) -> None:
    """Die after the second part is on the disk."""
    encoding.PART_PICTURES = 4
    keep, kept = Scratch.keep, []

    def dying(*arguments: Any) -> Path:
        kept.append(keep(*arguments))
        if len(kept) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return kept[-1]

    Scratch.keep = dying  # type: ignore[method-assign]
    predict_pictures(
        Classifier.load("shapes", "base", config=config, precision="fp32"),
        source,
        output,
        Options(workers=1, transductive=transductive),
    )


@pytest.mark.slow
@pytest.mark.operations
@pytest.mark.parametrize("transductive", [False, True])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    retrieved_project: Project,
    predict: Predict,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transductive: bool,
) -> None:
    (photos / "a" / "bad.png").write_bytes(b"x")
    output = tmp_path / "out"
    killed(predict_until_killed, retrieved_project.path, str(photos), output, transductive)
    assert not (output / "predictions.csv").exists()
    kept = sorted((output / ".work").glob("0*.npz"))
    assert len(kept) == 2
    times = [path.stat().st_mtime_ns for path in kept]
    monkeypatch.setattr(encoding, "PART_PICTURES", 4)
    monkeypatch.setattr("react_pipeline.extensions.predict.predict.remove", lambda _: None)
    done = predict(transductive=transductive)
    assert [path.stat().st_mtime_ns for path in kept] == times  # they were not computed again
    predict("undisturbed", transductive=transductive)
    for name in ("predictions.csv", "predictions.parquet", "ledger.csv", "index.html"):
        assert (output / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    assert (done.used, done.skipped) == (16, {"not_an_image": 1})


def test_pictures_are_judged_together(classifier: Classifier, photos: Path, tmp_path: Path) -> None:
    together = Options(workers=0, transductive=True, top_k=1)
    measured = replace(classifier, temperature=2.0, calibrated_on="drawings")
    done = predict_pictures(measured, str(photos), tmp_path / "out", together)
    assert "not calibrated" in done.calibration
    found = rows(tmp_path / "out")
    paths = [row["path"] for row in found]
    scores = transduce(classifier.embed(paths), classifier.head)
    for row, of_classes in zip(found, scores, strict=True):
        assert row["predicted"] == classifier.classes[int(of_classes.argmax())]
        assert float(row["score_1"]) == pytest.approx(float(of_classes.max()), abs=1e-4)
        confidence = float((100 * of_classes).softmax(0).max())
        assert float(row["confidence"]) == pytest.approx(confidence, abs=1e-2)
    with pytest.raises(InputError, match="transductive"):
        predict_pictures(classifier, str(photos), tmp_path / "out", NOW)


def test_a_finished_run_is_kept_and_a_foreign_folder_untouched(
    predict: Predict, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = predict()
    with monkeypatch.context() as patch:
        patch.setattr(
            "react_pipeline.extensions.predict.predict.encode_pictures",
            lambda *_: pytest.fail("encoded again"),
        )
        assert predict() == done
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("mine")
    (photos / "a" / "new.png").write_bytes(encode(draw("circle", "red", 3)))
    for words, given in (
        ("threshold.*--output", {"threshold": 0.5}),
        ("pictures", {}),
        ("other files", {"output": "letters"}),
    ):
        with pytest.raises(InputError, match=words):
            predict(**given)


@pytest.mark.slow
@pytest.mark.operations
@pytest.mark.parametrize("workers", [0, 1])
def test_shards_on_a_server_give_the_predictions_of_local_ones(
    classifier: Classifier,
    drawings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    monkeypatch.setattr(remote, "RETRIES", 3)
    predict_pictures(classifier, str(drawings / "shards" / "*.tar"), tmp_path / "local", NOW)
    output, options = tmp_path / "out", Options(workers=workers)
    with serve_folder(drawings / "shards") as server:
        source = f"{server.url}/{{00000..00002}}.tar"
        find_pictures(source)
        indexing = server.requests["/00002.tar"]
        server.answers["/00002.tar"] = [200] * indexing + [503] * 100
        with pytest.raises(SourceUnavailable, match="00002"):
            predict_pictures(classifier, source, output, options)
        server.answers.clear()
        server.requests.clear()
        assert predict_pictures(classifier, source, output, options).used == 96
        assert server.requests.total() < 96  # what is read ahead is used
    for row, local in zip(rows(output), rows(tmp_path / "local"), strict=True):
        assert Path(row["path"]).name == Path(local["path"]).name
        assert float(row["score_1"]) == pytest.approx(float(local["score_1"]), abs=1e-6)


def test_what_is_no_picture_is_named_by_its_place(
    classifier: Classifier, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("react_pipeline.use.classifier._BATCH", 2)
    path = photos / "a" / "circle-green.png"
    Image.effect_noise((64, 64), 90).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2_000])
    pixels = np.asarray(Image.open(path).convert("RGB"))
    odd = [pixels[:, :, :2], pixels[None], pixels / 255, pixels[:0], pixels[0], np.array("a.png")]
    bad = [b"none", Image.open(tmp_path / "cut.png"), Image.new("RGB", (0, 4)), *odd]
    for picture in bad:
        with pytest.raises(InputError, match="picture 2:"):
            classifier.predict([path, path, picture])
    assert classifier.predict([]) == []


def test_a_single_picture_is_no_list_of_characters_or_rows(
    classifier: Classifier, photos: Path
) -> None:
    path = photos / "a" / "circle-green.png"
    expected = classifier.predict([path])
    pixels = np.asarray(Image.open(path).convert("RGB"))
    for single in (str(path), path, path.read_bytes(), Image.open(path), pixels, iter([path])):
        assert classifier.predict(single) == expected
    assert classifier.embed(str(path)).shape == (1, 32)


def test_vectors_are_the_unit_vectors_of_the_model(
    classifier: Classifier, photos: Path, tmp_path: Path
) -> None:
    embed_pictures(classifier, str(photos), tmp_path / "out", NOW)
    table = pq.read_table(tmp_path / "out" / "vectors.parquet")
    vectors = np.stack(table["vector"].to_pylist()).astype(np.float32)
    assert vectors.shape == (16, 32)
    np.testing.assert_allclose(vectors, classifier.embed(table["path"].to_pylist()), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_models_that_do_not_fit_are_refused(retrieved_project: Project, tmp_path: Path) -> None:
    config = retrieved_project.path

    def load(source: str, model: str = "champion") -> Classifier:
        return Classifier.load(source, model, config=config, device="cpu")

    assert load("shapes").origin.method == "base"
    assert "no champion was chosen yet" in load("shapes").note
    settings = config.read_text()
    config.write_text(f"{settings}\nmethods: [base, gda, gda-control]\n")
    assert load("shapes").note.endswith("such as gda")
    config.write_text(settings)
    for source, model, token, kind in (
        ("nothing", "base", "no domain", InputError),
        ("shapes", "wonder", "wonder", InputError),
        ("shapes", "gated-image", "customized_checkpoint", MissingArtifact),
    ):
        with pytest.raises(kind, match=token):
            load(source, model)
    # A class called as the threshold calls what it refuses.
    path = retrieved_project.config.domains / "shapes.yaml"
    path.write_text(path.read_text().replace("square", "unknown"))
    unsure = Options(threshold=0.1)
    with pytest.raises(InputError, match="rename the class"):
        predict_pictures(load("shapes", "base"), str(tmp_path), tmp_path / "out", unsure)
