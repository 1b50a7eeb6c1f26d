"""The wheel of this package, which a model carries: its name is on no index, so a tool that
installs requirements by name could get a stranger's package.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import zipfile
from importlib import metadata
from pathlib import Path

import react_pipeline
from react_pipeline.installation import DISTRIBUTION

TAG = "py3-none-any"
NEEDED = ("mlflow", "pandas")
"""What a served model needs besides the requirements of this package without extras."""


def write_wheel(folder: Path) -> Path:
    """Write the installed package, also an editable one, as a wheel; the same files give the same
    bytes.
    """
    distribution = metadata.distribution(DISTRIBUTION)
    stem = f"{DISTRIBUTION.replace('-', '_')}-{distribution.version}"
    info = f"{stem}.dist-info"
    root = Path(react_pipeline.__file__).parent
    files = {
        f"{root.name}/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in _files(root)
    }
    # In a clone the metadata may be those of an egg, which have another name.
    about = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO")
    texts = {"METADATA": about, "entry_points.txt": distribution.read_text("entry_points.txt")}
    texts["WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {TAG}\n"
    files |= {f"{info}/{name}": text.encode() for name, text in texts.items() if text}
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    place = folder / f"{stem}-{TAG}.whl"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            wheel.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return place


def pinned_requirements() -> list[str]:
    """Return the packages that a served model needs, in the versions that are installed here.

    A local version, such as the `+cpu` of torch, is left out: it is on no index, and the machine
    that serves may have a GPU.
    """
    listed = metadata.requires(DISTRIBUTION) or []
    names = {re.split(r"[^\w.-]", line)[0] for line in listed if "extra ==" not in line}
    versions = {name: metadata.version(name) for name in sorted({*names, *NEEDED})}
    return [f"{name}=={version.partition('+')[0]}" for name, version in versions.items()]


def _files(root: Path) -> list[Path]:
    """Return the files of the package; in a clone some of its folders are links."""
    walk = os.walk(root, followlinks=True)
    found = [Path(folder, name) for folder, _, names in walk for name in names]
    return sorted(path for path in found if path.suffix != ".pyc")


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
