"""Power losses: the disk as it may be found behind any operation of a log that the shim has
written.

The model is the one of ALICE (Pillai et al., OSDI 2014) with nothing taken for granted: the content
of a file is on the disk once the file was synced, its name once the directory was, and everything
else is there or not. A rename takes a name away and gives one at once, and is on the disk as soon
as one of its two directories was synced.

===========
==========================================================================================================
mode         what was not synced ===========
==========================================================================================================
dropped      is gone: contents, names, renames and removals names        names, renames and removals
are there, contents are those of the last sync (empty without one) zeros        names are there, and
files have their length, with zeros for contents mixed        each name and each write may be there
or not, the last write of a file by half ===========
==========================================================================================================
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

MODES = ("dropped", "names", "zeros", "mixed")
_HEAD = struct.Struct("<cqII")


@dataclass(eq=False)
class File:
    """Contents: now, at the last sync, and the changes since, each an offset with data or a new
    length.
    """

    now: bytearray
    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def change(self, at: int, data: bytes | None) -> None:
        """Write data at an offset, or without data set the length."""
        _change(self.now, at, data)
        self.pending.append((at, data))

    def sync(self) -> None:
        """Put the contents on the disk."""
        self.synced, self.pending = bytes(self.now), []


@dataclass(eq=False)
class Directory:
    """Names: now, and on the disk."""

    now: dict[str, File | Directory] = field(default_factory=dict)
    synced: dict[str, File | Directory] = field(default_factory=dict)


@dataclass(eq=False)
class Change:
    """Names that are given and taken away at once."""

    entries: list[tuple[Directory, str, File | Directory | None]]

    def apply(self, *, now: bool) -> None:
        """Make it, as programs see it or on the disk."""
        for directory, name, node in self.entries:
            names = directory.now if now else directory.synced
            if node is None:
                names.pop(name, None)
            else:
                names[name] = node


class Disk:
    """A folder: what programs see of it, and what is on the disk."""

    def __init__(self, folder: Path) -> None:
        """Everything that is in the folder is on the disk."""
        self.root, self.pending = Directory(), list[Change]()
        self._load(folder, self.root)

    def _load(self, folder: Path, directory: Directory) -> None:
        for path in folder.iterdir():
            node: File | Directory = Directory()
            if path.is_dir():
                assert isinstance(node, Directory)
                self._load(path, node)
            else:
                data = path.read_bytes()
                node = File(bytearray(data), data)
            directory.now[path.name] = directory.synced[path.name] = node

    def at(self, path: str) -> File | Directory:
        """What has a path."""
        node: File | Directory = self.root
        for name in filter(None, path.split("/")):
            assert isinstance(node, Directory)
            if name not in node.now:
                # safetensors gives its file the final name by a system call of its own, which no
                # library sees.
                (temporary,) = (other for other in node.now if other.startswith(".tmp"))
                self._rename(
                    (f"{path.rpartition('/')[0]}/{temporary}", None), (path, node.now[temporary])
                )
            node = node.now[name]
        return node

    def _place(self, path: str) -> tuple[Directory, str]:
        parent, _, name = path.rpartition("/")
        directory = self.at(parent)
        assert isinstance(directory, Directory)
        return directory, name

    def _rename(self, *entries: tuple[str, File | Directory | None]) -> None:
        change = Change([(*self._place(path), node) for path, node in entries])
        change.apply(now=True)
        self.pending.append(change)

    def do(self, operation: str, offset: int, one: str, two: bytes) -> None:
        """One operation of the log."""
        match operation:
            case "C":
                self._rename((one, File(bytearray())))
            case "D":
                self._rename((one, Directory()))
            case "U":
                self._rename((one, None))
            case "R":
                self._rename((one, None), (two.decode(), self.at(one)))
            case "L":
                self._rename((two.decode(), self.at(one)))
            case "S":
                self.sync(self.at(one))
            case "W" | "T" if not one.endswith(" (deleted)"):
                node = self.at(one)
                assert isinstance(node, File)
                node.change(offset, two if operation == "W" else None)

    def sync(self, node: File | Directory) -> None:
        """What fsync does: changes of the same names that came before go first."""
        if isinstance(node, File):
            node.sync()
            return
        wanted: set[tuple[int, str]] = set()
        due = []
        for change in reversed(self.pending):
            names = {(id(directory), name) for directory, name, _ in change.entries}
            if any(directory is node for directory, _, _ in change.entries) or names & wanted:
                wanted |= names
                due.append(change)
        for change in reversed(due):
            change.apply(now=False)
            self.pending.remove(change)

    def lose_power(self, mode: str, chance: random.Random) -> None:
        """Leave on the disk what a mode leaves there."""
        for change in self.pending:
            if mode in ("names", "zeros") or (mode == "mixed" and chance.random() < 0.5):
                change.apply(now=False)

    def write(self, folder: Path, mode: str, chance: random.Random) -> None:
        """Make the folder that is found when the power is back."""
        self._write(self.root, folder, mode, chance, {})

    def _write(
        self,
        directory: Directory,
        folder: Path,
        mode: str,
        chance: random.Random,
        made: dict[int, Path],
    ) -> None:
        folder.mkdir()
        for name, node in directory.synced.items():
            path = folder / name
            if isinstance(node, Directory):
                if (
                    id(node) not in made
                ):  # a rename that is on the disk by halves would show it twice
                    made[id(node)] = path
                    self._write(node, path, mode, chance, made)
            elif id(node) in made:
                os.link(made[id(node)], path)
            else:
                made[id(node)] = path
                path.write_bytes(_found(node, mode, chance))


def _change(data: bytearray, at: int, new: bytes | None) -> None:
    end = at if new is None else at + len(new)
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    if new is None:
        del data[at:]
    else:
        data[at:end] = new


def _found(file: File, mode: str, chance: random.Random) -> bytes:
    if mode == "zeros" and file.pending:
        # Of what was synced only the part that was not written to since is sure.
        return file.synced[: len(file.now)].ljust(len(file.now), b"\0")
    if mode != "mixed":
        return file.synced
    data = bytearray(file.synced)
    kept = chance.randint(0, len(file.pending))
    for number, (at, new) in enumerate(file.pending[:kept]):
        _change(data, at, new[: len(new) // 2] if new is not None and number == kept - 1 else new)
    return bytes(data)


def _operations(log: Path) -> Iterator[tuple[str, int, str, bytes]]:
    with log.open("rb") as file:
        while head := file.read(_HEAD.size):
            operation, offset, one, two = _HEAD.unpack(head)
            yield operation.decode(), offset, file.read(one).decode(), file.read(two)


def length(log: Path) -> int:
    """How many operations a log holds."""
    return sum(1 for _ in _operations(log))


def write_state(log: Path, before: Path, folder: Path, cut: int, mode: str) -> None:
    """Make the folder as it may be found after a power loss behind `cut` operations, which were
    made in this folder.
    """
    disk, chance = Disk(before), random.Random(cut)  # noqa: S311 - reproducible
    root = str(folder.resolve())
    for operation, offset, one, two in islice(_operations(log), cut):
        named = two.decode().removeprefix(root).encode() if operation in "RL" else two
        disk.do(operation, offset, one.removeprefix(root), named)
    disk.lose_power(mode, chance)
    disk.write(folder, mode, chance)
