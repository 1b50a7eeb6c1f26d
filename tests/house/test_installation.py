"""How this package is installed: never by its name from an index, where nobody has registered it
yet.
"""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from react_pipeline import installation
from react_pipeline.installation import open_clip_metadata
from react_pipeline.store import InputError

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "react_pipeline", "assets", "benchmarks", "examples", "recipes", ".github")
BY_NAME = re.compile(
    # A command of an installer with the bare name, or the name as a line of a list of requirements.
    r"(?:pip3?|uv|uvx|pipx|poetry|conda|mamba)\b[^\n`]{0,80}?(?<![\w./-])react[-_.]?pipeline(?![\w./-])"
    r"|^\s*(?:- )?['\"]?react[-_.]?pipeline(?:\[[\w,-]+\])?\s*(?:==|>=|~=|<|@)"
    r"|^\s*- ['\"]?react[-_.]?pipeline['\"]?\s*$",
    re.IGNORECASE | re.MULTILINE,
)
HARMLESS = re.compile(r"react[-_.]?pipeline (?:as|is|in|and|of|to|with|alone)\b")


def by_name(text: str) -> list[str]:
    return [
        found[0]
        for found in BY_NAME.finditer(text)
        if not HARMLESS.search(text[found.start() : found.end() + 10])
    ]


def pinned(file: str) -> dict[str, str]:
    """Versions by name."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (x.split("==") for x in lines)}


@pytest.mark.parametrize("version", ["3.11.0", "3.12.0", "3.13.0"])
def test_every_pinned_release_accepts_every_python(version: str) -> None:
    refusing = []
    for name, pin in pinned("constraints.txt").items():
        try:
            release = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        accepted = SpecifierSet(release.metadata.get("Requires-Python") or "")
        if pin == release.version and not accepted.contains(version):
            refusing.append(f"{name} {pin}: {accepted}")
    assert not refusing


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-oldest.txt"])
def test_what_is_pinned_is_allowed(file: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    if "oldest" in file:  # what clip-retrieval asks for, as pip does not look at it there
        texts += metadata.requires("clip-retrieval") or []
    versions = pinned(file)
    needs = [need for need in map(Requirement, texts) if canonicalize_name(need.name) in versions]
    assert len(needs) > 50
    assert not [
        str(need)
        for need in needs
        if not need.specifier.contains(versions[canonicalize_name(need.name)])
    ]


def test_no_text_installs_it_by_name() -> None:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    wrong = {}
    for path in filter(Path.is_file, [*paths, *ROOT.iterdir()]):
        text = path.read_text(encoding="utf-8", errors="replace")
        # The extras are made of one another: pip takes those from the same place.
        if hits := by_name(re.sub(r'"react-pipeline\[pipeline\]",?', "", text)):
            wrong[str(path.relative_to(ROOT))] = hits
    assert not wrong


def test_names_of_imagenet_need_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "installed_file", lambda *_: None)
    with pytest.raises(InputError, match="open_clip_torch"):
        open_clip_metadata.__wrapped__()
