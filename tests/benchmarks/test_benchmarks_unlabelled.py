"""Label propagation: its formula, and that pictures which it has seen need not be seen alone."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from benchmarks.unlabelled import ALPHA, GAMMA, NEIGHBOURS, measured, of_zlap, zlap
from react_pipeline.clip import ClassHead

C, D = 3, 16
IDS = torch.arange(C).repeat_interleave(8)


def pictures(seed: int) -> torch.Tensor:
    noise = torch.randn(len(IDS), D, generator=torch.Generator().manual_seed(seed))
    return normalize(torch.eye(C, D)[IDS] + 0.1 * noise, dim=1)


def test_labels_are_those_of_the_formula() -> None:
    x, texts = pictures(0), normalize(torch.eye(C, D) + 0.2, dim=1)
    nodes = torch.cat([texts, x]).double()
    graph = torch.zeros(len(nodes), len(nodes), dtype=torch.float64)
    for place in range(C, len(nodes)):
        cosines = nodes @ nodes[place]
        for other in cosines[:C].argsort(descending=True)[:NEIGHBOURS]:
            graph[place, other] = max(0.0, float(cosines[other])) ** GAMMA
        for other in C + cosines[C:].argsort(descending=True)[:NEIGHBOURS]:
            if other != place:
                graph[place, other] = max(0.0, float(cosines[other]))
    graph = graph + graph.T
    degrees = torch.diag(graph.sum(dim=1) ** -0.5)
    system = torch.eye(len(nodes), dtype=torch.float64) - ALPHA * degrees @ graph @ degrees
    expected = torch.linalg.inv(system)[:, :C]
    torch.testing.assert_close(zlap(x, texts), expected, atol=1e-5, rtol=1e-4)


def test_clusters_are_told_apart_together_and_alone() -> None:
    texts = normalize(torch.eye(C, D) + 0.2, dim=1)
    scores = of_zlap(texts)
    x, others = pictures(0), pictures(1)
    assert (scores(x, x).argmax(dim=1) == IDS).all()
    assert (scores(others, x).argmax(dim=1) == IDS).all()
    heads = dict.fromkeys(("base", "gda", "ncm"), ClassHead(texts.T))
    assert all(both == [100, 100] for both in measured(heads, x, IDS).values())
