"""The benchmark's data sets as domain files: one each, and one of all their classes together.

Does not belong here: domain files in general (`react_pipeline.commands`).
"""

from pathlib import Path
from typing import Any

import yaml

from react_pipeline.labelled import normal
from react_pipeline.store import InputError, write_atomically

from .datasets import DATASETS, Dataset

UNION = "elevater"
"""Slug of the domain of all classes."""


def make_domain(entry: Dataset, root: Path) -> dict[str, Any]:
    """Return the domain of one data set, with its test images at `root`.

    A data set whose images have several classes gets no evaluation set: top-1 means nothing there.
    """
    evaluation = {"name": entry.name, "kind": "elevater", "path": str(root), "dataset": entry.name}
    return {
        "slug": entry.name.replace("_", "-").lower(),
        "title": entry.title,
        "description": f"{entry.name} of ELEVATER.",
        "classes": [_class(names[0], names[1:]) for names in entry.aliases],
        "templates": list(entry.templates),
        **({} if entry.multilabel else {"evaluation": evaluation}),
    }


def union_domain() -> dict[str, Any]:
    """Return the domain of all classes, to train one model for the whole benchmark.

    A name that several data sets have, in any spelling, occurs once, with the spelling of the
    first; an alias that names another class elsewhere is left out. It has no labelled images:
    `benchmark_results` measures it.
    """
    names: dict[str, str] = {}
    aliases: dict[str, list[str]] = {}
    for entry in DATASETS.values():
        for name, *others in entry.aliases:
            first = names.setdefault(normal(name), name)
            aliases.setdefault(first, []).extend(others)
    taken = set(names)
    classes = []
    for name in names.values():
        mine = {normal(alias): alias for alias in aliases[name] if normal(alias) not in taken}
        taken |= set(mine)
        classes.append(_class(name, list(mine.values())))
    return {
        "slug": UNION,
        "title": "ELEVATER, all 20 data sets",
        "description": "Every class name of the benchmark's 20 data sets.",
        "classes": classes,
        "templates": "simple",
    }


def write_domains(root: Path, directory: Path) -> list[Path]:
    """Write the 21 domain files; safe to repeat.

    Raises:
        InputError: If files of these names are there and say something else; then none is written.
    """
    domains = [*(make_domain(entry, root.resolve()) for entry in DATASETS.values()), union_domain()]
    texts = {
        directory / f"{domain['slug']}.yaml": yaml.safe_dump(
            domain, sort_keys=False, allow_unicode=True, width=120
        )
        for domain in domains
    }
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise InputError(f"{path}: exists and differs; remove it")
    for path, text in texts.items():
        write_atomically(path, text)
    return list(texts)


def _class(name: str, aliases: Any) -> Any:
    return {"name": name, "synonyms": list(aliases)} if aliases else name
