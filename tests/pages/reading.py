"""Follows a page as a reader does: every block in the order of the text, in one folder, one shell
and one Python.

- `console`: lines that begin with `$ ` are commands; the others are what the command prints. Output
  above the first command belongs to the last command of an earlier block.
- `bash`: one script. `text`: what the block before it printed.
- A block whose first line is `# NAME.yaml`, `.py` or `.toml` is written to that file, and one block
  may hold several. Other `yaml` is a part of `pipeline.yaml` or of a domain's file, and is loaded.
- `python`: run in one interpreter. The cells of a notebook are such blocks.
- A command that serves is asked for its page, and runs until the next command of its block, until a
  block begins with what it prints after Ctrl-C, or until the page ends. While a user interface
  runs, a command is repeated until it prints what the page says.
- `<!-- not run: REASON -->` stands before a block that cannot be run here.

Numbers, fingerprints and blanks are not compared, and `...` stands for any text.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from support.services import answer, free_port

LANGUAGES = {"console", "bash", "text", "yaml", "toml", "python"}
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->", re.DOTALL)
FILE = re.compile(r"^# ([\w./-]+\.(?:yaml|toml|py))\b.*\n", re.MULTILINE)
SERVES = re.compile(r"react-pipeline (?:ui|judge|review|browse)\b|mlflow models serve\b")
PICTURES = re.compile(r"react-pipeline (?:judge|review|browse)\b(?!.*--port)")
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/?")
VALUES = re.compile(r"\b[0-9a-f]{8}\b|[+-]?\d+(?:[.,]\d+)*")
SECONDS = 1_800
JUDGEMENTS = 60

SCRIPT = """set -eo pipefail
. "$STATE"
{}
{{ export -p; printf 'cd %q\\n' "$PWD"; }} > "$STATE"
"""
INTERPRETER = """
import json, os, sys
names = {"__name__": "__main__"}
for line in sys.stdin:
    folder, source = json.loads(line)
    os.chdir(folder)
    exec(compile(source, "block", "exec"), names)
    print("\\0", flush=True)
