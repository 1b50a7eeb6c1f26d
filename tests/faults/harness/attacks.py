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
import pickle
import signal
import struct
import sys
import tarfile
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import requests
import test_bombs
import test_bounded_files
import test_code_in_checkpoints
import test_domain_files
import test_nested_json
import test_public_addresses
import test_url_source
import torch
import yaml
from PIL import Image
from support.drawings import draw, encode, write_shard
from support.sick_servers import SICK, sick_server
from support.text_tower import write_text_tower_checkpoint
from support.web import cut, dripping, redirected, served
from test_bad_images_and_captions import png_of_size

from react_pipeline.clip import load
from react_pipeline.clip.weights import read_weights
from react_pipeline.corpus import decode_apart, index_shard, open_shard, remote
from react_pipeline.corpus.decoding import WORKER_BYTES, _decoder
from react_pipeline.corpus.images import BadSample
from react_pipeline.corpus.remote import RemoteShard
from react_pipeline.extensions.sources.image_client import (
    MAX_RESPONSE_BYTES,
    ImageClient,
    is_public,
)
from react_pipeline.extensions.sources.vector_files import open_vectors
from react_pipeline.settings import DownloadConfig, load_domain, load_pipeline
from react_pipeline.settings.secrets import has_secret
from react_pipeline.store import ReactError
from react_pipeline.web_policy import plain_url

MAX_SECONDS = 30
MAX_BYTES = 1 << 30
CAP = 100_000_000
"""Pixels."""
REFUSALS = (ReactError, BadSample, requests.RequestException, HTTPException, OSError)

Attack = Callable[[Path], Any]
"""Prepares in a folder, and returns what to call with nothing: the attack itself."""
Kind = Callable[[], Iterator[tuple[str, Attack]]]


class Refused(ReactError):  # noqa: N818 - an end, and no fault
    """Something was refused that says so by its value."""


def of_bytes(data: bytes, read: Callable[[bytes], Any]) -> Attack:
    return lambda _: partial(read, data)


def of_file(name: str, data: bytes, read: Callable[[Path], Any]) -> Attack:
    def prepare(folder: Path) -> Callable[[], Any]:
        (folder / name).write_bytes(data)
        return partial(read, folder / name)

    return prepare


def cases(test: Any) -> Iterable[Any]:
    """The values of the last `parametrize` of a test."""
    return [mark for mark in test.pytestmark if mark.name == "parametrize"][0].args[1]


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


def _refuse(problems: Any) -> None:
    if problems:
        raise Refused(str(problems))


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


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


def arrays() -> Iterator[tuple[str, Attack]]:
    """Vectors that somebody else has made."""
    for name, data in test_bombs.HEADERS.items():
        yield f"npy whose header is {name}", of_file("a.npy", data + bytes(64), open_vectors)
    evil = io.BytesIO()
    np.save(evil, np.array([[Evil("owned")]], dtype=object), allow_pickle=True)
    yield "a pickle", of_file("a.npy", pickle.dumps(Evil("owned")), open_vectors)
    yield "objects in an npy", of_file("a.npy", evil.getvalue(), open_vectors)

    def bomb(folder: Path) -> Callable[[], Any]:
        np.savez_compressed(folder / "a.npz", vectors=np.zeros((10_000_000, 8), np.float32))
        return partial(open_vectors, folder / "a.npz" / "vectors")

    yield "npz of zeros", bomb


