"""Ready embeddings on disk: which files belong together, and whether they can be used at all.
Shapes: N rows, D width.

As a corpus they are an inventory of the files; nothing is copied. Rows are counted in the order of
the sorted names, in which autofaiss reads them, so that ready FAISS indices fit. Does not belong
here: whether the configured encoder made them (`ready_embeddings`), reading vectors
(`vector_files`).
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from react_pipeline.corpus import progress, require_text_columns, rows_of_table, schema_of_table
from react_pipeline.embedding import FOLDERS
from react_pipeline.extensions.sources.kinds import ReadyEmbeddings
from react_pipeline.extensions.sources.vector_files import DAMAGED_REMEDY, outer_file, read_shape
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.store import Artifact, CorpusError, Scratch, remembered_sha256

FILES_FILE = "files.parquet"


class Layout(NamedTuple):
    """Names below the folder, of vectors and of tables with URL and caption: `{}` is what the files
    of a part share. `text` is empty where captions have no vectors.
    """

    image: str
    text: str
    metadata: str


LAYOUTS = {
    "clip-retrieval": Layout(
        "img_emb/img_emb_{}.npy", "text_emb/text_emb_{}.npy", "metadata/metadata_{}.parquet"
    ),
    "clip-retrieval-images": Layout("img_emb/img_emb_{}.npy", "", "metadata/metadata_{}.parquet"),
    "datacomp-b32": Layout("{}.npz/b32_img", "{}.npz/b32_txt", "{}.parquet"),
    "datacomp-l14": Layout("{}.npz/l14_img", "{}.npz/l14_txt", "{}.parquet"),
    "parquet": Layout("{}.parquet/VECTOR", "", "{}.parquet"),
}
"""`corpus.layout`; VECTOR is `corpus.vector_column`."""


class Part(NamedTuple):
    """Files that belong together, by their names below the folder (see `vector_files`).

    Attributes:
        number: What the names share.
        text: Of captions; "" if there are none.
    """

    number: str
    image: str
    text: str
    metadata: str
    rows: int
    dimension: int

    @property
    def sides(self) -> tuple[tuple[str, str], ...]:
        """Return the vectors of images and of captions, by the folder of our layout."""
        return (FOLDERS["image"], self.image), (FOLDERS["text"], self.text)

    @property
    def files(self) -> list[str]:
        """Return each file once."""
        names = filter(None, (self.image, self.text, self.metadata))
        return list(dict.fromkeys(map(outer_file, names)))


def publish_inventory(project: Project, config: ReadyEmbeddings) -> Artifact:
    """Publish the artifact `corpus` of kind `embeddings`: the inventory of the files.

    Its file is `files.parquet` (name, bytes, sha256). The identity of the corpus is names and
    digests in order, so a folder that is moved stays the same corpus. A terabyte is read for its
    digests once.

    Raises:
        CorpusError: Naming the file that is missing, damaged or does not fit.
    """
    parts = find_parts(config)
    files = measured_files(project, config, parts)

    def write(staging: Path, _: Scratch) -> dict[str, Any]:
        files.to_parquet(staging / FILES_FILE, index=False)
        return {
            "shards": len(parts),
            "bytes": int(files["bytes"].sum()),
            "pairs": sum(part.rows for part in parts),
            "dimension": parts[0].dimension,
        }

    content = files[["name", "sha256"]].to_numpy().tolist()
    return project.store.build(resolve(project, "corpus", content=content), write)


def measured_files(project: Project, config: ReadyEmbeddings, parts: list[Part]) -> pd.DataFrame:
    """Return name, bytes and SHA-256 of the files of all parts, each once."""
    names = list(dict.fromkeys(name for part in parts for name in part.files))
    paths = [config.embeddings / name for name in names]
    digests = [
        remembered_sha256(project.store.root, path)
        for path in progress(paths, "checking files", "file", len(paths))
    ]
    sizes = [path.stat().st_size for path in paths]
    return pd.DataFrame({"name": names, "bytes": sizes, "sha256": digests})


def find_parts(corpus: ReadyEmbeddings) -> list[Part]:
    """Find the parts of the folder by names and headers; no vector is read.

    Raises:
        CorpusError: Naming the file that is missing, cut, of another form, or does not fit the
            others of its part.
    """
    if not (folder := corpus.embeddings).is_dir():
        raise CorpusError(f"corpus.embeddings: {folder} is not a folder")
    layout = [name.replace("VECTOR", corpus.vector_column) for name in LAYOUTS[corpus.layout]]
    files = {name: _numbers(folder, outer_file(name)) for name in layout if name}
    numbers = set[str]().union(*files.values()) or {"N"}
    for name, found in files.items():
        if lacking := sorted(numbers - found):
            raise CorpusError(
                f"{folder / outer_file(name).format(lacking[0])}: is missing (of {len(lacking)} such), "
                f"and `corpus.layout: {corpus.layout}` needs it; download what is missing, take the "
                "other files of that number away, or set `clip-retrieval-images` if only images "
                "have vectors"
            )
    parts: list[Part] = []
    for number in progress(sorted(numbers), "checking files", "part", len(numbers)):
        image, text, metadata = (name.format(number) for name in layout)
        table = folder / metadata
        require_text_columns(table, schema_of_table(table), corpus.columns().items())
        shapes = {name: read_shape(folder / name) for name in (image, text) if name}
        rows, dimension = shapes[image]
        parts.append(Part(number, image, text, metadata, rows, dimension))
        counts = {metadata: rows_of_table(table)} | {name: shapes[name][0] for name in shapes}
        for name, count in counts.items():
            if count != rows:
                raise CorpusError(
                    f"{folder / name}: {count:,} rows, {image} has {rows:,}; the files of a part "
                    f"must belong together: {DAMAGED_REMEDY}"
                )
        for name, (_, width) in shapes.items():
            if width != parts[0].dimension:
                raise CorpusError(
                    f"{folder / name}: vectors of {width} numbers, {parts[0].image} has "
                    f"{parts[0].dimension}; all must come from one model"
                )
    if not sum(part.rows for part in parts):
        raise CorpusError(f"{folder}: its files hold no row")
    return parts


def _numbers(folder: Path, name: str) -> set[str]:
    """Return what is in place of `{}` in the files that a name of the layout finds."""
    parent, _, last = name.rpartition("/")
    pattern = re.compile(re.escape(last).replace(r"\{\}", r"([\w.-]+)"))
    place = folder / parent
    files = place.iterdir() if place.is_dir() else ()
    return {match[1] for path in files if (match := pattern.fullmatch(path.name))}
