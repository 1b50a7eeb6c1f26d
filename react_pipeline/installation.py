"""The installation: the command that adds an extra to it, and data files of installed packages.

The name of this package is on no index, so a command that names it would install whatever somebody
puts there.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from react_pipeline.store import InputError

DISTRIBUTION = "react-pipeline"
EXTRAS = {
    "clip_benchmark": "elevater",
    "dagster_aws": "kubernetes",
    "dagster_k8s": "kubernetes",
    "h5py": "elevater",
    "pycocotools": "dense",
    "pyspark": "spark",
}
"""The extra that installs a module which only one part needs."""
INSTALL_CLIP_RETRIEVAL = "pip install --no-deps clip-retrieval==2.45.0 all-clip==1.3.0"
"""Without its requirements: its metadata caps numpy, pyarrow and open_clip, its code does not."""


def install_command(extra: str) -> str:
    """Return the command that installs this package again with an extra."""
    return f"pip install 'PATH/OF/THE/WHEEL/OR/CLONE[{extra}]'"


def installed_file(package: str, *parts: str) -> Path | None:
    """Return a file of an installed package without running its code: importing these packages
    loads torch.
    """
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return next((path for folder in folders if (path := Path(folder, *parts)).is_file()), None)


@cache
def open_clip_metadata() -> Any:
    """Run the one module of open_clip that is plain data, ImageNet's class names and CLIP's 80
    prompts, and return it.

    Raises:
        InputError: If open_clip is not installed.
    """
    path = installed_file("open_clip", "zero_shot_metadata.py")
    spec = importlib.util.spec_from_file_location("_zero_shot_metadata", path) if path else None
    if spec is None or spec.loader is None:
        raise InputError("ImageNet's class names come with open_clip_torch, which is not installed")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
