"""Make the golden store of a version: `python tests/golden/make.py 0.1`, once, when a format is
meant to be kept.

It holds a store, the checkpoints in it, and an export, as this version writes them, with what the
models make of a few pictures. `test_golden.py` opens every one that is here. Dashboards are left
out.
"""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "faults")]

from harness import lineage  # noqa: E402
from test_golden import features  # noqa: E402

from react_pipeline.extensions.hub.export import export  # noqa: E402
from react_pipeline.project import Project  # noqa: E402


def main() -> None:
    """Run the lineage up to the results, export a model, pack everything."""
    target = Path(__file__).with_name(f"{sys.argv[1]}.tar.xz")
    lineage.draw_nothing()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "golden"
        folder.mkdir()
        lineage.write_inputs(folder)
        results = (
            max(n for n, (stage, _) in enumerate(lineage.TASKS) if stage == "domain_results") + 1
        )
        lineage.run(folder, 0, results)
        export(
            Project.load(folder / "pipeline.yaml"), lineage.SLUG, "gated-image", folder / "export"
        )
        for name in (".cache", ".locks", ".scratch", ".temporary"):
            shutil.rmtree(folder / "store" / name, ignore_errors=True)
        for memory in (folder / "store").rglob(".digests.jsonl"):
            memory.unlink()
        (folder / "features.json").write_text(json.dumps(features(folder)))
        with tarfile.open(target, "w:xz", preset=9) as tar:
            tar.add(folder, "golden")
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
