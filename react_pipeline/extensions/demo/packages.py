"""The packages that the demo reads, what for, and under which licence.

No third-party pictures or weights are committed: everything is read from installed packages, so the
results stay under the licences below. Importing this module imports neither torch nor the packages.
"""

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from react_pipeline.installation import install_command
from react_pipeline.store import InputError


@dataclass(frozen=True)
class Source:
    """One package the demo reads; `name` is what a corpus record carries as `source`."""

    name: str
    package: str
    licence: str
    used: str


TABLES = json.loads(Path(__file__).with_name("packages.json").read_bytes())
"""Packages, and the fonts of icons in them."""

CORPUS_SOURCES = tuple(Source(**source) for source in TABLES["corpus"])
"""Where the pairs of the corpus come from."""

OTHER_SOURCES = tuple(Source(**source) for source in TABLES["other"])
"""What names, weights and evaluation images come from."""

ENCODER_INGREDIENTS = tuple(
    (source.package, source.used, source.licence)
    for source in OTHER_SOURCES
    if source.name in ("efficientnet", "minilm", "imagenet-names")
)
"""Ingredients of the base model, for the card: package, the part that is used, licence."""

IMAGE_TOWER = "react_demo_hybrid"
"""timm's name of the architecture that `network` adds."""

RECIPE_VERSION = 3
"""Raised by hand when the demo makes another corpus, base or evaluation set of the same packages.
"""


def installed_versions() -> dict[str, str]:
    """Return the identity of what the demo makes: the versions of its packages, and its own.

    Raises:
        InputError: Naming the packages that are missing.
    """
    packages = sorted(source.package for source in (*CORPUS_SOURCES, *OTHER_SOURCES))
    versions = {"recipe": str(RECIPE_VERSION)}
    missing = []
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        raise InputError(f"the demo needs {', '.join(missing)}: {install_command('demo')}")
    return versions
