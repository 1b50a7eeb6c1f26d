"""The benchmark of the demo's image tower: its parts are trained as methods, each with the demo's
own pairs.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from torch import nn

from benchmarks import frozen_network as benchmark
from benchmarks.methods import Row
from react_pipeline.project.project import Project
from react_pipeline.settings import methods as table

DOMAINS = ("shapes", "colours")


@pytest.fixture
def project(retrieved_project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    # The stand-in is open_clip's own ViT, whose blocks have another name.
    blocks = benchmark.Part("blocks-alone", "visual.transformer.")
    monkeypatch.setattr(benchmark, "PARTS", (blocks,))
    monkeypatch.setattr(benchmark, "DOMAINS", DOMAINS)
    methods = dict(table.METHODS)  # so that what `add_parts` adds is gone after the test
    monkeypatch.setattr(table, "_methods", lambda: methods)
    return retrieved_project


def test_the_parts_are_the_network_and_the_blocks_behind_it() -> None:
    names = [
        "visual.trunk.patch_embed.proj.weight",
        "visual.trunk.blocks.0.norm1.weight",
        "visual.trunk.norm.weight",
    ]
    blocks, network = benchmark.PARTS
    assert list(filter(network.trains, names)) == names[:1]
    assert list(filter(blocks.trains, names)) == names[1:2]


def test_each_variant_trains_its_part_in_its_own_store(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(
        benchmark,
        "VARIANTS",
        {
            "blocks": benchmark.Variant("the blocks", "blocks-alone", {"learning_rate": 2e-4}),
            "gated": benchmark.Variant("gated blocks", "gated-image", {"steps": 2}),
        },
    )
    page = tmp_path / "page.md"
    page.write_text(f"{benchmark.BEGIN}\n{benchmark.END}\n")
    monkeypatch.setattr(
        sys, "argv", ["frozen_network", "--config", str(project.path), "--page", str(page)]
    )
    benchmark.main()
    first, second = capsys.readouterr().out, page.read_text()
    lines = [
        line
        for line in second.splitlines()
        if line.startswith("| the blocks") or line.startswith("| gated")
    ]
    assert len(lines) == 2 and ", 0.0002 |" in lines[0] and "| 2, " in lines[1]
    count = sum(parameter.numel() for parameter in trained_blocks(project)) + 1
    assert f"| {count:,} |" in lines[0]
    assert project.store.keys("customized_checkpoint") == []
    monkeypatch.setattr(
        "benchmarks.methods.customize_with_pairs", None
    )  # what is there is not made again
    benchmark.main()
    # Seconds that another run measured are those of its manifest.
    assert [re.sub(r"seconds=[^,]+", "", text) for text in (capsys.readouterr().out, first)] == [
        re.sub(r"seconds=[^,]+", "", first)
    ] * 2


def trained_blocks(project: Project) -> list[nn.Parameter]:
    from react_pipeline.clip.model import load

    model = load(project.store.current("base_checkpoint", "all").path).model
    return list(model.visual.transformer.parameters())


def test_a_figure_is_the_mean_over_seeds_and_domains() -> None:
    domains = benchmark.DOMAINS
    rows = [
        Row(seed, domain, "gated-image", 0.1 + 0.2 * seed, 7)
        for seed in (0, 1)
        for domain in domains
    ]
    (line,) = benchmark.to_markdown({"gated": rows}, {"gated": (200, 3e-3)}).splitlines()[2:]
    assert line.endswith("| 7 | 200, 0.003 | 20.0 | 20.0 | 20.0 | 20.0 ± 14.1 | 2 |")
