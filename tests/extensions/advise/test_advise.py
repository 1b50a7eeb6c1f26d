"""Advice before anything is trained: the pairs, the heads that are tried, and the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import typer
import yaml
from support.drawings import COLOURS, SHAPES, draw, encode
from support.retrieval import configure
from typer.testing import CliRunner

from react_pipeline.extensions.advise import commands
from react_pipeline.extensions.advise.advice import (
    HeldOut,
    Option,
    next_command,
    options_of,
    recommended,
)
from react_pipeline.extensions.advise.extension import Advise
from react_pipeline.extensions.advise.forecast import Forecast, MeasuredDomain, Measurements
from react_pipeline.extensions.advise.signs import Signs, encode_unlabelled, signs_of
from react_pipeline.extensions.methods.gda import Gda
from react_pipeline.lineage import run
from react_pipeline.project import Project
from react_pipeline.settings import TrainingConfig
from react_pipeline.store import InputError, MissingArtifact, StaleArtifact
from react_pipeline.training import customize


@pytest.fixture
def app() -> typer.Typer:
    """A command line with this command alone."""
    app = typer.Typer()
    Advise().add_commands(app)
    return app


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Unlabelled drawings, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for shape in SHAPES[:3]:
        (folder / f"{shape}.png").write_bytes(encode(draw(shape, COLOURS[0], 7)))
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def edit_classes(project: Project, *classes: object) -> None:
    path = project.config.domains / "shapes.yaml"
    fields = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**fields, "classes": [*fields["classes"], *classes]}))


def measured_at(signs: Signs, gains: dict[str, float]) -> Measurements:
    """Domains like this one, with these gains."""
    rows = [MeasuredDomain(f"d{number}", "", "", signs.values, gains) for number in range(5)]
    return Measurements(tuple(rows), {method: [None, None] for method in gains})


def test_signs_are_of_the_pairs_that_retrieval_keeps(retrieved_project: Project) -> None:
    signs = signs_of(retrieved_project, "shapes")
    pairs = retrieved_project.store.current("retrieved_set", "shapes")
    assert signs.classes["pairs"].sum() == len(signs.samples.images) == pairs.counts["pairs"]
    assert {*signs.values} == {"named", "similarity", "held_out_gain", "classes"}
    assert signs.values["named"] == 1
    assert set(signs.tried) == {"gda", "ncm"}
    assert all(0 <= value <= 1 for one in signs.tried.values() for value in vars(one).values())


def test_heads_are_tried_on_pairs_they_do_not_know(retrieved_project: Project) -> None:
    # Colours are alike in any encoder, so a head fitted to half of them knows the others.
    signs = signs_of(retrieved_project, "colours")
    of = signs.samples
    head, _ = Gda().fit(of, TrainingConfig(), None)  # type: ignore[arg-type]  # takes no step
    of_all = float((head.scores(of.images).argmax(dim=1) == of.class_ids).double().mean())
    assert signs.tried["gda"].base < signs.tried["gda"].own < of_all


def test_unlabelled_pictures_add_signs(retrieved_project: Project, photos: Path) -> None:
    vectors = encode_unlabelled(retrieved_project, "shapes", str(photos))
    assert vectors.shape == (3, 32)
    values = signs_of(retrieved_project, "shapes", vectors).values
    assert 0 < values["nearness"] <= 1
    assert values["margin"] >= 0
    with pytest.raises(InputError, match="no such"):
        encode_unlabelled(retrieved_project, "shapes", str(photos / "none"))


def test_what_lost_to_its_control_is_never_recommended() -> None:
    def option(method: str, gain: float | None, held_out: HeldOut | None) -> Option:
        expected = None if gain is None else Forecast(gain, gain - 0.1, gain + 0.1)
        return Option(method, expected, None, held_out, 1.0, 1.0)

    best = option("gda", 0.3, HeldOut(0.2, 0.2))
    second = option("ncm", 0.2, HeldOut(0.2, 0.1))
    unknown = option("linear-head", 0.1, None)
    others = [option("full", None, None), option("locked-text", -0.1, None)]
    assert recommended([best, second, unknown, *others]) is second
    assert recommended([best, unknown, *others]) is unknown
    assert recommended([best, *others]) is None
    won = replace(best, held_out=HeldOut(0.2, 0.1))
    assert recommended([second, won]) is won
    guess = Option("full", Forecast(0.5, -0.4, 1.4), None, None, 1.0, 1.0)
    assert recommended([guess, second]) is second


def test_numbers_of_the_store_decide_for_trained_methods(
    retrieved_project: Project, processor: None
) -> None:
    signs = signs_of(retrieved_project, "shapes")
    measured = measured_at(signs, {"linear-head": 0.5, "gda": 0.1})
    options = {one.method: one for one in options_of(retrieved_project, "shapes", signs, measured)}
    assert list(options)[0] == "linear-head"
    assert options["linear-head"].held_out is None
    assert options["linear-head"].expected is not None
    assert options["linear-head"].expected.expected == pytest.approx(0.5)
    assert options["gda"].held_out is not None
    assert all(one.seconds > 0 and one.memory > 0 for one in options.values())
    checkpoints = [
        customize(retrieved_project, "shapes", name)
        for name in ("linear-head", "linear-head-control")
    ]
    options = {one.method: one for one in options_of(retrieved_project, "shapes", signs, measured)}
    own, control = (
        one.counts["held_out_after"]["class_accuracy"]
        - one.counts["held_out_before"]["class_accuracy"]
        for one in checkpoints
    )
    assert options["linear-head"].held_out == HeldOut(own, control)


def test_the_command_publishes_nothing_and_names_what_to_run(
    retrieved_project: Project, app: typer.Typer, photos: Path, processor: None
) -> None:
    before = sorted(retrieved_project.config.store.rglob("manifest.json"))
    command = ["shapes", "--config", str(retrieved_project.path), "--pictures", str(photos)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "rank correlation" in done.output
    assert "next: " in done.output
    assert sorted(retrieved_project.config.store.rglob("manifest.json")) == before


def test_the_next_command_has_method_and_control(retrieved_project: Project) -> None:
    option = Option("gda", None, None, None, 1.0, 1.0)
    words = next_command(retrieved_project, "shapes", option).split()
    assert words[:2] == ["react-pipeline", "materialize"]
    assert words[-2:] == ["--method", "gda-control"]
    assert str(retrieved_project.path) in words


def test_classes_that_no_caption_names_are_listed(
    retrieved_project: Project, app: typer.Typer, processor: None
) -> None:
    edit_classes(retrieved_project, "trianglee", "heptagon of old")
    command = ["shapes", "--config", str(retrieved_project.path)]
    assert isinstance(CliRunner().invoke(app, command).exception, StaleArtifact)
    run(retrieved_project, "evaluation_set", "shapes")
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    assert any(line[:1] == ["trianglee"] and "triangle" in line[1:] for line in lines)
    assert any(line[:3] == ["heptagon", "of", "old"] for line in lines)
    assert not any(line[:1] == ["circle"] for line in lines)


def test_too_few_pairs_ask_for_names_first(
    retrieved_project: Project, app: typer.Typer, processor: None
) -> None:
    configure(retrieved_project, min_per_class=100, max_starving_fraction=0.5)
    done = CliRunner().invoke(app, ["shapes", "--config", str(retrieved_project.path)])
    assert done.exit_code == 0, done.output
    assert "too few pairs" in done.output
    assert "materialize" not in done.output


def test_without_an_index_it_says_what_to_materialize(
    tiny_project: Project, app: typer.Typer
) -> None:
    done = CliRunner().invoke(app, ["shapes", "--config", str(tiny_project.path)])
    assert isinstance(done.exception, MissingArtifact)


def test_pictures_need_vectors_of_the_base() -> None:
    project: Any = SimpleNamespace(config=SimpleNamespace(two_encoders=True))
    with pytest.raises(InputError, match="retrieval_encoder"):
        encode_unlabelled(project, "shapes", "pictures")


def test_without_unnamed_classes_no_table_of_them_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    columns = {"class": ["a"], "pairs": [3], "near": [""], "caption": [""], "named": [True]}
    signs: Any = SimpleNamespace(classes=pd.DataFrame(columns))
    commands._print_classes(signs)
    assert len(capsys.readouterr().out.splitlines()) == 1