"""
LOAD_PART = """
import sys, yaml
from pathlib import Path
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig
part = yaml.safe_load(sys.argv[1])
domain = {"classes": ["robin", "crane"]}
pipeline = {"corpus": {"shards": ["*.tar"]}, "encoder": {"model": "ViT-B-32", "pretrained": "x"}}
(domain if set(part) <= {"classes", "prompts", "templates", "title"} else pipeline).update(part)
folder = Path(sys.argv[2])
(folder / "domains").mkdir(parents=True, exist_ok=True)
(folder / "domains" / "birds.yaml").write_text(yaml.safe_dump(domain))
(folder / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
Project.load(folder / "pipeline.yaml").domain("birds")
"""


@dataclass(frozen=True)
class Block:
    """A block of a page; `reason` says why it is not run."""

    language: str
    text: str
    line: int
    reason: str = ""


def blocks(path: Path) -> Iterator[Block]:
    """Yield the blocks of a page or a notebook that a reader would run or write to a file."""
    if path.suffix == ".ipynb":
        for number, cell in enumerate(json.loads(path.read_text())["cells"], 1):
            if cell["cell_type"] == "code":
                yield Block("python", "".join(cell["source"]), number)
        return
    reason = ""
    for token in MarkdownIt("commonmark").parse(path.read_text()):
        if token.type == "fence" and token.info in LANGUAGES:
            yield Block(token.info, token.content, token.map[0] + 1, reason)
        found = NOT_RUN.match(token.content) if token.type == "html_block" else None
        reason = found[1] if found else ""


class Reader:
    """Runs blocks, in a folder, with the environment of somebody who installed the package.

    Files of the pages get the text of `added`, by their names.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], added: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.state = folder.parent / "state"
        self.state.write_text(f"cd {shlex.quote(str(folder))}\n")
        self.environment = {**environment, "STATE": str(self.state)}
        self.added = added
        self.printed = ""
        self.server: subprocess.Popen[str] | None = None
        self.served = self.pending = ""
        self.interpreter: subprocess.Popen[str] | None = None

    def read(self, path: Path) -> None:
        """Run every block of a page; a block that fails raises, and names its line."""
        try:
            for block in blocks(path):
                if block.reason:
                    continue
                try:
                    self.run(block)
                except (AssertionError, OSError, subprocess.SubprocessError) as error:
                    error.add_note(f"{path.name}, line {block.line}, {block.language}")
                    raise
        finally:
            self.stop_server()
            if self.interpreter:
                self.interpreter.kill()
                self.interpreter.communicate()
                self.interpreter = None

    def run(self, block: Block) -> None:
        """Run one block, write its files, or compare what it says is printed."""
        parts = FILE.split(block.text)
        for name, content in zip(parts[1::2], parts[2::2], strict=True):
            assert not parts[0].strip(), f"text before {name}"
            file = self.here / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content + self.added.get(name, ""))
        if block.language == "console":
            self.run_console(block.text)
        elif block.language == "bash":
            self.printed = self.shell(block.text)
        elif block.language == "text":
            require(block.text, self.printed)
        elif block.language == "python":
            self.printed = self.python(block.text)
        elif len(parts) == 1:
            self.shell(shlex.join(["python", "-c", LOAD_PART, block.text, f"{self.state}-part"]))

    def run_console(self, text: str) -> None:
        text = text.replace("\\\n", "\0")
        before, *commands = re.split(r"^\$ ", text, flags=re.MULTILINE)
        if before:
            self.stop_server()
            require(before, self.printed)
        for number, lines in enumerate(commands):
            command, _, expected = lines.partition("\n")
            command = command.replace("\0", "\\\n")
            if number:
                self.stop_server()
            if SERVES.match(command):
                self.serve(command)
                self.pending = expected
                continue
            self.printed = self.shell(command)
            end = time.monotonic() + SECONDS
            while self.waits and not agree(expected, self.printed) and time.monotonic() < end:
                self.printed = self.shell(command)
            require(expected, self.printed)

    @property
    def waits(self) -> bool:
        """Whether a user interface runs, whose daemon may not be ready yet."""
        return self.server is not None and " ui" in self.server.args[-1]

    @property
    def here(self) -> Path:
        """The shell's current folder."""
        (folder,) = shlex.split(self.state.read_text().splitlines()[-1])[1:]
        return Path(folder)

    def shell(self, script: str) -> str:
        """Run a script where the last one ended, and return what it printed."""
        done = subprocess.run(
            ["bash", "-c", SCRIPT.format(script)],
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout

    def python(self, source: str) -> str:
        """Run Python with the names of the blocks before, and return what it printed."""
        if self.interpreter is None:
            self.interpreter = subprocess.Popen(
                ["bash", "-c", f'. "$STATE"; exec python -c {shlex.quote(INTERPRETER)}'],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.interpreter.stdin.write(json.dumps([str(self.here), source]) + "\n")
        self.interpreter.stdin.flush()
        lines: list[str] = []
        for line in self.interpreter.stdout:
            lines.append(line)
            if line.endswith("\0\n"):
                return "".join(lines).removesuffix("\0\n")
        raise AssertionError(f"{source}\n{''.join(lines)[-4000:]}")

    def serve(self, command: str) -> None:
        """Start a command that serves, wait for its page, and judge if it asks for that.

        Pages are read side by side, so servers take free ports in place of their own.
        """
        port = " --port 0" if PICTURES.match(command) else ""
        if command.startswith("react-pipeline ui"):
            port = f" --dagster-port {free_port()} --mlflow-port {free_port()}"
        self.server = subprocess.Popen(
            ["bash", "-c", f'. "$STATE"; exec {command.partition("  #")[0]}{port}'],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        lines: list[str] = []
        for line in self.server.stdout:
            lines.append(line)
            if found := ADDRESS.search(line):
                break
        else:
            raise AssertionError(f"{command}\n{''.join(lines)}")
        self.served = "".join(lines)
        assert answer(found[0])[0] in (200, 404), found[0]
        if " judge " in command:
            judge(found[0], self.here / "judgements")

    def stop_server(self) -> None:
        """Press Ctrl-C, and compare all that the server printed."""
        if self.server:
            os.killpg(self.server.pid, signal.SIGINT)
            self.printed = self.served + self.server.stdout.read()
            self.server.wait(180)
            self.server = None
            require(self.pending, self.printed)


def judge(url: str, folder: Path) -> None:
    """Say of each picture that the candidate is right, until the answer is clear."""
    log = max(folder.rglob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    header = json.loads(log.read_text().splitlines()[0])
    answers: list[Any] = [None]
    while answers:
        body = json.dumps({"answer": answers.pop()}).encode()
        kind = {"Content-Type": "application/json"}
        post = urllib.request.Request(f"{url}view", body, kind)  # noqa: S310 - loopback
        with urllib.request.urlopen(post, timeout=600) as page:  # noqa: S310
            view: dict[str, Any] = json.load(page)
        number = int(view["status"].partition(" ")[0])
        if view["items"] and not view["notice"] and number < JUDGEMENTS:
            choice = header["pictures"][number]["candidate"]
            answers.append({"picture": number, "choice": choice})


def masked(text: str) -> str:
    """Return a text without values, blank lines and repeated blanks."""
    lines = (" ".join(VALUES.sub("#", line).split()) for line in text.splitlines())
    return "\n".join(filter(None, lines))


def agree(expected: str, output: str) -> bool:
    """Return whether the output has the lines that a page shows, one after the other."""
    pattern = re.escape(masked(expected)).replace(r"\.\.\.", ".*")
    return not pattern or bool(re.search(f"(?ms)^{pattern}$", masked(output)))


def require(expected: str, output: str) -> None:
    assert agree(expected, output), f"the page says\n{expected}\nprinted was\n{output[-4000:]}"
