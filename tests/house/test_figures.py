"""Figures on pages are those of the tables in benchmarks/results.md, which the benchmarks write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {
    name: (ROOT / name).read_text() for name in ("README.md", "docs/methods.md", "docs/scale.md")
}
RESULTS = (ROOT / "benchmarks" / "results.md").read_text()
CONTROLS = ("random", "nameless", "shuffled")
DOMAINS = ("activities", "objects", "symbols", "mean")

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


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_table_of_the_readme_is_that_of_the_demo(domain: str) -> None:
    line = re.search(rf"^\| {domain} \|(.*)\|$", PAGES["README.md"], flags=re.MULTILINE)
    assert line is not None
    shown = [number(cell.strip(" *")) for cell in line[1].split("|")]
    proof = written_by("proof")[0][domain]
    heads = written_by("methods")[0]
    arm = "without the same drawing, "
    columns = [proof["base"], proof[f"{arm}gated-image"], proof[f"{arm}control"]]
    columns += [heads[method][domain] for method in ("gda", "gda-control")]
    assert shown == [number(cell) for cell in columns]


def test_the_gains_of_the_readme_are_those_of_the_demo() -> None:
    rows = [
        line.split("|")[3:5]
        for line in RESULTS.splitlines()
        if line.startswith("| without the same drawing | mean |")
    ]
    (gains,) = [re.findall(r"[\d.]+", " ".join(cells)) for cells in rows]
    gda = written_by("methods")[0]["gda"]
    over = [f"{number(gda[name]):.1f}" for name in ("over base", "over control")]
    text = one_line("README.md")
    gain, low, high, over_control, control_low, control_high = gains
    assert f"gains {gain} points over the base (95% interval {low} to {high})" in text
    assert f"{over_control} over random pairs ({control_low} to {control_high})" in text
    assert f"in {gda['seconds']} processor seconds, and gains {over[0]} and {over[1]}" in text


def test_figures_of_photographs_are_those_of_the_benchmark() -> None:
    gains, shots, _ = written_by("photographs")
    gated = gains["gated-image"]
    cells = [gains["base"]["top-1 %"], *(gated[name] for name in ("top-1 %", *CONTROLS))]
    shown = next(table for table in tables_of(PAGES["README.md"]) if cells[0] in table)
    assert [*shown[cells[0]].values()] == [f"{number(cell):.1f}" for cell in cells]
    gain, low, high, random, *_ = re.findall(r"[\d.]+", gated["over base"] + gated["over random"])
    text = f"gains {gain} points over the base (95% interval {low} to {high}), {random} over random"
    assert text in one_line("README.md")
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
