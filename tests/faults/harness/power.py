"""Power losses: the disk as it may be found behind any operation of a log that the shim has
written.

The model is the one of ALICE (Pillai et al., OSDI 2014) with nothing taken for granted: the content
of a file is on the disk once the file was synced, its name once the directory was, and everything
else is there or not. A rename takes a name away and gives one at once, and is on the disk as soon
as one of its two directories was synced.

What was not synced, by mode:

- dropped: contents, names, renames and removals are gone
- names: names, renames and removals are there, contents are those of the last sync, or empty
- zeros: names are there, and files have their length, with zeros for contents
- mixed: each name and each write may be there or not, the last write of a file by half
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODES = ("dropped", "names", "zeros", "mixed")
_HEAD = struct.Struct("<cqII")

Operation = tuple[str, int, str, bytes]
"""A letter of the shim, an offset, a path below the folder, and the other path or the data."""


def operations(log: Path, folder: Path) -> Iterator[Operation]:
    """What a log holds of changes below a folder."""
    root = str(folder.resolve())
    with log.open("rb") as file:
        while head := file.read(_HEAD.size):
            letter, offset, one, two = _HEAD.unpack(head)
            path = file.read(one).decode().removeprefix(root)
            yield letter.decode(), offset, path, file.read(two).removeprefix(root.encode())


def write_state(log: Sequence[Operation], before: Path, folder: Path, mode: str) -> None:
    """Make the folder as it may be found after a power loss behind these operations."""
    disk, chance = Disk(before), random.Random(len(log))  # noqa: S311 - reproducible
    for operation in log:
        disk.do(*operation)
    for change in disk.pending:
        if mode in ("names", "zeros") or (mode == "mixed" and chance.random() < 0.5):
            _apply(change, "synced")
    _write(disk.root, folder, mode, chance, {})


@dataclass(eq=False)
class File:
    """Contents: now, at the last sync, and the changes since, each an offset with data or a new
    length.
    """

    now: bytearray
    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)


@dataclass(eq=False)
class Directory:
    """Names: now, and on the disk."""

    now: dict[str, Any] = field(default_factory=dict)
    synced: dict[str, Any] = field(default_factory=dict)


Change = list[tuple[Directory, str, File | Directory | None]]
"""Names that are given and taken away at once."""


def _apply(change: Change, where: str) -> None:
    for directory, name, node in change:
        if node is None:
            getattr(directory, where).pop(name, None)
        else:
            getattr(directory, where)[name] = node


class Disk:
    """A folder, all of which is on the disk at first: what programs see of it, and what is on the
    disk.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.pending = self._load(folder), list[Change]()

    def _load(self, path: Path) -> File | Directory:
        if path.is_dir():
            names = {one.name: self._load(one) for one in path.iterdir()}
            return Directory(names, dict(names))
        data = path.read_bytes()
        return File(bytearray(data), data)

    def at(self, path: str) -> Any:
        """What has a path."""
        node: Any = self.root
        for name in filter(None, path.split("/")):
            if name not in node.now:
                # safetensors gives its file the final name by a system call of its own, which no
                # library sees.
                (temporary,) = (other for other in node.now if other.startswith(".tmp"))
                self._name(
                    (f"{path.rpartition('/')[0]}/{temporary}", None), (path, node.now[temporary])
                )
            node = node.now[name]
        return node

    def _name(self, *names: tuple[str, File | Directory | None]) -> None:
        places = ((path.rpartition("/"), node) for path, node in names)
        change = [(self.at(parent), name, node) for (parent, _, name), node in places]
        _apply(change, "now")
        self.pending.append(change)

    def do(self, letter: str, offset: int, one: str, two: bytes) -> None:
        match letter:
            case "C":
                self._name((one, File(bytearray())))
            case "D":
                self._name((one, Directory()))
            case "U":
                self._name((one, None))
            case "R":
                self._name((one, None), (two.decode(), self.at(one)))
            case "L":
                self._name((two.decode(), self.at(one)))
            case "S":
                self.sync(self.at(one))
            case "W" | "T" if not one.endswith(" (deleted)"):
                file, data = self.at(one), two if letter == "W" else None
                _change(file.now, offset, data)
                file.pending.append((offset, data))

    def sync(self, node: File | Directory) -> None:
        """What fsync does: changes of the same names that came before go first."""
        if isinstance(node, File):
            node.synced, node.pending = bytes(node.now), []
            return
        wanted: set[tuple[int, str]] = set()
        due = []
        for change in reversed(self.pending):
            names = {(id(directory), name) for directory, name, _ in change}
            if id(node) in {number for number, _ in names} or names & wanted:
                wanted |= names
                due.append(change)
        for change in reversed(due):
            _apply(change, "synced")
            self.pending.remove(change)


def _write(node: Any, path: Path, mode: str, chance: random.Random, made: dict[int, Path]) -> None:
    if isinstance(node, File):
        if id(node) in made:
            os.link(made[id(node)], path)
        else:
            path.write_bytes(_found(node, mode, chance))
    elif id(node) in made:  # a rename that is on the disk by halves would show it twice
        return
    else:
        path.mkdir()
        for name, one in node.synced.items():
            _write(one, path / name, mode, chance, made)
    made.setdefault(id(node), path)


def _found(file: File, mode: str, chance: random.Random) -> bytes:
    if mode == "zeros" and file.pending:
        # Of what was synced only the part that was not written to since is sure.
        return file.synced[: len(file.now)].ljust(len(file.now), b"\0")
    if mode != "mixed":
        return file.synced
    data = bytearray(file.synced)
    kept = chance.randint(0, len(file.pending))
    for number, (at, new) in enumerate(file.pending[:kept], 1):
        _change(data, at, new[: len(new) // 2] if new is not None and number == kept else new)
    return bytes(data)


def _change(data: bytearray, at: int, new: bytes | None) -> None:
    """Write data at an offset, or without data set the length."""
    end = at + len(new or b"")
    data.extend(bytes(max(0, end - len(data))))
    if new is None:
        del data[at:]
    else:
        data[at:end] = new
