"""Seeds from predictions: which pictures, the domain file that names them, and the search
by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from support.drawings import COLOURS, SHAPES, draw, encode, evaluation_image
from support.retrieval import configure
from typer.testing import CliRunner

from react_pipeline.commands.cli import app
from react_pipeline.extensions.labels.seeds import add_seeds, put_in_classes
from react_pipeline.extensions.predict import Options, predict_pictures
from react_pipeline.project import Project
from react_pipeline.retrieval import retrieve_pairs
from react_pipeline.settings import load_domain
from react_pipeline.store import InputError, MissingArtifact, sha256_of
from react_pipeline.use import Classifier

FILE = """\
# Birds of Kraków
classes:
  - {name: blackbird, synonyms: [merle]}  # common
  - robin  # red
  - name: "crane"  # tall
    synonyms: ['yes']
  - {name: owl, seeds: []}
  - 'a, b'
  - name: stork"""


@dataclass(frozen=True)
class Run:
    """A finished run of `predict` and its table."""

    folder: Path
    table: pd.DataFrame


@pytest.fixture
def run(retrieved_project: Project, tmp_path: Path) -> Run:
    """Drawings, one of them twice and one an evaluation image."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for shape in SHAPES:
        for colour in COLOURS[:3]:
            (photos / f"{shape}-{colour}.png").write_bytes(encode(draw(shape, colour, 7)))
    (photos / "again.png").write_bytes((photos / f"{SHAPES[0]}-{COLOURS[0]}.png").read_bytes())
    (photos / "tested.png").write_bytes(encode(evaluation_image(SHAPES[0], 0)))
    classifier = Classifier.load("shapes", "base", config=retrieved_project.path, precision="fp32")
    options = Options(workers=0, transductive=True)
    predict_pictures(classifier, str(photos), tmp_path / "out", options)
    return Run(tmp_path / "out", pd.read_parquet(tmp_path / "out" / "predictions.parquet"))


def test_the_most_confident_pictures_search_the_corpus(
    retrieved_project: Project, run: Run
) -> None:
    command = ["seeds", "shapes", str(run.folder), "--per-class", "2"]
    command += ["--config", str(retrieved_project.path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "retrieval.modes" in result.output
    tested = run.table["path"].str.endswith("tested.png")
    best = run.table[~tested].sort_values(["confidence", "margin", "path"])[::-1]
    for entry in retrieved_project.domain("shapes").classes:
        paths = [retrieved_project.config.domains / seed for seed in entry.seeds]
        of_class = best[best["class_1"] == entry.name]
        digests = list(dict.fromkeys(map(sha256_of, map(Path, of_class["path"]))))
        assert {sha256_of(path) for path in paths} == {*digests[:2]}
    again = add_seeds(retrieved_project, "shapes", run.folder, 3)
    assert again.pictures == 0
    configure(retrieved_project, modes=["i2i"], k_per_prompt=3)
    pairs = pd.read_parquet(retrieve_pairs(retrieved_project, "shapes").file("pairs.parquet"))
    assert set(pairs["mode"]) == {"i2i"}
    assert pairs["prompt"].str.startswith("seed: seeds/shapes/").all()


def test_evaluation_images_are_left_out(retrieved_project: Project, run: Run) -> None:
    added = add_seeds(retrieved_project, "shapes", run.folder, 100)
    assert added.evaluation_images == 1
    assert added.pictures == len(run.table) - 2  # it, and the picture that is there twice
    digests = {sha256_of(path) for path in added.folder.rglob("*.png")}
    assert len(digests) == added.pictures
    assert sha256_of(Path(run.table["path"].iloc[-1]).with_name("tested.png")) not in digests
    classes = {*retrieved_project.domain("shapes").class_names}
    assert {*added.without} == classes - {*run.table["predicted"]}


def test_what_does_not_fit_is_one_error_and_nothing_is_written(
    retrieved_project: Project, run: Run, tmp_path: Path
) -> None:
    path = retrieved_project.config.domains / "shapes.yaml"
    before = path.read_text()
    with pytest.raises(InputError, match="no finished run"):
        add_seeds(retrieved_project, "shapes", tmp_path, 2)
    path.write_text(before.replace("square", "hexagon"))
    with pytest.raises(InputError, match="hexagon"):
        add_seeds(retrieved_project, "shapes", run.folder, 2)
    path.write_text(before)
    (retrieved_project.config.store / "evaluation_set" / "shapes" / "current").unlink()
    with pytest.raises(MissingArtifact, match="evaluation_set"):
        add_seeds(retrieved_project, "shapes", run.folder, 2)
    assert path.read_text() == before
    assert not (retrieved_project.config.domains / "seeds").exists()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_all_else_in_a_domain_file_stays(tmp_path: Path, newline: str) -> None:
    path = tmp_path / "birds.yaml"
    path.write_bytes(FILE.replace("\n", newline).encode())
    names = ["seeds/birds/1.jpg", "seeds/birds/x, y/2.jpg"]
    put_in_classes(path, "seeds", {number: names for number in range(6)})
    domain = load_domain(path)
    assert domain.class_names == ["blackbird", "robin", "crane", "owl", "a, b", "stork"]
    assert all(entry.seeds == (Path(names[0]), Path(names[1])) for entry in domain.classes)
    text = path.read_text()
    for comment in ("# Birds of Kraków\n", "# common\n", "# red\n", '"crane"  # tall\n'):
        assert comment in text
    path.write_text("classes: [robin, {name: crane, id: b}]")
    put_in_classes(path, "seeds", {0: names, 1: names})
    assert [len(entry.seeds) for entry in load_domain(path).classes] == [2, 2]


@pytest.mark.parametrize(
    "present",
    ["[dove]", "[]", "\n      - dove", "\n    - dove # grey\n    - culver"],
    ids=["flow", "empty", "block", "comment"],
)
def test_what_a_list_of_a_class_has_stays(tmp_path: Path, present: str) -> None:
    path = tmp_path / "birds.yaml"
    path.write_text(f"slug: birds\nclasses:\n  - name: pigeon\n    synonyms: {present}\n  - owl\n")
    before = load_domain(path).classes[0].synonyms
    put_in_classes(path, "synonyms", {0: ["rock, dove", "squab"], 1: ["hooter"]})
    pigeon, owl = load_domain(path).classes
    assert pigeon.synonyms == (*before, "rock, dove", "squab")
    assert owl.synonyms == ("hooter",)
