"""The shim (`shim.c`) from Python: building it, and the file by which it is steered."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
ACTIONS = ("fail", "cut", "kill", "torn")
"""As `enum action`: fail with an error; write half; kill before the call; write half, then kill."""

_DISK = ("ENOSPC", "EIO", "EDQUOT")
FAULTS = {
    "open": ("EIO", "EINTR", "EMFILE"),
    "create": (*_DISK, "EINTR", "kill"),
    "read": ("EIO", "EINTR"),
    "map": ("EIO",),
    "write": (*_DISK, "EINTR", "cut", "kill", "torn"),
    "fsync": (*_DISK, "EINTR", "kill"),
    "rename": (*_DISK, "kill", "rot"),
    "link": ("EIO", "EMLINK", "kill"),
    "unlink": ("EIO", "kill"),
    "mkdir": (*_DISK, "kill"),
    "resize": (*_DISK, "EINTR", "kill"),
    "lock": ("ENOLCK", "EINTR"),
}
"""Kind of call -> what is done to it: an error, or an action. `open` is of a file that is there,
`create` of one that is not, `resize` truncates or allocates. `rot` kills, and then flips a bit of
what is left.
"""

KINDS = tuple(FAULTS)
"""As `enum kind`."""


class State(ctypes.Structure):
    """As `struct state`."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("armed", "logging", "kind", "n", "action", "error", "fired")
        ),
        ("counts", ctypes.c_int64 * len(KINDS)),
        *((name, ctypes.c_char * 1024) for name in ("root", "log", "where")),
    )

    def inject(self, kind: str, n: int, fault: str, folder: Path) -> None:
        """Do this to the `n`-th call of a kind below a folder, counted from 1 over all processes
        from now on; 0 lets all of them through.
        """
        self.counts = (ctypes.c_int64 * len(KINDS))()
        self.root, self.where, self.fired = str(folder.resolve()).encode(), b"", 0
        self.kind, self.n = KINDS.index(kind), n
        self.action = ACTIONS.index(
            "kill" if fault == "rot" else fault if fault in ACTIONS else "fail"
        )
        self.error = getattr(errno, fault, 0)
        self.armed = 1

    def record(self, log: Path, folder: Path) -> None:
        """Write every change below a folder into a log, with its data."""
        log.touch()
        self.root, self.log, self.logging = str(folder.resolve()).encode(), str(log).encode(), 1

    def release(self) -> None:
        """Let the file system be."""
        self.armed = self.logging = 0


COMPILER = shutil.which("cc") or shutil.which("gcc")
CAN_BE_BUILT = platform.libc_ver()[0] == "glibc" and COMPILER is not None


def environment(folder: Path) -> dict[str, str]:
    """Build the shim in a folder; return the environment in which processes are subject to it."""
    library, state = folder / "shim.so", folder / "state"
    options = ("-O2", "-Wall", "-shared", "-fPIC", "-ldl")
    subprocess.run([str(COMPILER), str(SOURCE), "-o", str(library), *options], check=True)
    state.write_bytes(bytes(ctypes.sizeof(State)))
    return {**os.environ, "LD_PRELOAD": str(library), "FAULTS_STATE": str(state)}


def attached() -> State:
    """The state of this process and of those that it starts."""
    with Path(os.environ["FAULTS_STATE"]).open("r+b") as file:
        return State.from_buffer(mmap.mmap(file.fileno(), 0))
