"""What buckets add: `store: s3://BUCKET/PREFIX`, `gs://` and `az://`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from react_pipeline.extension import Extension, OpenStore
from react_pipeline.store import Store


class Buckets(Extension):
    """A store in object storage."""

    def stores(self) -> Mapping[str, OpenStore]:
        """S3, Google Cloud Storage and Azure."""
        return dict.fromkeys(("s3", "gs", "az"), _open_store)


def _open_store(url: str, folder: Path, cache_bytes: float) -> Store:
    from react_pipeline.extensions.buckets.bucket_store import BucketStore

    return BucketStore(url, folder, cache_bytes)
