"""A launcher of nodes, run as a program: starts a command once for each "node" of this machine.

Each node has a folder of its own for temporary files. As `srun --kill-on-bad-exit` does, it ends
all when one fails, or when it receives SIGINT or SIGTERM.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any


def main() -> int:
    count, command = int(sys.argv[1]), sys.argv[2:]
    nodes: list[subprocess.Popen[bytes]] = []

    def end(*_: Any) -> None:
        for node in nodes:
            node.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    for _ in range(count):
        own = {**os.environ, "TMPDIR": tempfile.mkdtemp(prefix="node-")}
        nodes.append(subprocess.Popen(command, env=own, start_new_session=True))
    while None in (ends := [node.poll() for node in nodes]):
        if any(ends):
            end()
        time.sleep(0.1)
    return max(abs(one) for one in ends)


if __name__ == "__main__":
    sys.exit(main())
