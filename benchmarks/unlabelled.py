"""What a user's unlabelled pictures add, without names: TransCLIP (`predict --transductive`) and
ZLaP (Stojnić et al. 2024, arXiv 2404.04072), which this package leaves out for these results.

Run after `make demo`: `.venv/bin/python -m benchmarks.unlabelled --page benchmarks/results.md`. The
labelled images of a domain serve as its pictures. *Together*: all are judged at once. *Alone*: each
half is judged picture by picture, with what the other half taught, as a served model does. The
demo has one picture of each class, which is hard for both. Shapes: N pictures, M further ones, C
classes, D embedding dimension.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.demo_proof import ARMS, DOMAINS
from benchmarks.domain_vectors import DomainVectors
from benchmarks.methods import store_of_arm, write_section
from react_pipeline.clip import ClassHead
from react_pipeline.extensions.predict.transduction import transduce
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project

BEGIN, END = "<!-- unlabelled:begin -->", "<!-- unlabelled:end -->"
NEIGHBOURS, GAMMA, ALPHA = 5, 5.0, 0.3
"""The paper's: nearest pictures and classes of each picture, exponent of cosines with classes, and
share of a node's label that comes from its neighbours.
"""

Scores = Callable[[Tensor, Tensor], Tensor]
"""Scores (M, C) of pictures (M, D) after seeing others (N, D), or the same ones."""


def edges(x: Tensor, others: Tensor, texts: Tensor, *, same: bool) -> Tensor:
    """Weights (M, C + N) from pictures (M, D) to their nearest classes and pictures: the cosine,
    with a class to the power of `GAMMA`.
    """

    def nearest(cosines: Tensor) -> Tensor:
        least = cosines.topk(min(NEIGHBOURS, cosines.shape[1]), dim=1).values[:, -1:]
        return torch.where(cosines >= least, cosines.clamp(min=0), 0)

    near = nearest(x @ others.T)  # a picture is among its own neighbours ...
    if same:
        near.fill_diagonal_(0)  # ... and then left out, as in the authors' code
    return torch.cat([nearest(x @ texts.T) ** GAMMA, near], dim=1).double()


def zlap(others: Tensor, texts: Tensor) -> Tensor:
    """Labels (C + N, C) of classes (C, D) and pictures (N, D): (I - alpha S)^-1 Y, with the edges
    S, divided by the roots of both ends' degrees, and Y one-hot for classes.
    """
    classes, nodes = len(texts), len(texts) + len(others)
    directed = torch.zeros(nodes, nodes, dtype=torch.float64)
    directed[classes:] = edges(others, others, texts, same=True)
    graph = directed + directed.T
    roots = graph.sum(dim=1).clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    propagated = torch.eye(nodes, dtype=torch.float64) - ALPHA * roots[:, None] * graph * roots
    return torch.linalg.solve(propagated, torch.eye(nodes, classes, dtype=torch.float64))


def of_zlap(texts: Tensor) -> Scores:
    """Pictures that the graph has keep their label; others take those of their neighbours."""

    def scores(x: Tensor, others: Tensor) -> Tensor:
        labels = zlap(others, texts)
        if x is others:
            return labels[len(texts) :]
        return edges(x, others, texts, same=False) @ labels

    return scores


def of_transclip(head: ClassHead) -> Scores:
    """As `predict --transductive`, and as `Classifier.adapted_to`."""

    def scores(x: Tensor, others: Tensor) -> Tensor:
        together, alone = transduce(others.numpy(), head)
        return together if x is others else alone.scores(x)

    return scores


def top1(scores: Scores, x: Tensor, class_ids: Tensor) -> tuple[float, float]:
    """Percent of pictures (N, D) that are right, together and alone."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    alone = torch.zeros(len(x), dtype=torch.bool)
    for half in (order[::2], order[1::2]):
        rest = torch.ones(len(x), dtype=torch.bool)
        rest[half] = False
        alone[half] = scores(x[half], x[rest]).argmax(dim=1) == class_ids[half]
    together = scores(x, x).argmax(dim=1) == class_ids
    return tuple(100 * float(right.double().mean()) for right in (together, alone))  # type: ignore[return-value]


def measured(
    heads: Mapping[str, ClassHead], x: Tensor, class_ids: Tensor
) -> dict[str, list[float]]:
    """By row of the table, top-1 together and alone."""
    rows: dict[str, Scores] = {}
    for name in ("base", "gda"):
        rows[name] = lambda x, _, head=heads[name]: head.scores(x)  # type: ignore[misc]
        rows[f"{name}, TransCLIP"] = of_transclip(heads[name])
    rows["base, ZLaP"] = of_zlap(heads["base"].vectors.T)
    rows["ncm, ZLaP"] = of_zlap(normalize(heads["ncm"].vectors.T, dim=1))
    return {name: list(top1(scores, x, class_ids)) for name, scores in rows.items()}


def main() -> None:
    """Measure the demo's domains in both arms and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--page", type=Path, default=None, help="has the two markers")
    options = parser.parse_args()
    project = Project.load(options.config)
    figures: dict[str, list[list[float]]] = {}
    for arm in ARMS.values():
        of_arm: dict[str, list[list[float]]] = {}
        for domain in DOMAINS:
            vectors = DomainVectors.of(store_of_arm(project, arm, 0), domain)
            heads = {name: vectors.fit(name)[0] for name in ("gda", "ncm")}
            heads["base"] = ClassHead(vectors.signs.samples.zero_shot)
            for name, both in measured(heads, vectors.images, vectors.class_ids).items():
                of_arm.setdefault(name, []).append(both)
            print(arm, domain, {name: both[-1] for name, both in of_arm.items()}, flush=True)
        for name, each in of_arm.items():
            means = [statistics.mean(values) for values in zip(*each, strict=True)]
            figures.setdefault(name, []).append(means)
    text = to_markdown(figures)
    print(text)
    if options.page is not None:
        write_section(options.page, text, BEGIN, END)


def to_markdown(figures: Mapping[str, list[list[float]]]) -> str:
    """The table: a row a head and method, in each arm both ways."""
    names = [f"{arm}, {way}" for arm in ARMS for way in ("together", "alone")]
    rows = [
        [name, *(f"{value:.1f}" for arm in arms for value in arm)] for name, arms in figures.items()
    ]
    table = markdown_table(["top-1, %", *names], rows).rstrip()
    return f"{table}\n\nMean of {', '.join(DOMAINS)}; heads of one seed."


if __name__ == "__main__":
    main()
