"""Files from outside are read by the bounded readers alone (`store.bounded`,
`corpus.tables`).

Any other way to open a file, in a room where strangers' files come in, is either of an artifact
(`artifact.file(...)`) or in `OWN` with the reason why it is bounded.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from support.rooms import LIBRARY

ROOMS = (
    "clip",
    "corpus",
    "embedding",
    "extensions/pages",
    "extensions/dense",
    "extensions/elevater",
    "extensions/hub",
    "extensions/labels",
    "extensions/names",
    "extensions/predict",
    "extensions/sources",
    "labelled",
    "retrieval",
    "settings",
    "use",
)

READERS = re.compile(
    r"(.+\.)?(read_bytes|open|ParquetFile|ZipFile|memmap|fromfile|read_parquet|read_table)"
    r"|load_file|safe_open|(np|torch|json)\.load|pq\.\w+|ds\.dataset|pd\.read_\w+|.+\.read_text"
)
"""Functions as they are called."""
OF_ARTIFACT = re.compile(r"\.file\(|store\.open\(|pq\.write_table|pq\.ParquetWriter")
OWN = {
    "written by this program": (
        "corpus/collected.py",
        "embedding/earlier.py",
        "embedding/embed.py",
        "embedding/vectors.py",
        "extensions/dense/results.py",
        "extensions/dense/student.py",
        "extensions/elevater/domains.py",
        "extensions/elevater/submission.py",
        "extensions/labels/commands.py",
        "extensions/names/name_counts.py",
        "extensions/pages/dashboard.py",
        "extensions/pages/predictions.py",
        "extensions/pages/review.py",
        "extensions/pages/server.py",
        "extensions/pages/session.py",
        "extensions/predict/encoding.py",
        "extensions/predict/predict.py",
        "extensions/predict/run_folder.py",
        "extensions/sources/downloads.py",
        "retrieval/decontamination.py",
        "retrieval/queries.py",
    ),
    "a regular file, mapped, or of which the bounded headers are read": (
        "clip/weights.py",
        "corpus/shards.py",
        "extensions/sources/vector_files.py",
    ),
    "a regular file of the user": ("corpus/tables.py",),
    "a digest is compared before": ("clip/class_head.py",),
    "of bytes that were read under a bound": (
        "corpus/images.py",
        "extensions/dense/sets.py",
        "extensions/elevater/webdatasets.py",
        "labelled/labels.py",
    ),
    "of an installed package, or of the kernel": (
        "clip/memory.py",
        "corpus/decoding.py",
        "extensions/dense/settings.py",
        "extensions/elevater/datasets.py",
        "extensions/elevater/readers.py",
    ),
}
"""Modules that open files in another way, by the reason why that is bounded."""


def calls_of(path: Path) -> list[str]:
    """Source of each call that may read a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    texts = [ast.unparse(call) for call in calls if READERS.fullmatch(ast.unparse(call.func))]
    return [text for text in texts if not OF_ARTIFACT.search(text)]


def test_files_from_outside_are_read_under_a_bound() -> None:
    paths = [path for room in ROOMS for path in (LIBRARY / room).rglob("*.py")]
    found = {str(path.relative_to(LIBRARY)): calls_of(path) for path in paths}
    bounded = {module for modules in OWN.values() for module in modules}
    assert not {name: calls for name, calls in found.items() if calls and name not in bounded}
    assert not bounded - {name for name, calls in found.items() if calls}
