"""Which cards the packages for GPUs hold code for: `gpu_packages.json`, the table of docs/gpu.md.

python -m benchmarks.gpu_packages             prints the table
python -m benchmarks.gpu_packages WHEEL ...   prints what the libraries of wheels hold
"""

from __future__ import annotations

import json
import mmap
import re
import struct
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

FACTS = Path(__file__).with_suffix(".json")
CARDS = {
    "P100": 60,
    "V100": 70,
    "T4, RTX 20": 75,
    "A100": 80,
    "A10, A40, RTX 30": 86,
    "L4, L40, RTX 40": 89,
    "H100, H200": 90,
    "B200": 100,
    "RTX 50": 120,
}
"""Compute capabilities, ten times."""
FATBIN = struct.pack("<I", 0xBA55ED50)
KINDS = {1: "ptx", 2: "code"}


def architectures(library: Path) -> dict[str, list[int]]:
    """Return the architectures that the fat binaries of a library hold PTX and machine code for.

    Those of which only single kernels are there are left out.
    """
    counts = {kind: Counter[int]() for kind in KINDS.values()}
    with library.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    at = data.find(FATBIN)
    while at >= 0:
        *_, header, size = struct.unpack_from("<IHHQ", data, at)
        if header == 16 and size < 1 << 32:
            for kind, arch in _entries(data, at + header, at + header + size):
                counts[kind][arch] += 1
        at = data.find(FATBIN, at + len(FATBIN))
    most = max(count for kind in counts.values() for count in kind.values())
    return {
        kind: sorted(arch for arch, count in archs.items() if 2 * count > most)
        for kind, archs in counts.items()
    }


def _entries(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[str, int]]:
    while at < end:
        kind, _, header, length = struct.unpack_from("<HHIQ", data, at)
        if kind not in KINDS or not 16 <= header < 4096:
            return
        yield KINDS[kind], struct.unpack_from("<I", data, at + 28)[0]
        at += header + length


def entry(wheel: Path) -> dict[str, object]:
    """Return what a wheel holds: its largest library decides."""
    name, version, *_ = wheel.name.split("-")
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        libraries = [
            info for info in archive.infolist() if re.search(r"\.so[.\d]*$", info.filename)
        ]
        gpu = [info for info in libraries if re.search(r"libtorch_cuda\.|libfaiss", info.filename)]
        library = Path(archive.extract(max(gpu, key=lambda info: info.file_size), folder))
        return {
            "package": name,
            "version": version,
            "library": library.name,
            **architectures(library),
        }


def serves(facts: Mapping[str, list[int]], capability: int) -> str:
    """Say how a package runs on a card: by machine code of the same generation, by PTX, or not."""
    if any(arch // 10 == capability // 10 and arch <= capability for arch in facts["code"]):
        return "yes"
    return "PTX" if any(arch <= capability for arch in facts["ptx"]) else "no"


def table() -> str:
    """Return the table of cards and packages as Markdown."""
    packages = json.loads(FACTS.read_text())
    rows = [["card (compute capability)", *packages], ["---"] * (len(packages) + 1)]
    for column in ("driver", "install"):
        rows.append([column, *(facts[column] for facts in packages.values())])
    for card, capability in CARDS.items():
        title = f"{card} ({capability / 10})"
        rows.append([title, *(serves(facts, capability) for facts in packages.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    wheels = list(map(Path, sys.argv[1:]))
    print(json.dumps(list(map(entry, wheels)), indent=1) if wheels else table())
