"""Downloads: which URLs are tried and how often, so that nothing is fetched twice.

The directory of a download is a journal: what is on record decides what is tried next, so a call
that was killed and one that is repeated take the same way. Does not belong here: what runs in the
downloading processes (`download_process`), the form of the journal (`download_journal`), what may
be connected to (`public_addresses`).
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from react_pipeline.corpus import LEDGER_COLUMNS
from react_pipeline.extensions.web.download_journal import Journal, Kept, reason_of
from react_pipeline.project import on_cluster, require_shared, spread
from react_pipeline.settings import DownloadConfig
from react_pipeline.store import CorpusError
from react_pipeline.web_policy import REFUSED_URL, plain_url

IMAGE_COLUMNS = ["row", "source_sha256"]

_URLS_PER_TASK = 1_000
_TASKS_AT_LEAST = 64
"""Of a cluster, as long as each has two URLs: how many executors there are is not known here."""
_PAUSE_SECONDS = 1.0
_ORPHAN_CHECK_SECONDS = 0.5
_START_METHOD = "spawn"
"""A fork server would start them sooner, and keep what it loaded in memory for as long as this
process lives.
"""
_TASKS = "tasks"


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Downloaded:
    """The result of a download.

    Attributes:
        directory: The journal; remove it when the images were taken over.
        images: Columns row, source_sha256: of the bytes that came, which `image_size` may have made
            smaller. In the order of the table.
        failed: The ledger: columns row, url, reason, detail, attempts. In the order of the table.
        kept: Where the image of each row of `images` is; unlike `read` it checks nothing.
    """

    directory: Path
    images: pd.DataFrame
    failed: pd.DataFrame
    kept: dict[int, Kept] = field(repr=False)

    def read(self, row: int) -> bytes:
        """The image file of a row of `images`, its digest checked.

        Raises:
            CorpusError: If the directory no longer holds what was fetched.
        """
        kept = self.kept[row]
        try:
            with kept.path.open("rb") as file:
                file.seek(kept.offset)
                data = file.read(kept.size_bytes)
        except OSError as error:
            raise CorpusError(f"{kept.path}: cannot be read ({error.strerror or error})") from error
        if hashlib.sha256(data).hexdigest() != kept.sha256:
            raise CorpusError(
                f"{kept.path}: does not hold what was fetched; remove {kept.path.parent} and "
                "run again"
            )
        return data


def download_images(
    table: pd.DataFrame,
    directory: Path,
    settings: DownloadConfig,
    max_pixels: int,
    earlier: Sequence[Path] = (),
) -> Downloaded:
    """Fetch the images of a table's URLs into `directory`; what is there already, or in an earlier
    journal, is not fetched again.

    An image counts as fetched only if it can be decoded by the corpus' rules
    (`images.decode_image`). Rows of equal URL share one fetch. The table may have grown or shrunk
    since an earlier call. What failed is tried again, at most `retries` times, after everything
    else had its turn, unless its reason is in `download_journal.PERMANENT`. URLs of other schemes
    than http and https are refused (`refused_url`).

    Args:
        table: Columns row (unique integers), url, and perhaps hash: SHA-256 or MD5 in hexadecimal
            digits, which the file that comes must have; "" for any file. Of equal URLs the first
            row's counts.
        directory: Made if missing.
        max_pixels: Larger images fail as `too_many_pixels`, undecoded.
        earlier: Directories of other downloads. What failed there for good is not tried again.
        settings: On a cluster each file of URLs is a task, and `processes` means nothing.

    Raises:
        CorpusError: If a downloading process dies.
        OSError: If the disk refuses a write.
    """
    urls = [plain_url(url) for url in table["url"]]
    hashes = table["hash"].fillna("") if "hash" in table else [""] * len(table)
    hash_of: dict[str, str] = {}
    for url, sha256_or_md5 in zip(urls, hashes, strict=True):
        if url is not None:
            hash_of.setdefault(url, sha256_or_md5)
    journal = Journal.read(directory, earlier)
    with _Processes(settings.processes) as processes:
        for number in range(settings.retries + 1):
            journal.forget_other_files(hash_of)
            missing = [url for url in hash_of if journal.is_worth_trying(url, settings.retries)]
            if not missing:
                break
            if number:
                time.sleep(number * _PAUSE_SECONDS)
            directory.mkdir(parents=True, exist_ok=True)
            # img2dataset makes keys of as many digits as this number has, so one URL alone would
            # have none.
            spread_out = _TASKS_AT_LEAST if on_cluster() else settings.processes
            per_task = max(2, min(_URLS_PER_TASK, -(-len(missing) // spread_out)))
            task = DownloadTask(directory, per_task, settings, max_pixels)
            _fetch(
                {url: hash_of[url] for url in missing},
                journal.next_number,
                task,
                processes,
            )
            journal = Journal.read(directory, earlier)
    journal.forget_other_files(hash_of)
    return _result(table, urls, directory, journal)


def end_with_parent(run: Connection) -> None:
    """End this process soon after the run's is gone or closes its end of `run`: a stopped run
    fetches no more.
    """
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too; the run ends it

    def watch() -> None:
        while os.getppid() == parent and not run.poll(_ORPHAN_CHECK_SECONDS):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Processes:
    """Downloading processes, started when they are first needed; they end with this one, however it
    ends.

    They replace img2dataset's own distributor, which prints, and waits forever if one of them is
    killed.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._context = multiprocessing.get_context(_START_METHOD)
        # No event or lock: a process that is killed while it holds one would block all others.
        self._theirs, self._ours = self._context.Pipe(duplex=False)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self._pool is not None:
            if error is not None:
                # Else an interrupted run would wait until the files at work are done.
                self._ours.close()
            self._pool.shutdown(cancel_futures=True)
        for end in (self._ours, self._theirs):
            end.close()

    def run(self, task: DownloadTask, files: Sequence[tuple[int, str]], urls: int) -> None:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.count, self._context, end_with_parent, (self._theirs,)
            )
        try:
            sizes: dict[Future[None], int] = {}
            for place, item in enumerate(files):
                sizes[self._pool.submit(task.fetch, item)] = min(
                    task.per_task, urls - place * task.per_task
                )
            with tqdm(
                total=urls, desc="downloading images", unit="image", disable=None, leave=False
            ) as bar:
                for done in as_completed(sizes):
                    done.result()
                    bar.update(sizes[done])
        except BrokenProcessPool as error:
            raise CorpusError(
                "corpus.download: a downloading process died, probably out of memory; what was "
                "fetched is kept: run again, with fewer `processes` or `threads`"
            ) from error


