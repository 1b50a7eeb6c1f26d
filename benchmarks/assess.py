"""What `react-pipeline assess` says of the demo: pictures of no class, several classes, drift.

Run after `make demo`: `.venv/bin/python -m benchmarks.assess --page benchmarks/results.md`.
Pictures of no class are random pairs, as in the command, and the labelled images of the other
domains, by the same artist. Each seed draws the half of the pairs that chooses thresholds, and the
runs whose drift is tested: 60 labelled images against the half without them, and 60 of the other
domains.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.demo_proof import DOMAINS
from benchmarks.methods import HERE, write_section
from react_pipeline.extensions.assess import assessment
from react_pipeline.extensions.assess.assessment import Scores, drift_of, f1_score
from react_pipeline.labelled import encode_images, read_images
from react_pipeline.lineage import fresh
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.use import Classifier

BEGIN, END = "<!-- assess:begin -->", "<!-- assess:end -->"
RUN, RUNS = 60, 20  # pictures of a run whose drift is tested, and runs for each seed
NAMES = ["domain", "model", "AUROC, random pairs", "AUROC, other domains", "kept", "refused", "F1"]
NAMES += ["F1 of the first class", "mAP", "drift, own", "drift, other domains"]


@cache
def labelled(config: Path, slug: str, tower: str) -> tuple[torch.Tensor, np.ndarray]:
    """Vectors of the labelled images of a domain, by the tower of DOMAIN/METHOD; their classes."""
    project = Project.load(config)
    images = read_images(fresh(project, "evaluation_set", slug), project.domain(slug))
    clip = Classifier.load(*tower.split("/"), config=config).clip
    vectors = torch.from_numpy(encode_images(project.config, clip, images))
    return vectors, images["class_id"].to_numpy()


def is_warned(run: Scores, of_labelled: Scores, classifier: Classifier) -> bool:
    """Whether a run is warned of, by confidence or distance."""
    samples = zip(*(classifier.rank(scores, 1)[1:] for scores in (run, of_labelled)), strict=True)
    return any(drift_of("", *map(np.ravel, sample)).is_beyond_noise for sample in samples)


def line(project: Project, slug: str, method: str, seeds: int) -> list[str]:
    """A row of the table; `gda` has the base's tower."""
    classifier = Classifier.load(slug, method, config=project.path)
    tower = f"{DOMAINS[0]}/base" if method in ("base", "gda") else f"{slug}/{method}"
    sets = {name: labelled(project.path, name, tower) for name in DOMAINS}
    own, class_ids = classifier.head.scores(sets[slug][0]).numpy(), sets.pop(slug)[1]
    outside = classifier.head.scores(torch.cat([vectors for vectors, _ in sets.values()])).numpy()
    pairs, is_of = assessment.held_out_scores(project, slug, classifier)
    random = assessment.random_scores(project, slug, classifier)
    figures, warnings = [], []
    for seed in range(seeds):
        draw = np.random.default_rng(seed)
        order = draw.permutation(len(pairs))
        other = assessment.choose_other(pairs[order], draw.permutation(random))
        scores, truth = pairs[order[1::2]], is_of[order[1::2]]
        several = scores >= assessment.class_thresholds(pairs[order[::2]], is_of[order[::2]])
        first = f1_score(scores >= scores.max(axis=1, keepdims=True), truth)
        figures.append((other.auroc, other.kept, other.refused, f1_score(several, truth), first))
        for _ in range(RUNS):
            run, rest = np.split(draw.permutation(own), [len(own) // 2])
            runs = (run[:RUN], rest), (draw.permutation(outside)[:RUN], own)
            warnings.append([is_warned(*one, classifier) for one in runs])
    spread = zip(np.mean(figures, axis=0), np.std(figures, axis=0), strict=True)
    auroc, *others = (f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in spread)
    outer = assessment.auroc(own.max(axis=1), outside.max(axis=1))
    others += [f"{assessment.mean_average_precision(own, class_ids):.3f}"]
    others += [f"{share:.0%}" for share in np.mean(warnings, axis=0)]
    return [slug, method, auroc, f"{outer:.3f}", *others]


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("pipeline.yaml"))
    parser.add_argument("--methods", nargs="+", default=["base", "gda", "gated-image"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=300, help="pairs of a kind, at most")
    parser.add_argument("--page", type=Path, default=HERE / "results.md")
    options = parser.parse_args()
    project, assessment.MOST_PICTURES = Project.load(options.config), options.pictures
    lines = []
    for slug in DOMAINS:
        for method in options.methods:
            lines.append(line(project, slug, method, options.seeds))
            print(lines[-1], flush=True)
    write_section(options.page, markdown_table(NAMES, lines).rstrip(), BEGIN, END)


if __name__ == "__main__":
    main()