def checkpoints() -> Iterator[tuple[str, Attack]]:
    """Models from elsewhere."""

    def changed(evil: Callable[[Path], None], folder: Path) -> Callable[[], Any]:
        checkpoint = write_text_tower_checkpoint(folder)
        code = test_code_in_checkpoints.EVIL.format(marker=str(folder / "owned"))
        (checkpoint / "text" / "evil.py").write_text(code)
        evil(checkpoint)
        return partial(load, checkpoint)

    for evil in test_code_in_checkpoints.EVILS:
        yield evil.__name__.replace("_", " "), partial(changed, evil)
    for tower, field, value in test_bounded_files.SIZES:
        config: dict[str, Any] = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}
        config[tower] = {field: value}
        text = json.dumps({"model_cfg": config, "preprocess_cfg": {}}).encode()
        read = of_file("open_clip_config.json", text, lambda path: load(path.parent))
        yield f"{tower}.{field} of {value}", read
    file = io.BytesIO()
    torch.save({"weight": Evil("owned")}, file)
    yield "a pickle among weights", of_file("a.pt", file.getvalue(), read_weights)
    heads = {
        "of 2^60 bytes": struct.pack("<Q", 1 << 60) + b"{}",
        "nested": struct.pack("<Q", 100_000) + b"[" * 100_000,
        "beyond the end": struct.pack("<Q", 78)
        + b'{"a":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,39999999996]}}     ',
    }
    for name, data in heads.items():
        yield f"safetensors whose header is {name}", of_file("a.safetensors", data, read_weights)


def settings() -> Iterator[tuple[str, Attack]]:
    """Domain files and project files."""
    for number, (text, words) in enumerate(cases(test_domain_files.test_hostile_yaml_is_refused)):
        for name, read in (("pets", load_domain), ("pipeline", load_pipeline)):
            attack = of_file(f"{name}.yaml", text.encode(), read)
            yield f"{name}.yaml {number}: {words}", attack
    for slug in cases(test_domain_files.test_slugs_that_are_no_safe_names_are_refused):
        raw = yaml.safe_dump({"slug": slug, "classes": ["a", "b"]}).encode()
        yield f"slug {slug!r}"[:40], of_file("pets.yaml", raw, load_domain)
    for shown in (" ", "\u200b", "a\tb", "a\u202eb", "=1+2", "@SUM(A1)", "-2|cmd!A1", "\0"):
        raw = yaml.safe_dump({"classes": ["a", shown]}).encode()
        yield f"class {shown!r}", of_file("pets.yaml", raw, load_domain)
    for key in (
        "classes: [a]\nclasses: [b]",
        "classes: [{name: a, name: b}]",
        "<<: {classes: [a]}",
    ):
        yield f"keys {key!r}", of_file("pets.yaml", key.encode(), load_domain)
    for name, (file, read, _) in test_nested_json.READERS.items():
        yield f"nested JSON as {name}", of_file(file, test_nested_json.NESTED.encode(), read)
    for address in ("http:/a:b@h", "http://a:b@h", "http://h?auth=b", "mssql+pyodbc://h/x?PWD=b"):
        yield f"tracking_uri {address}", of_bytes(address.encode(), _secret)
        raw = yaml.safe_dump({"project": "a", "store": "a", "tracking_uri": address})
        yield f"pipeline.yaml with {address}", of_file("pipeline.yaml", raw.encode(), load_pipeline)


def _secret(address: bytes) -> None:
    _refuse(has_secret(address.decode()))


def addresses() -> Iterator[tuple[str, Attack]]:
    """URLs that strangers wrote."""
    for address, public in cases(
        test_public_addresses.test_only_addresses_of_the_public_internet_are_public
    ):
        if not public:
            yield (
                f"address {address}",
                of_bytes(b"", lambda _, at=address: _refuse(not is_public(at))),
            )
    for url, plain in cases(test_public_addresses.test_only_plain_web_addresses_pass):
        if plain is None:
            yield f"URL {url!r}"[:40], of_bytes(b"", lambda _, url=url: _refuse(not plain_url(url)))
    for host in test_url_source.LOOPBACK:
        yield f"fetching from {host}", of_bytes(f"http://{host}:9/".encode(), fetch_public)


def fetch_public(url: bytes) -> bytes:
    return fetch(url.decode(), private=False)


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


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (images, archives, tables, arrays, checkpoints, settings, addresses, servers)
}


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
    if (folder / "owned").exists() or (folder / "code-was-run").exists():
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
