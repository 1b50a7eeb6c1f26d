"""Configuration of the corpus: `corpus:` of `pipeline.yaml`.

Belongs here: its fields, their defaults and rules. Does not belong here: reading shards (`shards`),
taking stock (`corpus`).
"""

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from react_pipeline.settings.shard_patterns import check_shard_name
from react_pipeline.settings.training import Fraction, Section

MAX_PIXELS = 89_478_485
"""Of an image, width times height; half of the number at which Pillow refuses one."""

_SECRET = re.compile(
    r"key|secret|token|password|credential|auth|header|cookie|signature", re.IGNORECASE
)

Layout = Literal[
    "clip-retrieval", "clip-retrieval-images", "datacomp-b32", "datacomp-l14", "parquet", "pd12m"
]

_FIELDS_OF_KINDS: dict[str, tuple[str, ...]] = {
    "demo": (),
    "webdataset": ("shards", "storage", "keys", "caption_extension"),
    "images": ("images", "caption_extension", "caption_column"),
    "urls": ("urls", "url_column", "caption_column", "hash_column", "download"),
    "embeddings": (
        *("embeddings", "layout", "vector_column", "subset", "indices"),
        *("url_column", "caption_column", "hash_column", "download"),
    ),
}
"""Fields that mean something in some kinds only; the others hold for all."""
_REQUIRED = {
    "webdataset": ("shards", "a list of tar files, patterns such as data/*.tar, or URLs"),
    "images": (
        "images",
        "folders of images with captions next to them, or parquet files with images in them",
    ),
    "urls": ("urls", "a list of parquet or tsv files, or patterns such as tables/*.parquet"),
    "embeddings": ("embeddings", "the folder that holds the files of `layout`"),
}


class StorageConfig(Section):
    """How object stores are reached. Never a secret: those come from the environment or a profile."""

    endpoint_url: str | None = None
    region: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9-]+$",
        description="of a-z, 0-9 and '-', such as eu-central-1",
    )
    profile: str | None = None
    anonymous: bool = False
    requester_pays: bool = False

    @model_validator(mode="before")
    @classmethod
    def _holds_no_secret(cls, given: Any) -> Any:
        for name in given if isinstance(given, dict) else ():
            if isinstance(name, str) and name not in cls.model_fields and _SECRET.search(name):
                raise ValueError(
                    f"`{name}` looks like a secret, which a configuration file must not hold: use "
                    "the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
                    "GOOGLE_APPLICATION_CREDENTIALS) or `profile`"
                )
        return given

    @field_validator("endpoint_url")
    @classmethod
    def _endpoint_is_an_address(cls, url: str | None) -> str | None:
        # The value may be a secret, so it is not repeated.
        if url is not None and not re.fullmatch(r"https?://[^/@\s?#]+(/[^@\s?#]*)?", url):
            raise ValueError("must be http(s)://host:port, without user name, password or `?`")
        return url


class DownloadConfig(Section):
    """How images are fetched from URLs, by img2dataset."""

    processes: int = Field(default=1, gt=0)
    threads: int = Field(default=32, gt=0)
    timeout_seconds: float = Field(default=10, gt=0)
    retries: int = Field(default=2, ge=0)
    image_size: int | None = Field(default=None, gt=0)
    max_failed_fraction: Fraction = 0.6
    allow_private_addresses: bool = False

    @property
    def resizing(self) -> str | None:
        """What `image_size` does to an image, in words; None if images stay as they come."""
        return None if self.image_size is None else f"shorter side at most {self.image_size}"


class CorpusConfig(Section):
    """Where the image-text pairs come from."""

    kind: Literal["demo", "webdataset", "images", "urls", "embeddings"] = "webdataset"
    shards: tuple[str, ...] = ()
    storage: StorageConfig = StorageConfig()
    keys: Literal["global", "by_folder"] = "global"
    caption_extension: str = Field(
        default="txt",
        pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*$",
        description="the end of the captions' file names, without the first dot, such as txt",
    )
    images: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    url_column: str = "url"
    caption_column: str = "caption"
    hash_column: str | None = None
    embeddings: Path | None = None
    layout: Layout = "clip-retrieval"
    vector_column: str = "vector"
    subset: Path | None = None
    indices: Path | None = None
    download: DownloadConfig = DownloadConfig()
    max_bad_fraction: Fraction = 0.1
    max_pixels: int = Field(default=MAX_PIXELS, gt=0)
    max_caption_chars: int = Field(default=2_000, gt=0)

    @field_validator("shards", "images", "urls", mode="before")
    @classmethod
    def _one_text_is_a_list_of_one(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @field_validator("shards")
    @classmethod
    def _shards_are_paths_or_plain_urls(cls, shards: tuple[str, ...]) -> tuple[str, ...]:
        for shard in shards:
            check_shard_name(shard)
        return shards

    @field_validator("images", "urls")
    @classmethod
    def _tables_are_local(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for name in urls:
            if re.match(r"\s*[A-Za-z][A-Za-z0-9+.-]*:", name) or not name.strip():
                # Of an address only the scheme is repeated: the rest may hold a secret.
                shown = f"{name.partition('://')[0]}://…" if "://" in name else name
                raise ValueError(
                    f"{shown!r}: tables and folders are read from local paths only; download them "
                    "first"
                )
        return urls

    @model_validator(mode="after")
    def _fields_match_kind(self) -> Self:
        known = _FIELDS_OF_KINDS[self.kind]
        for field in sorted(
            {name for names in _FIELDS_OF_KINDS.values() for name in names} - set(known)
        ):
            default = type(self).model_fields[field].default
            if getattr(self, field) != default:
                kinds = " or ".join(
                    f"`{kind}`" for kind, names in _FIELDS_OF_KINDS.items() if field in names
                )
                raise ValueError(
                    f"`{field}` does nothing for kind `{self.kind}`: remove it, or set kind {kinds}"
                )
        if self.kind in _REQUIRED:
            field, what = _REQUIRED[self.kind]
            if not getattr(self, field):
                raise ValueError(f"kind `{self.kind}` needs `{field}`: {what}")
        if self.url_column == self.caption_column:
            raise ValueError("`url_column` and `caption_column` name the same column")
        return self
