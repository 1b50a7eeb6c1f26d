"""Detection and segmentation on the demo's scenes over several seeds: mean and spread of each
method.

Run `python -m benchmarks.dense_seeds` after `make demo`. A seed is that of the scenes (which
drawings, where, how large), of the training and of the control; methods of `TRAINED_ONCE` are
trained with seed 0 and measured on the scenes of all. Each training seed has a store of its own
(`demo_proof`), so what is made already is not made again. `--page benchmarks/results.md` writes the
table there, and a picture of one scene into `images` next to it.

With `--student-steps` a student learns from the map on other scenes, and both maps are measured;
boxes are not.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.demo_proof import DOMAINS, customize_with_pairs
from benchmarks.methods import store_of, write_section
from react_pipeline.extensions.demo import build_scenes
from react_pipeline.extensions.dense.pictures import write_overlays
from react_pipeline.extensions.dense.results import publish_dense
from react_pipeline.extensions.dense.settings import DenseConfig, OwnDenseSet
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.store import Artifact

METHODS = ("base", "gated-image", "gated-image-control", "locked-text")
TRAINED_ONCE = ("locked-text", "locked-text-control")
"""Their trainings take minutes."""
COLUMNS = {
    "truth": "AP50, true boxes",
    "objects": "AP50, proposals",
    "map": "mIoU",
    "student": "mIoU of a student",
}
UNLABELLED = 1_000
"""Seed of the scenes that a student learns from, which no model is measured on."""


def scenes(root: Path, slug: str, seed: int, **given: Any) -> str:
    """Folder below the root with the scenes of a seed; those of the domain are made where there are
    none.
    """
    if not (root / f"seed-{seed}" / slug).is_dir():
        build_scenes(f"demo/{slug}", root / f"seed-{seed}" / slug, seed, **given)
    return f"seed-{seed}/{{domain}}"


def on_scenes(project: Project, slug: str, seed: int, student_steps: int = 0) -> Project:
    """The project, measured on the scenes of one seed."""
    root = project.config.section(DenseConfig).root or Path()
    folder = scenes(root, slug, seed)
    labels = {"labels": f"{folder}/labels", "names": f"{folder}/names.txt"}
    boxes = OwnDenseSet(
        name="scene-boxes", images=f"{folder}/images", annotations=f"{folder}/annotations.json"
    )
    masks = OwnDenseSet(name="scene-masks", images=f"{folder}/images", **labels)
    fields: dict[str, Any] = {"own": (boxes, masks)}
    if student_steps:
        images = f"{scenes(root, slug, UNLABELLED, scenes=200)}/images"
        fields = {
            "own": (masks,),
            "student_images": images,
            "student_steps": student_steps,
            "student_batch": 4,
        }
    dense = project.config.section(DenseConfig).model_copy(update=fields)
    return replace(project, config=project.config.model_copy(update={"dense": dense}))


def summarise(table: pd.DataFrame, domains: Sequence[str], methods: Sequence[str]) -> str:
    """Mean ± standard deviation over seeds, by method, of the mean over domains; Markdown."""
    wanted = table[table["domain"].isin(domains)]
    means = wanted.groupby(["method", "source", "seed"], as_index=False)["value"].mean()
    summary = means.groupby(["method", "source"])["value"].agg(["mean", "std"])
    columns = {name: title for name, title in COLUMNS.items() if name in set(table["source"])}
    where = "mean" if len(domains) > 1 else domains[0]
    rows = [
        [where, method, *(_with_spread(*summary.loc[method, name]) for name in columns)]
        for method in methods
    ]
    return markdown_table(["domain", "method", *columns.values()], rows)


def _with_spread(mean: float, spread: float) -> str:
    return f"{mean:.1f}" + ("" if pd.isna(spread) else f" ± {spread:.1f}")


def draw(results: dict[str, Artifact], path: Path) -> None:
    """The first scene of one domain: truth beside every method."""
    with tempfile.TemporaryDirectory() as folder:
        for method, result in results.items():
            (Path(folder) / method / "shown").mkdir(parents=True)
            for picture in result.path.glob("shown/*--0-*.png"):
                shutil.copy(picture, Path(folder) / method / "shown")
        write_overlays(
            Path(folder) / "base", {method: Path(folder) / method for method in results}, path
        )


def main() -> None:
    """Print a line for each seed, method and domain, then the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--domains", nargs="+", default=DOMAINS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--student-steps", type=int, default=0, help="train a student on 200 other scenes; 0: none"
    )
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    project, parts, first = Project.load(), [], {}
    trained = functools.cache(lambda seed: store_of(project, seed))
    for seed in range(given.seeds):
        for method in given.methods:
            for slug in given.domains:
                one = on_scenes(
                    trained(0 if method in TRAINED_ONCE else seed), slug, seed, given.student_steps
                )
                if method != "base":
                    customize_with_pairs(one, slug, method)
                made = publish_dense(one, slug, method)
                rows = pd.read_parquet(made.file("results.parquet")).query(
                    "figure in ['ap50', 'miou']"
                )
                parts.append(
                    rows.assign(domain=slug, method=method, seed=seed, value=100 * rows["value"])
                )
                print(
                    seed,
                    method,
                    slug,
                    parts[-1].set_index("source")["value"].round(2).to_dict(),
                    flush=True,
                )
                if (seed, slug) == (0, given.domains[0]):
                    first[method] = made
    text = summarise(pd.concat(parts), given.domains, given.methods)
    print(f"\n{text}")
    if given.page:
        name = "student" if given.student_steps else "dense"
        seeds = (
            "one seed"
            if given.seeds == 1
            else f"mean ± standard deviation over {given.seeds} seeds"
        )
        write_section(
            given.page,
            f"{text}\nPercent, {seeds}.",
            f"<!-- {name}:begin -->",
            f"<!-- {name}:end -->",
        )
    if given.page and not given.student_steps:
        draw(first, given.page.parent / "images" / "dense.png")


if __name__ == "__main__":
    main()
