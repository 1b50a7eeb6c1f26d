"""Attacks on every reader of what strangers give: `make test-attacks`, or of some kinds
`PYTHONPATH=tests:tests/faults:tests/extensions/sources python -m harness.attacks KIND ...`.

Each one runs in a fork of its own. Printed are how it ended, its seconds, and the memory that it
took over what the process had before, decoding processes included. A problem is an error that is
not typed, code that ran, and more than `MAX_SECONDS` or `MAX_BYTES`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import io
import json
import os
import signal
import struct
import sys
import tarfile
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import requests
import test_bounded_files
from PIL import Image
from support.drawings import draw, encode, write_shard
from support.sick_servers import SICK, sick_server
from support.web import cut, dripping, redirected, served
from test_bad_images_and_captions import png_of_size

from react_pipeline.corpus import decode_apart, index_shard, open_shard, remote
from react_pipeline.corpus.decoding import WORKER_BYTES, _decoder
from react_pipeline.corpus.images import BadSample
from react_pipeline.corpus.remote import RemoteShard
from react_pipeline.extensions.sources.image_client import (
    MAX_RESPONSE_BYTES,
    ImageClient,
)
from react_pipeline.settings import DownloadConfig
from react_pipeline.store import ReactError

MAX_SECONDS = 30
MAX_BYTES = 1 << 30
CAP = 100_000_000
"""Pixels."""
REFUSALS = (ReactError, BadSample, requests.RequestException, HTTPException, OSError)

Attack = Callable[[Path], Any]
"""Prepares in a folder, and returns what to call with nothing: the attack itself."""
Kind = Callable[[], Iterator[tuple[str, Attack]]]


def of_bytes(data: bytes, read: Callable[[bytes], Any]) -> Attack:
    return lambda _: partial(read, data)


def of_file(name: str, data: bytes, read: Callable[[Path], Any]) -> Attack:
    def prepare(folder: Path) -> Callable[[], Any]:
        (folder / name).write_bytes(data)
        return partial(read, folder / name)

    return prepare


def damaged(data: bytes, times: int) -> Iterator[tuple[str, bytes]]:
    """A file cut, and with a byte flipped, at evenly spread places."""
    for number in range(times):
        place = number * len(data) // times
        yield f"cut at {place}", data[:place]
        yield f"flipped at {place}", data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


def packed(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff_of_one_tile(side: int) -> bytes:
    """10 x 10 pixels in a tile of `side` x `side`, deflated."""
    data = zlib.compress(bytes(side * side), 9)
    places = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    tags = {**places, 324: 8 + 2 + 12 * 10 + 4, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there `count` times."""
    data = packed(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + b"\xff\xd9"


def images() -> Iterator[tuple[str, Attack]]:
    """What is decoded of a corpus, an evaluation set, a request."""
    png = packed(Image.new("RGB", (8, 8)), "PNG")
    frames = [Image.new("P", (8, 8), number) for number in range(2_000)]
    large = Image.new("RGB", (9_000, 9_000))
    files = {
        **{f"TIFF with a tile of {side}": tiff_of_one_tile(side) for side in (5_000, 30_000)},
        **{f"JPEG of {count} scans": jpeg_of_scans(count) for count in (101, 5_000, 30_000)},
        **{
            f"PNG of {width} x {height}": png_of_size(width, height)
            for width, height in ((60_000, 60_000), (10_001, 10_000), (1, 60_000), (0, 9))
        },
        "PNG of 81 megapixels": packed(large, "PNG"),
        "PNG of 81 megapixels with transparency": packed(large.convert("RGBA"), "PNG"),
        "PNG of 16 bits": packed(Image.new("I;16", (9_000, 9_000)), "PNG"),
        "text of 1 GB in a PNG": png[:33]
        + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 28), 9))
        + png[33:],
        "profile of 256 MB": png[:33]
        + chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 28), 9))
        + png[33:],
        "GIF of 2,000 frames": packed(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "GIF of an enormous screen": b"GIF89a\xff\xff\xff\xff\0\0\0;",
        "PPM that says much": b"P6 99999999 99999999 255\n",
        "BMP of a negative size": b"BM" + bytes(12) + struct.pack("<Iii", 40, -5, -5) + bytes(30),
        "TIFF that points at itself": b"II*\0\x08\0\0\0" + b"\0\0\x08\0\0\0",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch owned) (w) file",
        "SVG with an entity": b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><svg/>",
        "nothing": b"",
        "a page": b"<html><body>gone</body></html>",
    }
    for form in ("PNG", "JPEG", "WEBP"):
        whole = packed(draw("circle", "red", 0), form)
        files |= {f"{form} {how}": data for how, data in damaged(whole, 6)}
    for name, data in files.items():
        yield name, of_bytes(data, lambda data: decode_apart(data, CAP))