@dataclass(frozen=True)
class DownloadTask:
    """Fetches files of at most `per_task` URLs; what is not on record afterwards is tried in the
    next round.
    """

    directory: Path
    per_task: int
    settings: DownloadConfig
    max_pixels: int

    def __call__(self, item: tuple[int, str]) -> str:
        """`fetch` on a cluster: what went wrong, or "". A task that ran before may have made its
        files.
        """
        require_shared(self.directory)
        try:
            self.fetch(item)
        except OSError as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def fetch(self, item: tuple[int, str]) -> None:
        """Fetch a file of URLs, given by its number and path."""
        from react_pipeline.extensions.web.download_process import fetch_file

        fetch_file(item, self.directory, self.per_task, self.settings, self.max_pixels)


def _fetch(
    urls: Mapping[str, str],
    first: int,
    task: DownloadTask,
    processes: _Processes,
) -> None:
    """One attempt at each URL, given with the hash that its image must have."""
    tasks = task.directory / _TASKS
    shutil.rmtree(tasks, ignore_errors=True)
    tasks.mkdir()
    files = _write_tasks(urls, tasks, first, task.per_task)
    if not on_cluster():
        processes.run(task, files, len(urls))
    else:
        failures = [error for error in spread(task, files, "downloading images") if error]
        for error in failures:
            logger.warning("a file of URLs was not fetched to its end: %s", error)
        if len(failures) == len(files):
            raise OSError(f"{task.directory}: no task could write what it fetched: {failures[0]}")
    shutil.rmtree(tasks)


def _write_tasks(
    urls: Mapping[str, str], tasks: Path, first: int, per_task: int
) -> list[tuple[int, str]]:
    files = []
    whole = pa.table(
        {"url": pa.array(urls.keys(), pa.string()), "hash": pa.array(urls.values(), pa.string())}
    )
    for number, start in enumerate(range(0, len(urls), per_task), start=first):
        part = whole.slice(start, per_task)
        path = tasks / f"{number}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, part.schema) as writer:
            writer.write_table(part)
        files.append((number, str(path)))
    return files


def _result(
    table: pd.DataFrame, urls: list[str | None], directory: Path, journal: Journal
) -> Downloaded:
    kept: dict[int, Kept] = {}
    images = []
    failed = []
    for row, url, plain in zip(table["row"], table["url"], urls, strict=True):
        if plain is None:
            failed.append(
                (int(row), str(url)[:200], REFUSED_URL, "not a plain http or https URL", 0)
            )
        elif place := journal.kept.get(plain):
            kept[int(row)] = place
            images.append((int(row), place.source_sha256))
        else:
            errors = journal.errors.get(plain, [])
            reason, detail = reason_of(errors[-1]) if errors else ("unknown", "")
            failed.append((int(row), url, reason, detail, len(errors)))
    return Downloaded(
        directory,
        pd.DataFrame(images, columns=IMAGE_COLUMNS).astype({"row": "int64"}),
        pd.DataFrame(failed, columns=LEDGER_COLUMNS).astype({"row": "int64", "attempts": "int64"}),
        kept,
    )
