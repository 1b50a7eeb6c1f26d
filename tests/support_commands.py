"""Commands as processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_CODE = """
import sys; from react_pipeline.commands.cli import main
try: main(sys.argv[1:])
except SystemExit: pass
sys.exit('torch' in sys.modules or 'mlflow' in sys.modules)
"""


def assert_loads_no_torch(*command: str, cwd: Path | None = None) -> None:
    """Run a command, which loads neither torch nor MLflow."""
    done = subprocess.run([sys.executable, "-c", _CODE, *command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
