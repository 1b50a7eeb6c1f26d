"""Training the cells of an index with a GPU build of FAISS: `index.train_on: faiss-gpu`.

That build has the same files as faiss-cpu, so it is installed in a folder of its own, which only a
second process imports. A build without code for the card aborts its process, and no `except`
catches that. Shapes: N rows, C cells, D width.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from react_pipeline.embedding import Vectors
from react_pipeline.indexing.cells import ROUNDS
from react_pipeline.store import InputError

FAISS_GPU = Path(sys.prefix, "faiss-gpu")
PROBE_CELLS, PROBE_WIDTH = 4, 32


def require_faiss_gpu() -> None:
    """Train a few cells with the GPU build of FAISS.

    Raises:
        InputError: If it is not installed, or does not work on this machine's GPU.
    """
    rows = np.random.default_rng(0).random((64 * PROBE_CELLS, PROBE_WIDTH), np.float32)
    train_with_faiss_gpu(rows, PROBE_CELLS)


def train_with_faiss_gpu(rows: Vectors, cells: int) -> Vectors:
    """Return unit centroids (C, D) of rows (N, D).

    Raises:
        InputError: If the second process fails, with the last line that it wrote.
    """
    path = os.pathsep.join(filter(None, [str(FAISS_GPU), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("rows.npy", "centroids.npy")]
        np.save(files[0], rows)
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", __spec__.name, str(cells), *map(str, files)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        if not done.returncode:
            return np.load(files[1])
    reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    raise InputError(
        f"index.train_on: faiss-gpu in {FAISS_GPU} does not train on this machine's GPU: {reason}; "
        "install the build for the card (docs/gpu.md), or remove the field"
    )


def _train(cells: str, rows_file: str, centroids_file: str) -> None:
    """Train here, in the second process."""
    import faiss

    gpus = getattr(faiss, "get_num_gpus", int)()
    if not gpus:
        sys.exit(f"FAISS {faiss.__version__} in {Path(faiss.__file__).parent} has no GPU")
    rows = np.load(rows_file)
    kmeans = faiss.Kmeans(rows.shape[1], int(cells), niter=ROUNDS, spherical=True, gpu=gpus)
    kmeans.train(rows)
    np.save(centroids_file, kmeans.centroids)


if __name__ == "__main__":
    _train(*sys.argv[1:])
