"""Methods and their controls over seeds: projects with the demo's settings, controls of other
draws, and gains with 95% intervals.

The control of a method trains on as many random pairs. `shuffled` is another one: the retrieved
images with captions of other classes, so that all but the match of image and text is equal, and
wrong names are learned. What a store holds is not made again, so a benchmark can be stopped and
started again. Shapes: S seeds, N images.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from react_pipeline.evaluation import read_correct
from react_pipeline.extensions.demo.extension import FILES
from react_pipeline.lineage import resolve, run
from react_pipeline.project import Project
from react_pipeline.retrieval import load_encoder
from react_pipeline.retrieval.chosen_pairs import write_pairs
from react_pipeline.retrieval.images import Images
from react_pipeline.settings import CONTROL_SUFFIX, draw_folder, first_seed
from react_pipeline.stage import ALL, encoder_in, method_key
from react_pipeline.store import Inputs, Scratch

GATED = "gated-image"
SHARED = ("corpus", "base_checkpoint", "corpus_embeddings", "faiss_index")
OF_DOMAIN = ("evaluation_set", "retrieved_set")
RESAMPLES = 10_000

Correct = NDArray[np.bool_]
"""Which images are right, (S, N); the base has one row."""

Draw = Callable[[Project, Inputs, Images, int], pd.DataFrame]
"""The pairs of a control set for a seed."""


def write_project(
    home: Path,
    methods: Sequence[str],
    seeds: int,
    same_subject: str,
    domains: Mapping[str, Any],
    shards: Sequence[Path] = (),
) -> Project:
    """Write a project with the demo's base and settings.

    Args:
        methods: Without base and controls, which are measured too.
        seeds: How many.
        shards: Patterns of the tars of a corpus; none: the demo's drawings.
    """
    config = yaml.safe_load((FILES / "pipeline.yaml").read_text(encoding="utf-8"))
    controls = [method + CONTROL_SUFFIX for method in methods]
    config |= {"project": home.name, "seeds": [*range(seeds)]}
    config["methods"] = ["base", *methods, *controls]
    config["retrieval"]["same_subject"] = same_subject
    if shards:
        config["corpus"] = {"kind": "webdataset", "shards": [str(pattern) for pattern in shards]}
    (home / "domains").mkdir(parents=True, exist_ok=True)
    files = {f"domains/{slug}.yaml": fields for slug, fields in domains.items()}
    for path, fields in {"pipeline.yaml": config, **files}.items():
        (home / path).write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return Project.load(home / "pipeline.yaml")


def demo_domain(slug: str) -> dict[str, Any]:
    """Return the fields of a domain of the demo."""
    fields: dict[str, Any] = yaml.safe_load((FILES / f"domains/{slug}.yaml").read_text())
    return fields


def measure(
    project: Project, slug: str, draws: Mapping[str, tuple[Draw, Sequence[str]]] = {}
) -> dict[str, Correct]:
    """Return which images are right, by method; a control is `<method> random` or `<method>
    <draw>`.

    Args:
        draws: Further controls by name, each with the methods that it is made for.
    """
    for stage in SHARED:
        run(project, stage, ALL)
    for stage in (*OF_DOMAIN, "control_set"):
        run(project, stage, slug)
    right = {"base": correct(project, slug, "base")}
    for method in (name for name in project.config.candidates if name in project.config.methods):
        right[method] = correct(project, slug, method)
        right[f"{method} random"] = correct(project, slug, method + CONTROL_SUFFIX)
    for name, (draw, methods) in draws.items():
        other = beside(project, name, slug, draw)
        for method in methods:
            right[f"{method} {name}"] = correct(other, slug, method + CONTROL_SUFFIX)
    return right


def correct(project: Project, slug: str, method: str) -> Correct:
    """Return which images a method gets right, trained with each seed of the project."""
    rows = []
    for name in project.config.all_methods:
        if first_seed(name) == method:
            key = method_key(slug, name)
            if method != "base":
                run(project, "customized_checkpoint", key)
            rows.append(read_correct(run(project, "domain_results", key)).to_numpy())
    print(project.config.store, slug, method, f"{100 * np.mean(rows):.1f}", flush=True)
    return np.stack(rows)


def beside(project: Project, name: str, slug: str, draw: Draw) -> Project:
    """Return the project with another control set, in a store `name` beside its own, which shares
    what does not depend on controls.
    """
    store = project.config.store.with_name(name)
    for stage in (*SHARED, *OF_DOMAIN):
        # Linked again each time, so that a rebuilt corpus is never mixed with the pairs of an older
        # one.
        shutil.rmtree(store / stage, ignore_errors=True)
        shutil.copytree(project.config.store / stage, store / stage, copy_function=os.link)
    shutil.copy(project.config.store / "store.json", store)
    other = Project(project.path, project.config.model_copy(update={"store": store}))
    inputs = resolve(other, "control_set", slug)

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        clip = load_encoder(other, inputs.parents[encoder_in(inputs.parents)])
        images = Images(other, inputs.parents, clip)
        seeds = project.config.seeds or (project.seed(slug),)
        folders = {seed: directory / draw_folder(seed) for seed in seeds} | {seeds[0]: directory}
        for seed, folder in folders.items():
            drawn = draw(other, inputs, images, seed)
            pairs = write_pairs(folder, drawn, images, project.retrieval(slug))
        return {"pairs": len(pairs), "draw": name}

    other.store.build(inputs, write)
    return other


def shuffled(_: Project, inputs: Inputs, images: Images, seed: int) -> pd.DataFrame:
    """Return the retrieved pairs with captions of other classes.

    Pairs are ordered by class and each takes the caption from half of the table further on, so that
    no pair keeps a caption of its class unless the class has more than half of all pairs.
    """
    pairs = pd.read_parquet(inputs.parents["retrieved_set"].file("pairs.parquet"))
    pairs = pairs.sample(frac=1, random_state=seed)
    pairs = pairs.sort_values("class", kind="stable", ignore_index=True)
    pairs["caption"] = np.roll(pairs["caption"], len(pairs) // 2)
    images.look(pairs["row"].to_numpy())
    return pairs


def interval(first: Sequence[Correct], second: Sequence[Correct]) -> tuple[float, float, float]:
    """Return the mean over domains of the difference of two methods in top-1, in points, and its
    95% interval.

    Bootstrap over images, drawn within each domain and together for both methods, and over the
    seeds of each method.
    """
    random = np.random.default_rng(0)
    gains, drawn = np.zeros(RESAMPLES), []
    for one, other in zip(first, second, strict=True):
        images = _shares(random, one.shape[1])
        for sign, of_method in ((1, one), (-1, other)):
            seeds = _shares(random, len(of_method))
            gains += sign * np.einsum("rn,sn,rs->r", images, of_method, seeds, optimize=True)
        drawn.append(one.mean() - other.mean())
    low, high = np.quantile(100 * gains / len(first), (0.025, 0.975))
    return 100 * float(np.mean(drawn)), float(low), float(high)


def _shares(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    return random.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count


def gain(first: Sequence[Correct], second: Sequence[Correct]) -> str:
    """Return `interval` as a cell of a table."""
    points, low, high = interval(first, second)
    return f"{points:+.1f} ({low:+.1f} to {high:+.1f})"
