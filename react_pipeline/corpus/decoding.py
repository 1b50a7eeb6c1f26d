"""Decoding strangers' images in processes with limits of memory and processor time, which they may
kill: what kills one costs that image and nothing else.

Many images are decoded ahead by workers of torch's loader (`load_batches`), a few by a pool of one
process (`decode_apart`). Does not belong here: decoding itself (`images`).
"""

import logging
import os
import re
import resource
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from PIL import Image

from react_pipeline.corpus.images import BadImage, decode_image, decode_what_is_there
from react_pipeline.store import ReactError

DECODE_SECONDS = 20
"""Processor time for one image; images of 100 megapixels take two seconds."""
WORKER_BYTES = 4 << 30
"""Memory that a decoding process may take beyond what it has when it starts."""
IDLE_SECONDS = 60
"""After this time a process without work ends; also that of a program that was killed."""
_SIGNAL = re.compile(r"SIG[A-Z0-9]+")
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid")

logger = logging.getLogger(__name__)


def decode_apart(
    data: bytes, max_pixels: int, *, is_lenient: bool = False
) -> tuple[Image.Image, bool]:
    """Decode an image as `images.decode_image` does, in a process with limits of memory and
    processor time: this one if it is a worker of `load_batches`, else one for all threads.

    Args:
        is_lenient: Of a truncated file, give the part that is there.

    Returns:
        The image, and whether its file is truncated.

    Raises:
        BadImage: As `decode_image`, or with reason `too_slow` or `killed_decoder`.
    """
    return _decoder.decode(data, max_pixels, is_lenient)


def load_batches(
    dataset: Any,
    batches: Iterable[Any],
    workers: int,
    collate: Callable[[list[Any]], Any],
    *,
    pin_memory: bool = False,
    spawn: bool = False,
) -> Iterator[Any]:
    """Yield batches of a dataset of torch that calls `decode_apart`, loaded ahead by `workers`
    processes or, with 0, in this one.

    When a worker dies, what was being loaded is loaded again here, where each image is decoded
    apart; then new workers go on.

    Args:
        dataset: Gives, for an image that is not decoded, a row that says why.
        spawn: Start fresh workers: they read from servers, whose client does not survive a fork.

    Raises:
        ReactError: If a worker died and none of its images is the reason.
    """
    from torch.utils.data import DataLoader

    pending: deque[Any] = deque()

    def asked_for() -> Iterator[Any]:
        for indices in batches:
            pending.append(indices)
            yield indices

    source = asked_for()
    while True:
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=source,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            worker_init_fn=_start_worker if workers else None,
            multiprocessing_context="spawn" if spawn and workers else None,
        )
        try:
            for batch in _deaths_at_hand(loader):
                pending.popleft()
                yield batch
            return
        except RuntimeError as error:
            if not _DEAD_WORKER.match(str(error)):
                raise
            killed = _decoder.killed
            again = [collate([dataset[index] for index in indices]) for indices in pending]
            if _decoder.killed == killed:
                raise ReactError(
                    "a decoding process died, probably out of memory; what is done is kept: run "
                    "again, with fewer workers, a smaller batch, or more shared memory"
                ) from error
        logger.warning("%d image(s) killed a decoding process", _decoder.killed - killed)
        pending.clear()
        yield from again


def _deaths_at_hand(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches of a loader, and report the death of a worker only where a batch is asked
    for.

    By its handler of signals torch would raise it wherever the main thread is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield from loader
        return
    before = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
    batches = iter(loader)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield from batches
    finally:
        with suppress(ValueError):  # ended by the garbage collector in another thread
            signal.signal(signal.SIGCHLD, before)


def _start_worker(_number: int) -> None:
    # transformers' tokenizers warn where a process forks after their own threads began; here they
    # need none.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _limit_memory()
    _decoder.is_here = True


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, which then ends it
    _limit_memory()


class _Decoder:
    """The pool of one process of `decode_apart`.

    Attributes:
        is_here: This process itself has limits, and may be killed.
        killed: How many images killed it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_here = False
        self.killed = 0
        self.pool: Any = None

    def decode(self, *image: Any) -> tuple[Image.Image, bool]:
        if self.is_here:
            return _decode(DECODE_SECONDS, *image)
        with self.lock:  # of several images, which one killed it would not be known
            # Not with torch's loader, whose start costs more; not from the standard library, whose
            # processes run the user's script again. Its modules import each other, which threads
            # must not do at once.
            from joblib.externals.loky.process_executor import (
                BrokenProcessPool,
                ProcessPoolExecutor,
            )

            if self.pool is None:
                paths = os.pathsep.join(filter(None, sys.path))
                self.pool = ProcessPoolExecutor(
                    1, timeout=IDLE_SECONDS, initializer=_start_process, env={"PYTHONPATH": paths}
                )
                # Else a process that multiprocessing started waits for it when it ends.
                Finalize(None, self.pool.shutdown, (True, True), exitpriority=1)
            try:
                answer: tuple[Image.Image, bool]
                answer = self.pool.submit(_decode, DECODE_SECONDS, *image).result()
            except BrokenProcessPool as error:
                self.pool = None
                self.killed += 1
                signals = ", ".join(_SIGNAL.findall(str(error)))
                if "SIGXCPU" in signals:
                    raise BadImage("too_slow", f"more than {DECODE_SECONDS} s") from error
                raise BadImage("killed_decoder", signals) from error
            return answer


_decoder = _Decoder()


def _forget() -> None:
    # A forked process has no pool of its own yet, and the lock may be held.
    _decoder.lock, _decoder.pool = threading.Lock(), None


os.register_at_fork(after_in_child=_forget)


def _decode(
    seconds: int, data: bytes, max_pixels: int, is_lenient: bool
) -> tuple[Image.Image, bool]:
    _limit_time(seconds)
    if is_lenient:
        return decode_what_is_there(data, max_pixels)
    return decode_image(data, max_pixels), False


def _limit_memory() -> None:
    """Let this process take no more than `WORKER_BYTES` in addition: what asks for more gets a
    MemoryError, and its image is counted.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + WORKER_BYTES
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _limit_time(seconds: int) -> None:
    """Let the kernel end this process if the next image takes so much processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = int(used.ru_utime + used.ru_stime + seconds) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    end = end if hard == resource.RLIM_INFINITY else min(end, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (end, hard))
