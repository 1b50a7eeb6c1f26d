"""Reviewing the demo's domains: what a reviewer finds among planted wrong captions.

Run after `make demo`: `.venv/bin/python -m benchmarks.review --page benchmarks/results.md`. Of
1,000 retrieved pairs some get the caption and class of pairs of other classes. A scripted reviewer,
who knows which, looks at pairs in the order of the page of `review`, worst first over all classes,
or in random order, and rejects wrong ones until 20 are rejected; each pair is a key. `gda` is
fitted to what is left, and measured on the labelled images. `--seeds` repeats it with other pairs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.domain_vectors import DomainVectors, fitted
from benchmarks.methods import HERE, write_section
from react_pipeline.extensions.advise.signs import at_positions
from react_pipeline.extensions.methods import HeadMethod, HeadSamples
from react_pipeline.extensions.review.pairs import sureness
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.settings import METHODS

PAIRS, REJECTED = 1_000, 20
PLANTED = (0.1, 0.2, 0.4)
REVIEW = "<!-- review:begin -->", "<!-- review:end -->"


@dataclass(frozen=True)
class Reviewed:
    """What a reviewer did, and top-1 before, after, and without any wrong pair, as fractions."""

    precision: float
    keys: float
    before: float
    after: float
    without_wrong: float


def plant(
    samples: HeadSamples, fraction: float, random: np.random.Generator
) -> tuple[HeadSamples, NDArray[np.bool_]]:
    """`PAIRS` of the pairs, some with caption and class of one of another class; and which (N,)."""
    count = len(samples.images)
    part = at_positions(samples, torch.from_numpy(random.permutation(count)[:PAIRS]))
    wrong = np.zeros(len(part.images), bool)
    wrong[random.permutation(len(wrong))[: round(fraction * len(wrong))]] = True
    class_ids = part.class_ids.numpy()
    sources = np.arange(len(wrong))
    for place in np.flatnonzero(wrong):
        others = np.flatnonzero(class_ids != class_ids[place])
        sources[place] = random.choice(others)
    planted = replace(
        part, captions=part.captions[sources], class_ids=part.class_ids[torch.from_numpy(sources)]
    )
    return planted, wrong


def top1(domain: DomainVectors, samples: HeadSamples) -> float:
    """Of a `gda` head that is fitted to these pairs, as `customize` does."""
    method = METHODS["gda"]
    assert isinstance(method, HeadMethod)
    training = domain.project.training(domain.slug, "gda")
    near = domain.project.retrieval(domain.slug).near_duplicate_similarity
    return domain.top1(fitted(training, method, samples, samples.class_ids.numpy(), near))


def review(domain: DomainVectors, fraction: float, seed: int) -> dict[str, Reviewed]:
    """Both orders on the same planted pairs."""
    random = np.random.default_rng(seed)
    planted, wrong = plant(domain.signs.samples, fraction, random)
    sure = sureness(planted.images.numpy(), planted.captions.numpy(), planted.class_ids.numpy())
    orders = {"page": np.argsort(sure, kind="stable"), "random": random.permutation(len(wrong))}
    before = top1(domain, planted)
    right = top1(domain, at_positions(planted, torch.from_numpy(~wrong)))
    reviewed = {}
    for name, order in orders.items():
        is_wrong = wrong[order]
        keys = int(np.flatnonzero(is_wrong.cumsum() == REJECTED)[0]) + 1
        left = np.ones(len(wrong), bool)
        left[order[:keys][is_wrong[:keys]]] = False
        after = top1(domain, at_positions(planted, torch.from_numpy(left)))
        precision = float(is_wrong[:REJECTED].mean())
        reviewed[name] = Reviewed(precision, keys, before, after, right)
    return reviewed


def review_table(domain: DomainVectors, seeds: int) -> str:
    """Means over seeds, with standard deviations of accuracy."""
    lines = []
    for fraction in PLANTED:
        runs = [review(domain, fraction, seed) for seed in range(seeds)]
        for name in runs[0]:
            of = [run[name] for run in runs]
            lines.append(
                [
                    domain.slug,
                    f"{fraction:.0%}",
                    name,
                    f"{np.mean([one.precision for one in of]):.0%}",
                    f"{np.mean([one.keys for one in of]):.0f}",
                    _points([one.before for one in of]),
                    _points([one.after for one in of]),
                    _points([one.without_wrong for one in of]),
                ]
            )
    names = ["domain", "wrong", "order", f"wrong of the first {REJECTED}"]
    names += [f"keys until {REJECTED} are rejected", "top-1 before", "after", "without any wrong"]
    return markdown_table(names, lines).rstrip()


def _points(values: Sequence[float]) -> str:
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values):.1f}"


def main() -> None:
    """Measure, print, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--planted", default="activities", help="the domain with planted captions")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--page", type=Path, default=HERE / "results.md")
    options = parser.parse_args()
    project = Project.load(options.config)
    table = review_table(DomainVectors.of(project, options.planted), options.seeds)
    print(table, flush=True)
    write_section(options.page, table, *REVIEW)


if __name__ == "__main__":
    main()
