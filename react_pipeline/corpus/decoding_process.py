"""Decoding strangers' images in processes that they may kill: what kills one costs that image and
nothing else.

Many images are decoded ahead by workers (`load_batches`); a few, by one process that is started
when it is first needed (`decode_apart`). Run as a program, this module is that process: it reads
requests from its input and answers on its output. Does not belong here: the limits themselves
(`decoding_limits`).
"""

import atexit
import logging
import os
import re
import signal
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import IO, Any

from PIL import Image

from react_pipeline.corpus.decoding_limits import limit_memory, limit_time
from react_pipeline.corpus.images import (
    LARGE_PIXELS,
    BadImage,
    decode_image,
    decode_what_is_there,
)
from react_pipeline.store import ReactError

_REQUEST = struct.Struct("<QQ?")
"""Bytes of the file, `max_pixels`, and whether it may be truncated; the file follows."""
_ANSWER = struct.Struct("<II?Q")
"""Width, height, whether the file is truncated; the pixels follow. Or the bytes of the reason why
there are none, which follows.
"""
_PROGRAM = [sys.executable, "-m", __name__]
_PIPE_BYTES = 1 << 20
"""A smaller pipe is filled and emptied many times an image."""
_KILLED = "killed_decoder"
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid")

logger = logging.getLogger(__name__)


def decode_apart(
    data: bytes, max_pixels: int, *, is_lenient: bool = False
) -> tuple[Image.Image, bool]:
    """As `images.decode_image`, in a process with limits of memory and of processor time: this one
    if it is a worker of `load_batches`, else one for all threads of this process.

    Args:
        is_lenient: Of a truncated file, give the part that is there.

    Returns:
        The image, and whether its file is truncated.

    Raises:
        BadImage: As `decode_image`, or with reason `killed_decoder`.
    """
    if _decoder.is_here:
        return _decode(data, max_pixels, is_lenient=is_lenient)
    with _decoder.lock:
        try:
            return _decoder.ask(data, max_pixels, is_lenient=is_lenient)
        except (OSError, struct.error) as error:
            _decoder.killed += 1
            raise BadImage(_KILLED, _decoder.end()) from error


def load_batches(
    dataset: Any,
    batches: Iterable[Any],
    workers: int,
    collate: Callable[[list[Any]], Any],
    *,
    pin_memory: bool = False,
    spawn: bool = False,
) -> Iterator[Any]:
    """Batches of a dataset of torch that calls `decode_apart`, loaded ahead by `workers` processes
    or, with 0, in this one.

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
    """The batches of a loader, which reports the death of a worker only where a batch is asked for.

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
    limit_memory()
    _decoder.is_here = True


def _decode(data: bytes, max_pixels: int, *, is_lenient: bool) -> tuple[Image.Image, bool]:
    limit_time()
    if is_lenient:
        return decode_what_is_there(data, max_pixels)
    return decode_image(data, max_pixels), False


class _Decoder:
    """The process of `decode_apart`.

    Attributes:
        is_here: This process itself has limits, and may be killed.
        killed: How many images killed it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_here = False
        self.killed = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, data: bytes, max_pixels: int, *, is_lenient: bool) -> tuple[Image.Image, bool]:
        process = self._started()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - pipes
        process.stdin.write(_REQUEST.pack(len(data), max_pixels, is_lenient) + data)
        process.stdin.flush()
        head = _whole(process.stdout, _ANSWER.size)
        width, height, is_truncated, reason_bytes = _ANSWER.unpack(head)
        if reason_bytes:
            raise BadImage(*_whole(process.stdout, reason_bytes).decode().split("\0"))
        bands = _bands(width, height)
        if len(bands) == 1:
            pixels = _whole(process.stdout, 3 * width * height)
            return Image.frombytes("RGB", (width, height), pixels), is_truncated
        image = Image.new("RGB", (width, height))
        for top, rows in bands:
            band = _whole(process.stdout, 3 * width * rows)
            image.paste(Image.frombytes("RGB", (width, rows), band), (0, top))
        return image, is_truncated

    def end(self) -> str:
        """End the process; says what it died of."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return ""
        process.kill()
        code = process.wait()
        return signal.Signals(-code).name if code < 0 else f"code {code}"

    def _started(self) -> subprocess.Popen[bytes]:
        # A forked process has no decoder of its own yet.
        if self._process is None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
                _PROGRAM,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # Ctrl-C is for the server, which then ends it
                pipesize=_PIPE_BYTES,
            )
        return self._process


_decoder = _Decoder()
atexit.register(_decoder.end)
os.register_at_fork(after_in_child=lambda: setattr(_decoder, "lock", threading.Lock()))


def _whole(file: IO[bytes], size_bytes: int) -> bytes:
    data = file.read(size_bytes)
    if len(data) < size_bytes:
        raise OSError("the decoding process ended")
    return data


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    limit_memory()
    while head := requests.read(_REQUEST.size):
        size_bytes, max_pixels, is_lenient = _REQUEST.unpack(head)
        data = _whole(requests, size_bytes)
        try:
            image, is_truncated = _decode(data, max_pixels, is_lenient=is_lenient)
        except BadImage as error:
            reason = f"{error.reason}\0{error.detail}".encode("utf-8", "replace")
            answers.write(_ANSWER.pack(0, 0, False, len(reason)) + reason)
        else:
            answers.write(_ANSWER.pack(*image.size, is_truncated, 0))
            bands = _bands(*image.size)
            for top, rows in bands:
                part = image if len(bands) == 1 else image.crop((0, top, image.width, top + rows))
                answers.write(part.tobytes())
        answers.flush()


def _bands(width: int, height: int) -> list[tuple[int, int]]:
    """First row and number of rows of the parts in which an image is sent: all of it at once would
    take its memory twice.
    """
    most = max(1, LARGE_PIXELS // width)
    return [(top, min(most, height - top)) for top in range(0, height, most)]


if __name__ == "__main__":
    with suppress(OSError):  # who asked has ended
        _serve(sys.stdin.buffer, sys.stdout.buffer)
