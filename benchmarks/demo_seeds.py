"""The demo's gain over several training seeds: base, gated-image and its random-pairs control, mean and spread.

Run after `make demo`, whose corpus, index and pairs are used: `.venv/bin/python benchmarks/demo_seeds.py`. Results of
the demo itself are left alone: each seed has a store of its own beside it, with the shared artifacts linked in. The
control's random pairs are drawn once, so the spread is that of training, not of the draw.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from react_pipeline.evaluation import EvalResult, evaluate
from react_pipeline.project import Project
from react_pipeline.settings.training import TrainingOverrides
from react_pipeline.store import MissingArtifact
from react_pipeline.training import customize

DOMAINS = ("animals", "food", "travel")
METHODS = ("base", "gated-image", "gated-image-control")
SHARED = (
    *("corpus", "base_checkpoint", "corpus_embeddings", "faiss_index"),
    *("evaluation_set", "retrieved_set", "control_set"),
)


def seeded(project: Project, seed: int) -> Project:
    """The same project with another training seed, in a store that shares what does not depend on it."""
    return beside(project, f"seeds/{seed}", seed)


def beside(project: Project, name: str, seed: int, methods: Mapping[str, Mapping[str, Any]] = {}) -> Project:
    """The same project with another training, in a store `name` beside its own that shares what does not depend on it.

    Args:
        project: Its own store is left alone.
        name: Path of the store, relative to the folder of the project's.
        seed: Of the training.
        methods: Fields of the training by method; they win over what is configured.

    Raises:
        MissingArtifact: If the demo was not run.
    """
    store = project.config.store.parent / name
    for stage in SHARED:
        if not (project.config.store / stage).is_dir():
            raise MissingArtifact(f"{project.config.store}: has no `{stage}`; run `make demo` first")
        # Linked again each time, so that a rebuilt corpus is never mixed with the pairs of an older one.
        shutil.rmtree(store / stage, ignore_errors=True)
        shutil.copytree(project.config.store / stage, store / stage, copy_function=os.link)
    (store / "store.json").write_bytes((project.config.store / "store.json").read_bytes())
    customization = project.config.customization
    own = {method: customization.methods.get(method, TrainingOverrides()) for method in methods}
    update = {
        "defaults": _joined(customization.defaults, {"seed": seed}),
        "methods": {**customization.methods, **{name: _joined(own[name], fields) for name, fields in methods.items()}},
    }
    changed = customization.model_copy(update=update)
    return Project(project.path, project.config.model_copy(update={"store": store, "customization": changed}))


def _joined(given: TrainingOverrides, fields: Mapping[str, Any]) -> TrainingOverrides:
    return TrainingOverrides(**{**given.model_dump(exclude_unset=True), **fields})


def main() -> None:
    """Train and evaluate every seed, then print a table of means and standard deviations, in percent."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--domains", nargs="+", default=DOMAINS)
    arguments.add_argument("--methods", nargs="+", default=METHODS)
    arguments.add_argument("--config", type=Path, default=None)
    arguments.add_argument("--figure", type=Path, default=None, help="draw the means with their spread into this PNG")
    given = arguments.parse_args()
    project = Project.load(given.config)
    rows = []
    for seed in range(given.seeds):
        one = seeded(project, seed)
        for slug in given.domains:
            for method in given.methods:
                seconds = 0.0 if method == "base" else customize(one, slug, method).counts["seconds"]
                result = EvalResult.read(evaluate(one, slug, method))
                row = {"seed": seed, "domain": slug, "method": method, "top1": result.top1, "top5": result.top5}
                rows.append({**row, "seconds": seconds})
                print(json.dumps(rows[-1]), flush=True)
    table = pd.DataFrame(rows)
    table[["top1", "top5"]] *= 100
    means = table.groupby(["method", "seed"], as_index=False)[["top1", "top5", "seconds"]].mean().assign(domain="mean")
    summary = pd.concat([table, means]).groupby(["domain", "method"])[["top1", "top5", "seconds"]].agg(["mean", "std"])
    print(summary.round(1).to_string())
    if given.figure is not None:
        draw(summary, given.figure)


def draw(summary: pd.DataFrame, path: Path) -> None:
    """Bars of mean top-1 by domain and method; whiskers are one standard deviation over the seeds."""
    means, spread = summary["top1"]["mean"].unstack(), summary["top1"]["std"].unstack()
    order = [name for name in (*DOMAINS, "mean") if name in means.index]
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    shades = {"base": "#888888", "gated-image": "#08519c", "gated-image-control": "#9ecae1"}
    columns = [name for name in shades if name in means.columns]
    for number, name in enumerate(columns):
        places = [place + (number - 1) * 0.27 for place in range(len(order))]
        bars = axes.bar(places, means[name][order], 0.25, yerr=spread[name][order], label=name, color=shades[name])
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    axes.set_xticks(range(len(order)), order)
    axes.set_ylabel("zero-shot top-1 %")
    axes.margins(y=0.12)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
