"""Published vectors and metadata: they stay in place, and images of chosen pairs are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from react_pipeline.extensions.web import TableColumns

if TYPE_CHECKING:
    from react_pipeline.corpus import CorpusSize, CorpusWork
    from react_pipeline.project import Project
    from react_pipeline.store import Artifact

LayoutName = Literal[
    "clip-retrieval", "clip-retrieval-images", "datacomp-b32", "datacomp-l14", "parquet"
]


class ReadyEmbeddings(TableColumns):
    """Files of one of the layouts of `layout`."""

    kind: Literal["embeddings"] = "embeddings"
    embeddings: Path
    layout: LayoutName = "clip-retrieval"
    vector_column: str = "vector"
    subset: Path | None = None
    indices: Path | None = None

    variants: ClassVar[tuple[str, ...]] = ("datacomp",)

    def identity(self) -> dict[str, Any]:
        """Where vectors, URLs and captions are."""
        columns = {"url_column", "caption_column", "hash_column", "vector_column"}
        return self.model_dump(mode="json", include={"kind", "layout", *columns})

    def publish(self, project: Project) -> Artifact:
        """Take stock of the files."""
        from react_pipeline.extensions.ready.corpus import publish_inventory

        return publish_inventory(project, self)

    @property
    def has_vectors(self) -> bool:
        """Whether vectors are there: always."""
        return True

    @property
    def has_index(self) -> bool:
        """If `indices` are configured."""
        return self.indices is not None

    def adopt_embeddings(self, project: Project) -> Artifact:
        """The files, where they are or converted once."""
        from react_pipeline.extensions.ready.embeddings import adopt_embeddings

        return adopt_embeddings(project, self)

    def adopt_index(self, project: Project) -> Artifact | None:
        """Those of `indices`."""
        from react_pipeline.extensions.ready.index import adopt_index

        return adopt_index(project, self.indices) if self.indices is not None else None

    def size(self) -> CorpusSize:
        """The rows of the files, or of the subset."""
        import numpy as np

        from react_pipeline.corpus import IMAGE_BYTES, CorpusSize
        from react_pipeline.extensions.ready.layout import find_parts
        from react_pipeline.store import open_regular

        rows = sum(part.rows for part in find_parts(self.embeddings, self))
        if self.subset is not None:
            with open_regular(self.subset):
                rows = min(rows, len(np.load(self.subset, mmap_mode="r", allow_pickle=False)))
        return CorpusSize(rows, IMAGE_BYTES)

    def work(self, size: CorpusSize, dimension: int) -> CorpusWork:
        """Vectors are read twice, for their digests and for their values."""
        from react_pipeline.corpus import CorpusWork
        from react_pipeline.extensions.ready.layout import LAYOUTS

        has_text = bool(LAYOUTS[self.layout].text)
        return CorpusWork(
            read_bytes=8.0 * dimension * size.pairs,
            checked_rows=size.pairs,
            encodes_images=False,
            encodes_captions=not has_text,
            writes_vectors=not has_text or self.subset is not None,
        )

    def description(self) -> str:
        """How many vectors there are."""
        from react_pipeline.extensions.ready.layout import find_parts

        rows = sum(part.rows for part in find_parts(self.embeddings, self))
        return f"{rows:,} ready embeddings in {self.embeddings}"

    @classmethod
    def template(cls, name: str, model: str) -> str:
        """Those of clip-retrieval, or of DataComp."""
        if name == "datacomp":
            side = "l14" if "ViT-L-14" in model else "b32"
            return f"""\
kind: embeddings # as DataComp publishes them; only the images of chosen pairs are fetched
embeddings: metadata # the folder with HEX.parquet next to HEX.npz
layout: datacomp-{side} # vectors of OpenAI's ViT-B-32 (b32) or ViT-L-14 (l14)
caption_column: text
hash_column: sha256
# subset: uids.npy # as DataComp-1B and DFN
"""
        return """\
kind: embeddings # as clip-retrieval writes them; only the images of chosen pairs are fetched
embeddings: embeddings # the folder with img_emb/, text_emb/ and metadata/
# indices: indices # ready image.index and text.index over them
url_column: url
caption_column: caption
"""
