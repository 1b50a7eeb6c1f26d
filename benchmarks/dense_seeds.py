"""Detection and segmentation on the demo's scenes, several seeds of scenes: mean and spread of each method.

Run `python -m benchmarks.dense_seeds` after `make demo`; `--page docs/results.md` writes the table there. Scenes are
made below `dense.root`. Results are artifacts, so what is measured already is not measured again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd

from react_pipeline.benchmark import publish_dense
from react_pipeline.demo import build_scenes
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.settings.dense import OwnDenseSet

BEGIN, END = "<!-- dense:begin -->", "<!-- dense:end -->"
COLUMNS = {"truth": "AP50, true boxes", "objects": "AP50, proposals", "map": "mIoU"}
STUDENT = {"student": "mIoU of a student"}


def sets_of(seed: int) -> tuple[OwnDenseSet, ...]:
    """The sets of one seed of scenes."""
    base = f"seed-{seed}/{{domain}}"
    boxes = OwnDenseSet(name=f"boxes-{seed}", images=f"{base}/images", annotations=f"{base}/annotations.json")
    labels = {"labels": f"{base}/labels", "names": f"{base}/names.txt"}
    return boxes, OwnDenseSet(name=f"masks-{seed}", images=f"{base}/images", **labels)


def measured(project: Project, slug: str, method: str) -> pd.DataFrame:
    """AP50 and mIoU of one checkpoint, a row a seed and source."""
    rows = pd.read_parquet(publish_dense(project, slug, method).file("results.parquet"))
    return rows[rows["figure"].isin(["ap50", "miou"])].assign(domain=slug, method=method)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domains", nargs="+", default=["animals", "food", "travel"])
    parser.add_argument("--methods", nargs="+", default=["base", "gated-image", "gated-image-control"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--student-steps", type=int, default=0, help="train a student on the scenes; 0: none")
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    project = Project.load()
    root = project.config.dense.root or Path()
    for slug in given.domains:
        for seed in range(given.seeds):
            if not (folder := root / f"seed-{seed}" / slug).is_dir():
                build_scenes(f"demo/{slug}", folder, seed)
    own = tuple(entry for seed in range(given.seeds) for entry in sets_of(seed))
    columns = COLUMNS | (STUDENT if given.student_steps else {})
    student = {"student_images": "seed-0/{domain}/images", "student_steps": given.student_steps}
    dense = project.config.dense.model_copy(update={"own": own, **(student if given.student_steps else {})})
    project = replace(project, config=project.config.model_copy(update={"dense": dense}))
    parts = [measured(project, slug, method) for slug in given.domains for method in given.methods]
    table = pd.concat(parts)
    table["seed"] = table["set"].str.split("-").str[-1]
    # Over domains first, so that the spread is that of the seeds.
    by_seed = table.groupby(["method", "source", "seed"])["value"].mean()
    means = 100 * by_seed.groupby(["method", "source"]).agg(["mean", "std"])
    rows = [
        [method, *(f"{means.loc[method, name]['mean']:.1f} ± {means.loc[method, name]['std']:.1f}" for name in columns)]
        for method in given.methods
    ]
    about = f"{', '.join(given.domains)}; mean ± standard deviation over {given.seeds} seeds of scenes, percent."
    text = f"{markdown_table(['method', *columns.values()], rows)}\n{about}\n"
    print(text)
    if given.page:
        page = given.page.read_text(encoding="utf-8")
        head, rest = page.split(BEGIN)
        given.page.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