def tar(*members: tuple[str, bytes, dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data, attributes in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for attribute, value in attributes.items():
                setattr(member, attribute, value)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def header(kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def archives() -> Iterator[tuple[str, Attack]]:
    """Shards."""
    with tempfile.TemporaryDirectory() as folder:
        pair = {"png": encode(draw("circle", "red", 0)), "txt": b"a red circle"}
        whole = write_shard(Path(folder) / "0.tar", {"a": pair, "b": pair}).read_bytes()
    kinds = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME)
    link = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
    files = {
        **{f"tar {how}": data for how, data in damaged(whole, 6)},
        **{f"digits in a header {kind!r}": header(kind, 60_000) + b"1" * 60_416 for kind in kinds},
        **{f"a header of a terabyte {kind!r}": header(kind, 1 << 40) for kind in kinds},
        "headers in a chain": header(tarfile.XHDTYPE, 0) * 5_000 + bytes(1_024),
        "two tars joined": whole + whole,
        "a compressed tar": gzip.compress(whole),
        "a member of a terabyte": header(tarfile.REGTYPE, 1 << 40),
        "a name that leads out": tar(("../../a.png", b"a", {}), ("/etc/b.txt", b"b", {})),
        "links and devices": tar(("a.png", b"", link), ("b", b"", {"type": tarfile.CHRTYPE})),
        "a sparse member": header(b"S", 1 << 40),
        "a key twice": tar(("a.png", b"a", {}), ("a.png", b"b", {})),
        "a hundred thousand members": tar(*[(f"{n}.txt", b"", {}) for n in range(100_000)]),
    }
    for name, data in files.items():
        yield name, of_file("0.tar", data, index_shard)


def parquet(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def tables() -> Iterator[tuple[str, Attack]]:
    """Tables of pictures and URLs that are damaged."""
    small = parquet(pa.table({"url": ["http://a/b.jpg"], "caption": ["a"], "image": [b"a"]}))
    footer = struct.pack("<I", 0xFFFF_FFF0) + b"PAR1"
    files = {
        "a footer of 4 GB": b"PAR1" + bytes(100) + footer,
        "no columns": parquet(pa.table({})),
        **{f"parquet {how}": data for how, data in damaged(small, 3)},
    }
    for name, data in files.items():
        read = test_bounded_files.read_url_table
        yield f"urls: {name}", of_file("a.parquet", data, read)
    texts = {
        "a line of 300 MB": b"path\n" + b"x" * (300 << 20),
        "NUL": b"path\n\0\0\n",
        "a hundred thousand columns": b"path" + b",a" * 100_000 + b"\n",
    }
    for name, data in texts.items():
        yield f"csv: {name}", of_file("a.csv", data, test_bounded_files.predict)
    for name, (file, read) in test_bounded_files.FIFOS.items():
        yield f"a named pipe as {name}", partial(special, file, read, "pipe")
        yield f"a sparse file as {name}", partial(special, file, read, "sparse")


def special(name: str, read: Callable[[Path], Any], what: str, folder: Path) -> Callable[[], Any]:
    if what == "pipe":
        os.mkfifo(folder / name)
    else:
        with (folder / name).open("wb") as file:
            file.truncate(8 << 30)
    return partial(read, folder / name)


def fetch(url: str, *, private: bool) -> bytes:
    async def ask() -> bytes:
        settings = DownloadConfig(allow_private_addresses=private, timeout_seconds=2)
        async with ImageClient(settings) as client:
            return await client.get(url)

    return asyncio.run(ask())


def servers() -> Iterator[tuple[str, Attack]]:
    """Servers of images and of shards; what Dagster is asked."""

    def huge(handler: Any, _before: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(2 * MAX_RESPONSE_BYTES >> 16):
            handler.wfile.write(bytes(1 << 16))

    answers = {
        "an endless answer": huge,
        "a dripping answer": dripping,
        "a cut answer": cut(b"x" * 100),
        "a redirect to a file": redirected("file:///etc/passwd"),
        "a redirect in a circle": redirected("/"),
    }
    for name, answer in answers.items():
        yield f"images: {name}", partial(of_web, answer)
    for name in SICK:
        yield f"shards: {name}", partial(of_sick, name, read_shard)


def of_web(answer: Any, _folder: Path) -> Callable[[], Any]:
    def attack() -> Any:
        with served({"/": answer}) as web:
            return fetch(f"{web.url}/", private=True)

    return attack


def of_sick(name: str, ask: Callable[[str], Any], _folder: Path) -> Callable[[], Any]:
    def attack() -> Any:
        with sick_server(name) as address:
            return ask(address)

    return attack


def read_shard(address: str) -> bytes:
    remote.ANSWER_SECONDS, remote.ATTEMPTS_SECONDS = 2, 0
    return open_shard(RemoteShard(f"{address}/a.tar")).read(512)


KINDS: dict[str, Kind] = {kind.__name__: kind for kind in (images, archives, tables, servers)}


@dataclasses.dataclass(frozen=True)
class End:
    """How an attack ended."""

    kind: str
    name: str
    how: str
    seconds: float
    peak_bytes: int

    @property
    def is_problem(self) -> bool:
        """Whether it broke a promise."""
        refused = self.how.startswith(("refused", "read"))
        most = WORKER_BYTES if self.kind == "images" else MAX_BYTES
        return not refused or self.seconds > MAX_SECONDS or self.peak_bytes > most

    def __str__(self) -> str:
        """A line."""
        mark = "PROBLEM" if self.is_problem else "ok"
        size = f"{self.peak_bytes >> 20:,} MiB"
        return f"{mark} {self.kind}: {self.name}: {self.how[:90]}, {self.seconds:.1f} s, {size}"


def run(kind: str, name: str, attack: Attack) -> End:
    """Run one attack in a fork."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        signal.alarm(3 * MAX_SECONDS)
        with tempfile.TemporaryDirectory() as folder, os.fdopen(writing, "w") as answers:
            os.chdir(folder)
            json.dump(measured(attack, Path(folder)), answers)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        answer = answers.read()
    status = os.waitpid(child, 0)[1]
    if not answer:
        return End(kind, name, f"died with status {status}", 3 * MAX_SECONDS, 0)
    return End(kind, name, *json.loads(answer))


def measured(attack: Attack, folder: Path) -> tuple[str, float, int]:
    """How an attack ends, its seconds, and its bytes of memory; in the fork."""
    act = attack(folder)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status_bytes("VmRSS")
    began = time.monotonic()
    try:
        act()
        how = "read"
    except REFUSALS as error:
        how = f"refused ({type(error).__name__}: {' '.join(str(error).split())})"
    except BaseException as error:
        how = f"{type(error).__name__}: {' '.join(str(error).split())}"
    seconds = time.monotonic() - began
    peak = status_bytes("VmHWM") - before
    for process in _decoder.pool._processes if _decoder.pool else ():
        peak += status_bytes("VmHWM", process)
    _decoder.pool = None
    if (folder / "owned").exists():
        how = "its code was run"
    return how, seconds, peak


def status_bytes(field: str, process: int | str = "self") -> int:
    """A field of the kernel's status of a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def main(kinds: list[str]) -> int:
    """Run the attacks of some kinds, or of all; returns how many broke a promise."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    ends = []
    for kind in kinds or KINDS:
        for name, attack in KINDS[kind]():
            ends.append(run(kind, name, attack))
            print(ends[-1], flush=True)
    for kind, count in Counter(end.kind for end in ends).items():
        of_kind = [end for end in ends if end.kind == kind]
        seconds = max(end.seconds for end in of_kind)
        peak = max(end.peak_bytes for end in of_kind) >> 20
        print(f"{kind}: {count} attacks, at most {seconds:.1f} s and {peak:,} MiB")
    problems = sum(end.is_problem for end in ends)
    print(f"{len(ends)} attacks, {problems} problems")
    return problems


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
