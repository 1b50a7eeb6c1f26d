"""Controls and seeds of the benchmarks: arms, controls and intervals are what their names say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks import controls, demo_proof, methods
from react_pipeline.corpus import CollectedPairs
from react_pipeline.lineage import run
from react_pipeline.project import Project


def test_an_interval_holds_the_gain_and_none_against_itself() -> None:
    random = np.random.default_rng(0)
    better = [random.random((3, 200)) < 0.5, random.random((3, 100)) < 0.4]
    base = [random.random((1, 200)) < 0.1, random.random((1, 100)) < 0.1]
    gain, low, high = controls.interval(better, base)
    assert gain == pytest.approx(
        100 * np.mean([one.mean() - two.mean() for one, two in zip(better, base, strict=True)])
    )
    assert 0 < low < gain < high
    assert controls.interval(base, base) == (0, 0, 0)


def test_shuffled_captions_are_those_of_other_classes(retrieved_project: Project) -> None:
    project = retrieved_project
    retrieved = project.store.current("retrieved_set", "shapes")
    before = pd.read_parquet(retrieved.file("pairs.parquet")).set_index("row")
    other = controls.beside(project, "shuffled", "shapes", controls.shuffled)
    pairs = list(CollectedPairs(other.store.current("control_set", "shapes")))
    assert {pair.row for pair in pairs} == set(before.index)
    assert sorted(pair.caption for pair in pairs) == sorted(before["caption"])
    of_class = before.groupby("class")["caption"].agg(set)
    for pair in pairs:
        assert any(
            pair.caption in captions for label, captions in of_class.items() if label != pair.label
        )
    assert any(pair.caption not in of_class[pair.label] for pair in pairs)
    images = {pair.row: pair.image for pair in CollectedPairs(retrieved)}
    assert {pair.row: pair.image for pair in pairs} == images


def test_all_seeds_and_controls_are_measured_and_averaged(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = retrieved_project.path
    fields = yaml.safe_load(path.read_text())
    fields |= {"seeds": [0, 1], "methods": ["base", "ncm", "ncm-control"]}
    path.write_text(yaml.safe_dump(fields))
    project = Project.load(path)
    draws = {"shuffled": (controls.shuffled, ["ncm"])}
    right = controls.measure(project, "shapes", draws)
    seeds = {"base": 1, "ncm": 2, "ncm random": 2, "ncm shuffled": 2}
    assert {name: len(rows) for name, rows in right.items()} == seeds
    own, other = (
        project.config.store.with_name(name) / "control_set" / "shapes" / "current"
        for name in ("store", "shuffled")
    )
    named = demo_proof.named_classes(project, "shapes")
    assert named.shape == right["base"][0].shape
    control = project.store.current("control_set", "shapes")
    assert own.read_text() == other.read_text() and "draw" not in control.counts
    run(project, "comparison", "shapes")
    monkeypatch.setattr(methods, "DOMAINS", ("shapes",))
    base, ncm, random = methods.to_markdown(project).splitlines()[2:]
    assert base.startswith("| `base` |") and base.endswith("| – | – | 0 | – | – |")
    assert random.startswith("| `ncm-control` |")
    top1 = 100 * right["ncm"].mean(axis=1)
    assert f"| {top1.mean():.1f} ± {top1.std(ddof=1):.1f} |" in ncm and ncm.endswith("| 2 |")
    gain = top1.mean() - 100 * right["base"].mean()
    assert f"| {gain:+.1f} ± {top1.std(ddof=1):.1f} |" in ncm
