"""Decoding strangers' images in processes with limits of memory and processor time, which they may
kill: what kills one costs that image and nothing else.

Many images are decoded ahead by a pool of processes (`load_batches`), a few by a pool of one
(`decode_apart`). Does not belong here: decoding itself (`images`).
"""

import logging
import os
import pickle
import re
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from PIL import Image

from react_pipeline.corpus.images import BadImage, decode_image, decode_what_is_there
from react_pipeline.corpus.progress_lines import progress
from react_pipeline.store import CorpusError, ReactError

DECODE_SECONDS = 20
"""Processor time for one image; images of 100 megapixels take two seconds."""
WORKER_BYTES = 4 << 30
"""Memory that a decoding process may take beyond what it has when it starts."""
IDLE_SECONDS = 180
"""After this time a process without work ends."""
WATCH_SECONDS = 0.1
"""Between two looks whether the program is still there."""
BATCHES_AHEAD = 3
"""Batches that each process loads or has loaded before they are asked for."""
_SIGNAL = re.compile(r"SIG[A-Z0-9]+")

logger = logging.getLogger(__name__)


def decode_apart(data: bytes, max_pixels: int, *, is_lenient: bool = False) -> Image.Image:
    """Decode an image as `images.decode_image` does, in a process with limits of memory and
    processor time: this one if it is a worker of `load_batches`, else one for all threads.

    Args:
        is_lenient: Truncated files are used as far as they decode.

    Raises:
        BadImage: As `decode_image`, or with reason `too_slow` or `killed_decoder`.
    """
    image = (DECODE_SECONDS, data, max_pixels, is_lenient)
    if _loaded:
        return _decode(*image)
    with _lock:  # of several images, which one killed it would not be known
        try:
            answer: Image.Image = _decoder.submit(_decode, *image).result()
        except BrokenExecutor as error:
            _decoder.pool = None
            signals = ", ".join(_SIGNAL.findall(str(error)))
            if "SIGXCPU" in signals:
                raise BadImage("too_slow", f"more than {DECODE_SECONDS} s") from error
            raise BadImage("killed_decoder", signals) from error
        return answer


@dataclass(frozen=True)
class Decoder:
    """Reads, decodes and prepares images. Can be sent to other processes, which import little else
    for it.

    Attributes:
        read: Returns the file of an image, by what stands for the image in a batch.
        prepare: Maps an RGB image to a tensor.
        is_lenient: As in `decode_apart`.
    """

    read: Callable[[Any], bytes]
    prepare: Callable[[Image.Image], Any]
    max_pixels: int
    is_lenient: bool = False

    def load(self, images: Iterable[Any]) -> list[Any]:
        """Return an array of each image's tensor, or the error that says why there is none."""
        return list(map(self._load, images))

    def _load(self, one: Any) -> Any:
        try:
            image = decode_apart(self.read(one), self.max_pixels, is_lenient=self.is_lenient)
            return self.prepare(image).numpy()
        except (BadImage, ReactError) as error:
            return error


def load_batches(
    decoder: Decoder, batches: Iterable[Any], workers: int
) -> Iterator[tuple[Any, list[Any]]]:
    """Yield batches of images with what `decoder.load` gives, loaded ahead by `workers` processes
    or, with 0, in this one.

    The processes stay for the next call with an equal decoder. When one dies, what was being loaded
    is loaded again here, where each image is decoded apart; then new ones go on.

    Args:
        decoder: Sent to each process once.
    """
    global _loaders
    if not workers:
        yield from ((batch, decoder.load(batch)) for batch in batches)
        return
    start = (workers, WORKER_BYTES, pickle.dumps(decoder))
    if _loaders is None or _loaders.start != start:
        _loaders = Processes(*start)
    loaders, source = _loaders, iter(batches)
    pending, futures = deque[Any](), deque[Future[Any]]()
    try:
        while True:
            try:
                for batch in islice(source, BATCHES_AHEAD * workers - len(pending)):
                    pending.append(batch)
                    futures.append(loaders.submit(_load, batch))
                if not pending:
                    return
                results = futures.popleft().result()
                loaded = [(pending.popleft(), results)]
            except BrokenExecutor:
                logger.warning("a decoding process died; its images are decoded one by one")
                loaders.pool = None
                loaded = [(batch, decoder.load(batch)) for batch in pending]
                pending.clear()
                futures.clear()
            yield from loaded
    finally:
        for future in futures:
            future.cancel()


