"""The demo's corpus as webdataset tars, and its labelled sets as image folders with a manifest.

The same packages give the same bytes. Does not belong here: which drawings and captions there are
(`sources`, `evaluation`), pixels (`drawing`).
"""

import csv
import io
import json
import multiprocessing
import random
import signal
import tarfile
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from react_pipeline.corpus import progress

from .drawing import BlankError, render, render_file
from .evaluation import labelled_emoji
from .packages import CORPUS_SOURCES
from .sources import Drawing, corpus_drawings, subject_of

IMAGE_SIZE = 128
PAIRS_PER_SHARD = 2_000
SHUFFLE_SEED = 0
SAMPLED = 128
"""Drawings that are rendered to say what all of them take: 0.3 s."""


def build_corpus(directory: Path, workers: int = 2) -> dict[str, int]:
    """Render every drawing and write `00000.tar` ... (KEY.png, KEY.txt, KEY.json) into `directory`.

    Returns:
        Pairs by source (`pairs/openmoji`, ...) and skipped drawings by reason (`skipped/blank`,
        ...).

    Raises:
        InputError: If a package of the demo is missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    with closing(_rendered(workers, counts)) as pairs:
        _write_shards(directory, pairs)
    return dict(sorted(counts.items()))


def captioned_images(workers: int = 2) -> Iterator[dict[str, Any]]:
    """Yield each pair of the corpus: `image` (decoded on first use), `caption`, and `subject`.

    Raises:
        InputError: If a package of the demo is missing.
    """
    with closing(_rendered(workers, Counter())) as pairs:
        for drawing, image in pairs:
            picture = Image.open(io.BytesIO(image))
            yield {"image": picture, "caption": drawing.caption, "subject": drawing.subject}


def _rendered(workers: int, counts: Counter[str]) -> Generator[tuple[Drawing, bytes], None, None]:
    """Yield every drawing of the corpus with its PNG; count these, and those that have none."""
    drawings = _shuffled()
    # Fresh interpreters: a fork of a process in which torch has started threads may hang. No
    # `Pool`: it ends its processes by SIGTERM, which they ignore if Dagster was started in a shell
    # that ignores SIGINT. Ctrl-C reaches these processes too; the one that started them ends them.
    ignoring = (signal.signal, (signal.SIGINT, signal.SIG_IGN))
    pool = ProcessPoolExecutor(max(1, workers), multiprocessing.get_context("spawn"), *ignoring)
    try:
        rendered = pool.map(_render, drawings, chunksize=64)
        shown = progress(rendered, "drawing the corpus", "image", len(drawings))
        yield from _usable(zip(drawings, shown, strict=True), counts)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error too, without what has not begun


def build_evaluation(name: str, directory: Path) -> int:
    """Write the labelled images of a set of `evaluation.GROUPS` and `manifest.csv` (path, class,
    subject).

    Returns how many there are; errors as of `labelled_images`.
    """
    images = list(labelled_images(name))
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("path", "class", "subject"))
        for image in images:
            (directory / image["path"]).write_bytes(_png(image["image"]))
            rows.writerow((image["path"], image["class"], image["subject"]))
    return len(images)


def labelled_images(name: str) -> Iterator[dict[str, Any]]:
    """Yield each labelled image of a set of `evaluation.GROUPS`: `path`, `image`, `class`, and
    `subject`.

    They are Twemoji's drawings, an artist who is not in the corpus.

    Raises:
        InputError: If the name is unknown or the package is missing.
    """
    for path, label in labelled_emoji(name):
        image = render_file(path, IMAGE_SIZE)
        subject = subject_of(path.stem)
        yield {"path": f"{path.stem}.png", "image": image, "class": label, "subject": subject}


def drawing_cost() -> tuple[int, float, float]:
    """How many drawings the corpus has; of one of them the processor seconds and the bytes in a
    shard, from a sample.

    Raises:
        InputError: If a package of the demo is missing.
    """
    drawings = _shuffled()
    began = time.process_time()
    sample = drawings[:SAMPLED]
    rendered = [_render(drawing) for drawing in sample]
    seconds = time.process_time() - began
    with TemporaryDirectory() as name:
        _write_shards(Path(name), _usable(zip(sample, rendered, strict=True), Counter()))
        written = sum(path.stat().st_size for path in Path(name).iterdir())
    return len(drawings), seconds / len(sample), written / len(sample)


def _shuffled() -> list[Drawing]:
    drawings = sorted(corpus_drawings(), key=lambda drawing: drawing.key)
    random.Random(SHUFFLE_SEED).shuffle(drawings)  # noqa: S311 - a fixed order, not a secret
    return drawings


def _render(drawing: Drawing) -> bytes | str:
    """PNG of a drawing, or the reason why there is none."""
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


def _usable(
    rendered: Iterable[tuple[Drawing, bytes | str]], counts: Counter[str]
) -> Iterator[tuple[Drawing, bytes]]:
    for drawing, image in rendered:
        if isinstance(image, str):
            counts[f"skipped/{image}"] += 1
        else:
            counts[f"pairs/{drawing.source}"] += 1
            yield drawing, image


def _write_shards(directory: Path, pairs: Iterator[tuple[Drawing, bytes]]) -> None:
    licences = {source.name: source.licence for source in CORPUS_SOURCES}
    for number in count():
        if not (block := list(islice(pairs, PAIRS_PER_SHARD))):
            return
        with tarfile.open(directory / f"{number:05d}.tar", "w") as shard:
            for drawing, image in block:
                about = {"licence": licences[drawing.source], "source": drawing.source}
                fields = json.dumps(
                    {**about, **({"subject": drawing.subject} if drawing.subject else {})}
                )
                for kind, content in (
                    ("png", image),
                    ("txt", drawing.caption.encode()),
                    ("json", fields.encode()),
                ):
                    # TarInfo's defaults (time 0, owner 0, mode 644) keep the bytes the same
                    # everywhere.
                    member = tarfile.TarInfo(f"{drawing.key}.{kind}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
