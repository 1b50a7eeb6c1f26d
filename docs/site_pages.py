"""MkDocs hook: files outside `docs/` that are part of the site too.

On the site the root and `docs/` are one folder, so links between the two lose one level.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT_FILES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "CODE_OF_CONDUCT.md",
    "LICENSE",
    "NOTICE",
    "CITATION.cff",
    "benchmarks/results.md",
    "examples/my_extension/my_extension.py",
    "examples/dagster_mlflow.py",
    "examples/react_by_hand.py",
    "recipes/imagenet-b32/README.md",
    "recipes/photographs/README.md",
)

_INTO_DOCS = re.compile(r"\]\(((?:\.\./)*)docs/")
_OUT_OF_DOCS = re.compile(rf"\]\(\.\./((?:\.\./)*(?:{'|'.join(map(re.escape, ROOT_FILES))}))\b")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the root."""
    root = Path(config.docs_dir).parent
    for name in ROOT_FILES:
        files.append(File.generated(config, name, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead from files outside into `docs/` and back."""
    if page.file.src_uri in ROOT_FILES:
        return _INTO_DOCS.sub(r"](\1", markdown)
    return _OUT_OF_DOCS.sub(r"](\1", markdown)
