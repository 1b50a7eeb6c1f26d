"""Figures on pages are those of the tables in benchmarks/results.md, which the benchmarks write."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {
    name: (ROOT / name).read_text() for name in ("README.md", "docs/methods.md", "docs/scale.md")
}
RESULTS = (ROOT / "benchmarks" / "results.md").read_text()
CONTROLS = ("random", "nameless", "shuffled")

Table = dict[str, dict[str, str]]


def tables_of(text: str) -> list[Table]:
    """The tables of a text, by the first cell of a row and the head of a column."""
    tables = []
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        head, _, *rows = (
            [cell.strip(" `*") for cell in line.strip("|").split("|")]
            for line in block.splitlines()
        )
        tables.append({row[0]: dict(zip(head, row, strict=True)) for row in rows})
    return tables


def written_by(benchmark: str) -> list[Table]:
    """The tables that a benchmark wrote."""
    begin, end = f"<!-- {benchmark}:begin -->", f"<!-- {benchmark}:end -->"
    return tables_of(RESULTS.split(begin)[1].split(end)[0])


def one_line(page: str) -> str:
    return " ".join(PAGES[page].split())


def number(text: str) -> float:
    return float(text.split(" ±")[0].replace(",", ""))


def test_the_gains_of_the_readme_are_those_of_the_demo() -> None:
    rows = [
        line.split("|")[3:5]
        for line in RESULTS.splitlines()
        if line.startswith("| without the same drawing | mean |")
    ]
    (gains,) = [re.findall(r"[\d.]+", " ".join(cells)) for cells in rows]
    text = one_line("README.md")
    gain, low, high, over_control, control_low, control_high = gains
    assert f"gains {gain} points over the base (95% interval {low} to {high})" in text
    assert f"{over_control} over random pairs ({control_low} to {control_high};" in text


def test_figures_of_photographs_are_those_of_the_benchmark() -> None:
    alone, _, _, shots, _, gains, _, _, imagenet, stamps = written_by("photographs")
    (shown,) = (
        table for table in tables_of(PAGES["README.md"]) if any("pairs:" in row for row in table)
    )
    for row, table in zip(shown.values(), (gains, alone), strict=True):
        cells = [table["base"]["top-1 %"]]
        cells += [table["gated-image"][name] for name in ("top-1 %", *CONTROLS)]
        assert [*row.values()][1:] == [f"{number(cell):.1f}" for cell in cells]
    gated = gains["gated-image"]
    gain, low, high = re.findall(r"[\d.]+", gated["over base"])
    random, random_low, random_high = re.findall(r"[\d.]+", gated["over random"])
    text = f"gains {gain} points over the base (95% interval {low} to {high}) and {random} over "
    assert f"{text}random pairs ({random_low} to {random_high})" in one_line("README.md")
    heads = f"`gda` reaches {number(gains['gda']['top-1 %'])} (random pairs "
    assert f"{heads}{number(gains['gda']['random'])})" in one_line("README.md")
    for table, count in ((stamps, "53 photographs of Tux Paint"), (imagenet, "134 of ImageNet")):
        gated = table["gated-image"]
        said = one_line("README.md").split(f"On {count}")[1]
        lifted = f"{table['base']['top-1 %']} to {number(gated['top-1 %'])} (random pairs "
        assert f"{lifted}{number(gated['random'])})" in said
    few = next(table for table in tables_of(PAGES["docs/methods.md"]) if "few-shot-gda" in table)
    for method in ("few-shot-gda", "few-shot-ncm"):
        for count, cell in list(few[method].items())[1:]:
            assert number(cell) == number(shots[method][count])


def test_figures_of_speed_compare_equal_precisions() -> None:
    (embedding,) = written_by("embed")
    (step,) = written_by("customize")
    prompts = written_by("retrieval-prompts")[0]
    (collecting,) = written_by("collect")
    in_bf16 = number(embedding["ours bf16"]["pairs/s"]) / number(
        embedding["bare forward pass bf16 (autocast)"]["pairs/s"]
    )
    faster = "times faster than FAISS"
    text = one_line("docs/scale.md")
    for figure, of in (
        (embedding["ours fp32"]["over clip-retrieval"], "as fast as clip-retrieval in fp32"),
        (f"{in_bf16:.2f}", "as fast as a bare forward pass in bf16"),
        (step["ours fp32"]["ratio of best"], "as fast as REACT's published design in fp32"),
        (prompts["exact"][faster], "as fast as FAISS exactly"),
        (prompts["cell by cell"][faster], "in an index"),
        (collecting["1.0%"]["ratio of time"], "as fast as reading all"),
    ):
        assert f"{figure} times {of}" in text
