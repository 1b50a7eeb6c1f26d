"""How this package is installed: never by its name from an index, where nobody has registered it
yet.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

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


@pytest.mark.parametrize("version", ["3.11.0", "3.12.0", "3.13.0"])
def test_every_pinned_release_accepts_every_python(version: str) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    refusing = []
    for pin in pins:
        try:
            release = metadata.distribution(pin.name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        accepted = SpecifierSet(release.metadata.get("Requires-Python") or "")
        if pin.specifier.contains(release.version) and not accepted.contains(version):
            refusing.append(f"{pin}: {accepted}")
    assert not refusing


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