class Processes:
    """Fresh processes, started when the first task comes; they end with this one, or idle.

    Attributes:
        start: How many; bytes that each may take beyond what it has when it starts, 0 for all; and
            what each keeps in `_loaded`, pickled.
        env: Variables of their environment, besides those of this process.
        pool: Their executor. Set it to None after one has died.
    """

    def __init__(self, count: int, memory_bytes: int = 0, *loaded: bytes, **env: str) -> None:
        """Start none yet."""
        self.start = (count, memory_bytes, *loaded)
        self.env = env
        self.pool: Any = None

    def submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Call a function in one of them; a `BrokenExecutor` if one dies meanwhile."""
        if self.pool is None:
            # Not from the standard library, whose processes run the user's script again.
            from joblib.externals.loky.process_executor import ProcessPoolExecutor

            count, *start = self.start
            paths = os.pathsep.join(filter(None, sys.path))
            self.pool = ProcessPoolExecutor(
                count,
                timeout=IDLE_SECONDS,
                initializer=_begin,
                initargs=(os.getpid(), *start),
                env={"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **self.env},
            )
            # A process that multiprocessing started would otherwise wait for the pool when it ends.
            Finalize(self, self.pool.shutdown, kwargs={"kill_workers": True}, exitpriority=1)
        future: Future[Any] = self.pool.submit(function, *args)
        return future

    def end(self) -> None:
        """End them now, whatever they do."""
        if self.pool is not None:
            self.pool.shutdown(kill_workers=True)


def in_processes(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    environments: Sequence[Mapping[str, str]],
    title: str,
    remedy: str,
) -> Iterator[Any]:
    """Yield the function's result for each item, in order. Items are dealt in turn to one process
    for each of `environments`: its variables besides those of this process.

    Raises:
        CorpusError: If a process dies, with the remedy.
    """
    processes = [Processes(1, 0, **environment) for environment in environments]
    try:
        turns = zip(cycle(processes), items)  # noqa: B905 - the first has no end
        futures = [one.submit(function, item) for one, item in turns]
        for future in progress(futures, title, "part", len(futures)):
            yield future.result()
    except BrokenExecutor as error:
        raise CorpusError(
            f"{title}: a process died, probably out of memory; what it had finished is kept: run "
            f"again, {remedy}"
        ) from error
    finally:
        for one in processes:
            one.end()  # else an interrupted run would wait for what is at work


def _begin(program: int, memory_bytes: int, loaded: bytes | None = None) -> None:
    def watch() -> None:
        while os.getppid() == program:
            time.sleep(WATCH_SECONDS)
        os._exit(1)  # it was killed

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, which then ends it
    threading.Thread(target=watch, daemon=True).start()
    if loaded:  # before what this process has is looked at
        _loaded.append(pickle.loads(loaded))  # noqa: S301 - this program's own
    if memory_bytes:
        # An image that asks for more gets a MemoryError, and is counted.
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + memory_bytes)


def _load(batch: Any) -> list[Any]:
    return _loaded[0].load(batch)


def _decode(seconds: int, data: bytes, max_pixels: int, is_lenient: bool) -> Image.Image:
    # The kernel ends this process if the image takes so much processor time.
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 1)
    return (decode_what_is_there if is_lenient else decode_image)(data, max_pixels)


def _limit(what: int, amount: int) -> None:
    hard = resource.getrlimit(what)[1]
    soft = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    resource.setrlimit(what, (soft, hard))


_lock = threading.Lock()
_decoder = Processes(1, WORKER_BYTES)
_loaders: Processes | None = None
_loaded: list[Decoder] = []
"""In a process of `load_batches`: its decoder."""


def _forget() -> None:
    # A forked process has no pool of its own yet, and the lock may be held.
    global _lock, _loaders
    _lock, _loaders, _decoder.pool = threading.Lock(), None, None


os.register_at_fork(after_in_child=_forget)
