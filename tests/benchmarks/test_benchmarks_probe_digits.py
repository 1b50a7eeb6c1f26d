"""The digits benchmark: which images it splits and shows, and what its table says."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks import probe_digits as benchmark
from react_pipeline.clip.base import publish_base
from react_pipeline.clip.model import load
from react_pipeline.extensions.elevater.datasets import dataset
from react_pipeline.project.project import Project


def test_the_halves_share_no_image_and_hold_fifty_shots() -> None:
    train, test = benchmark.halves().values()
    assert sorted([*train, *test]) == list(range(1797))
    labels = load_digits().target
    assert min(np.bincount(labels[train])) >= 50
    assert max(abs(np.bincount(labels[train]) - np.bincount(labels[test]))) <= 1
    few = benchmark.halves(per_class=3)
    assert all(set(few[name]) <= set(whole) for name, whole in (("train", train), ("test", test)))
    assert np.bincount(labels[few["train"]]).tolist() == [3] * 10


def test_the_image_that_is_encoded_is_the_digit_white_on_black() -> None:
    images = load_digits().images
    with Image.open(io.BytesIO(benchmark.png(images, 7))) as image:
        np.testing.assert_array_equal(np.asarray(image), np.round(images[7] * 255 / 16))


def test_features_are_those_of_the_models_own_preprocessing(tiny_checkpoint: Path) -> None:
    clip = load(tiny_checkpoint)
    numbers = np.array([9, 4])
    found = benchmark.encode_digits(clip, numbers, "test")
    for row, label, number in zip(found.features, found.labels, numbers, strict=True):
        grey = Image.fromarray(
            np.round(load_digits().images[number] * 255 / 16).astype(np.uint8)
        ).convert("RGB")
        np.testing.assert_allclose(
            row, clip.model.encode_image(clip.preprocess(grey)[None])[0].detach(), atol=1e-4
        )
        assert label == load_digits().target[number]


def test_a_probe_beats_chance_and_its_rows_are_distinct(
    tiny_checkpoint: Path,
) -> None:
    rows = benchmark.measure_digits(load(tiny_checkpoint), shots=(5,), seeds=2, per_class=8)
    kinds = rows.groupby(["dataset", "adaptation"]).size().to_dict()
    probe = "linear-probe"
    assert kinds == {
        ("mnist", "zero-shot"): 1,
        (benchmark.IN_WORDS, "zero-shot"): 1,
        ("mnist", probe): 4,
        (benchmark.PIXELS, probe): 4,
    }
    assert (rows[rows["dataset"] == benchmark.PIXELS]["value"] > 0.5).all()
    table = benchmark.to_markdown(rows)
    clean = rows[(rows["dataset"] == "mnist") & (rows["protocol"] == "clean")]["value"]
    best = rows[rows["adaptation"] == "zero-shot"]["value"].max()
    assert (
        f"| linear-probe-5 | 2 | {100 * clean.mean():.1f} ± {100 * clean.std(ddof=0):.1f} |"
        in table
    )
    assert f"| {100 * (clean.mean() - best):+.1f} |" in table
    assert dataset("mnist").class_names[0] == "0" and table.count("zero-shot, names") == 2


def test_the_command_writes_its_table_between_the_markers(
    make_project: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project()
    publish_base(project)
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n{benchmark.BEGIN}\nold\n{benchmark.END}\n\nAfter.\n")
    command = [
        "probe_digits",
        "--config",
        str(project.path),
        "--page",
        str(page),
        "--seeds",
        "1",
        "--shots",
        "5",
    ]
    monkeypatch.setattr(sys, "argv", [*command, "--per-class", "5"])
    benchmark.main()
    text = page.read_text()
    assert text.startswith("Before.") and text.endswith("After.\n") and "old" not in text
    assert re.search(r"\| linear-probe-5 \| 1 \| \d+\.\d \|", text)
