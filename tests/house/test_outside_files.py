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
OURS = "written by this program"
INSTALLED = "of an installed package"
BYTES = "of bytes that were read under a bound"
OWN = {
    ("clip/class_head.py", "read"): "mapped; its digest is compared before",
    ("clip/memory.py", "machine_memory_bytes"): "of the kernel",
    ("clip/weights.py", "map_weights"): OURS,
    ("clip/weights.py", "read_weights"): "a regular file, mapped",
    ("corpus/tables.py", "open_table"): "a regular file of the user",
    ("corpus/collected.py", "vectors"): OURS,
    ("corpus/decoding.py", "_begin"): "of the kernel",
    ("extensions/sources/image_pool.py", "has"): OURS,
    ("extensions/sources/image_pool.py", "read"): OURS,
    ("corpus/images.py", "decode_image"): BYTES,
    ("corpus/inventory.py", "shard_paths"): OURS,
    ("corpus/shards.py", "_members"): "a regular file; headers alone, each bounded",
    ("corpus/shards.py", "new_tar"): OURS,
    ("extensions/sources/vector_files.py", "read_shape"): "a regular file; the header alone",
    (
        "extensions/sources/vector_files.py",
        "open_vectors",
    ): "a regular file; mapped, or measured before",
    ("embedding/parts.py", "mapped"): OURS,
    ("embedding/vectors.py", "field_names"): OURS,
    ("embedding/vectors.py", "read_metadata"): OURS,
    ("embedding/vectors.py", "row_metadata"): OURS,
    ("extensions/dense/results.py", "_boxes"): OURS,
    ("extensions/dense/results.py", "_maps"): OURS,
    ("extensions/dense/results.py", "maps"): OURS,
    ("extensions/dense/sets.py", "label_map"): BYTES,
    ("extensions/dense/settings.py", "dense_sets"): INSTALLED,
    ("extensions/dense/student.py", "labelled"): OURS,
    ("extensions/dense/student.py", "train"): OURS,
    ("extensions/elevater/datasets.py", "_clip_benchmark"): INSTALLED,
    ("extensions/elevater/datasets.py", "read_data"): INSTALLED,
    ("extensions/elevater/domains.py", "write_domains"): OURS,
    ("extensions/elevater/features.py", "_write_split"): OURS,
    ("extensions/elevater/image_text.py", "measure_recall"): OURS,
    ("extensions/elevater/readers.py", "_ids_by_name"): INSTALLED,
    ("extensions/elevater/submission.py", "_merge"): OURS,
    ("extensions/elevater/submission.py", "write_submission"): OURS,
    ("extensions/elevater/webdatasets.py", "_label"): BYTES,
    ("extensions/labels/commands.py", "_read_run"): OURS,
    ("extensions/pages/dashboard.py", "_png"): OURS,
    ("extensions/pages/server.py", "open_lines"): OURS,
    ("extensions/pages/predictions.py", "write_page"): OURS,
    ("extensions/pages/session.py", "read"): OURS,
    ("extensions/pages/review.py", "take_down"): OURS,
    ("extensions/predict/encoding.py", "encode_pictures"): OURS,
    ("extensions/predict/run_folder.py", "_locked"): OURS,
    ("extensions/predict/run_folder.py", "_record"): OURS,
    ("extensions/predict/predict.py", "_run"): OURS,
    ("extensions/predict/predict.py", "work"): OURS,
    ("extensions/predict/predict.py", "__call__"): OURS,
    ("labelled/labels.py", "read_csv"): BYTES,
    ("embedding/earlier.py", "_link"): OURS,
    ("embedding/embed.py", "_summed"): OURS,
    ("extensions/names/lexical.py", "lexical_hits"): OURS,
    ("extensions/names/name_counts.py", "count_names"): OURS,
    ("retrieval/queries.py", "encode_queries"): OURS,
    ("retrieval/decontamination.py", "_encoded_once"): OURS,
    ("retrieval/decontamination.py", "vectors"): OURS,
}
"""Module and function that open files in another way, and why that is bounded."""


def calls_of(path: Path) -> list[tuple[str, str]]:
    """Function and source of each call that may read a file."""
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call):
                text = ast.unparse(node)
                if READERS.fullmatch(ast.unparse(node.func)) and not OF_ARTIFACT.search(text):
                    found.append((function.name, text))
    return found


MODULES = {
    str(path.relative_to(LIBRARY)): path
    for room in ROOMS
    for path in sorted((LIBRARY / room).rglob("*.py"))
}


def test_files_from_outside_are_read_under_a_bound() -> None:
    assert not [
        f"{name} {function}: {text}"
        for name, path in MODULES.items()
        for function, text in calls_of(path)
        if (name, function) not in OWN
    ]


def test_no_exception_is_left_over() -> None:
    used = {(name, function) for name, path in MODULES.items() for function, _ in calls_of(path)}
    assert not OWN.keys() - used
