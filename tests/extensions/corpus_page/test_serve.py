"""Browsing the corpus: the page, and what clients of clip-retrieval ask."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from conftest import write_project
from PIL import Image
from support.drawings import draw, encode, pair, write_shard
from support.ready import CAPTIONS, encoded, write_ready

from react_pipeline.clip.base import publish_base
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.extensions.corpus_page import page
from react_pipeline.extensions.corpus_page.page import create_app, serve_corpus
from react_pipeline.extensions.corpus_page.search import IMAGE_MODES, TEXT_MODES, search_pairs
from react_pipeline.extensions.ui.process_groups import listen_to_signals
from react_pipeline.extensions.ui.serve import CONNECTIONS, HOST
from react_pipeline.indexing.index import build_index
from react_pipeline.project.project import Project
from react_pipeline.store.errors import InputError, MissingArtifact, SourceUnavailable

HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script> a red circle'
PAGE = {
    "modality": "image",
    "num_images": 5,
    "num_result_ids": 20,
    "indice_name": "corpus",
    "deduplicate": False,
}


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    drawings: Path,
    _indexed_store: Path,
) -> Project:
    project = write_project(tmp_path_factory.mktemp("served"), tiny_checkpoint, drawings)
    shutil.copytree(_indexed_store, project.config.store)
    return project


@pytest.fixture(scope="module")
def client(project: Project) -> Any:
    return create_app(project).test_client()


def ask(client: Any, **fields: Any) -> Any:
    return client.post("/knn-service", data=json.dumps({**PAGE, **fields}))


def test_a_text_finds_what_the_command_line_finds_with_pictures(
    client: Any, project: Project
) -> None:
    found = ask(client, text="a red circle", modality="text").get_json()
    expected = search_pairs(project, "a red circle", "t2t", 20)
    assert [result["id"] for result in found] == expected["row"].tolist()
    assert [result["similarity"] for result in found] == pytest.approx(
        expected["similarity"].tolist()
    )
    assert [result["caption"] for result in found[:5]] == expected["caption"].tolist()[:5]
    for result in found[:5]:
        assert Image.open(io.BytesIO(base64.b64decode(result["image"]))).size == (40, 40)
    # The rest is described when the page is scrolled to it.
    assert set(found[5]) == {"id", "similarity"}
    rest = client.post(
        "/metadata", data=json.dumps({"ids": [found[5]["id"]], "indice_name": "corpus"})
    ).get_json()
    assert (
        rest[0]["id"] == found[5]["id"]
        and rest[0]["metadata"]["caption"] == expected["caption"].tolist()[5]
    )


def test_an_image_of_the_corpus_finds_itself(client: Any) -> None:
    image = base64.b64encode(encode(draw("circle", "red", 0), "jpg")).decode()
    found = ask(client, image=image).get_json()
    assert found[0]["id"] == 0 and found[0]["similarity"] == pytest.approx(1, abs=2e-3)


def test_equal_pictures_are_shown_once_where_that_is_asked_for(client: Any) -> None:
    alone = ask(client, text="a red circle", deduplicate=True).get_json()
    assert 0 < len(alone) < len(ask(client, text="a red circle").get_json())


def test_the_page_and_its_script_come_from_here_alone(client: Any) -> None:
    page = client.get("/")
    assert page.status_code == 200 and b"96 pairs" in page.data
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "http" not in policy
    # A policy of the page's own would forbid it what the header allows.
    assert b"Content-Security-Policy" not in page.data
    addresses = re.findall(r"(?:src|href)=['\"]([^'\"#]+)", page.get_data(as_text=True))
    assert addresses == ["data:,", "corpus.js"]
    assert client.get("/corpus.js").mimetype == "text/javascript"
    assert client.get("/indices-list").get_json() == ["corpus"]


def test_every_control_of_the_page_is_used_by_its_script(client: Any) -> None:
    page, script = (client.get(path).get_data(as_text=True) for path in ("/", "/corpus.js"))
    controls = re.findall(r"<(?:input|button|select|a)[^>]* id='(\w+)'", page)
    assert len(controls) >= 6
    assert [
        name for name in controls if f'element("{name}")' not in script and f"#{name}" not in script
    ] == []


def test_query_is_first_compared_with_its_own_kind_as_by_search(client: Any) -> None:
    page, script = (client.get(path).get_data(as_text=True) for path in ("/", "/corpus.js"))
    assert re.findall(r"name='side' value='(\w+)' checked", page) == [
        next(iter(TEXT_MODES.values()))
    ]
    assert "value=${chosen || kind}" in script and {"text", next(iter(IMAGE_MODES.values()))} == {
        "text",
        "image",
    }


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/../../etc/passwd",
            "/%2e%2e/%2e%2e/etc/passwd",
            "/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        ),
        *(
            "//etc/passwd",
            "/corpus.js/../../serve.py",
            "/corpus.html",
            "/..\\..\\browse\\serve.py",
            "/%00",
        ),
    ],
)
def test_no_route_leads_to_another_file(client: Any, path: str) -> None:
    answer = client.get(path, follow_redirects=True)
    # The test client takes `//etc` for another host.
    assert answer.status_code == (403 if path.startswith("//") else 404)
    assert b"root:" not in answer.data and b"import" not in answer.data


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_url": "http://127.0.0.1:9/secret"}, "addresses are not opened"),
        ({"image_url": "file:///etc/passwd"}, "addresses are not opened"),
        ({"image": "no base64!"}, "not base64"),
        ({"image": base64.b64encode(b"<svg/>").decode()}, "cannot be decoded"),
        ({"text": "a", "modality": "sound"}, "modality"),
        ({"text": "a", "indice_name": "../other"}, "indice_name"),
        ({"embedding_input": [1.0, 2.0]}, "32 finite numbers"),
        ({"row": 1_000_000}, "rows are numbered"),
        ({}, "must be given"),
    ],
)
def test_what_cannot_be_searched_for_is_reported(
    client: Any, fields: dict[str, Any], words: str
) -> None:
    answer = ask(client, **fields)
    message = answer.get_json()["message"]
    assert answer.status_code == 400 and words in message and "\n" not in message


@pytest.mark.parametrize("path", ["/knn-service", "/metadata"])
@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"{",
            b"[]",
            b"null",
            b"\xff",
            b"[" * 100_000,
            b'{"text": "\\ud800"}',
            b'{"text": ' + b"[" * 900,
        ),
        *(b'{"ids": [1e400], "indice_name": "corpus"}', b'{"num_images": 1e999, "text": "a"}'),
        b'{"embedding_input": [NaN, Infinity]}',
    ],
)
def test_a_request_that_means_nothing_is_the_clients_fault(
    client: Any, path: str, body: bytes
) -> None:  # 55
    assert client.post(path, data=body).status_code == 400


def test_rows_that_are_not_there_are_refused(client: Any) -> None:
    for ids in ([-1], [96], ["../x"]):
        assert (
            client.post(
                "/metadata", data=json.dumps({"ids": ids, "indice_name": "corpus"})
            ).status_code
            == 400
        )


def test_no_address_is_opened_for_a_user(client: Any) -> None:
    asked = []
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(0.5)

        def listen() -> None:
            with contextlib.suppress(TimeoutError):
                asked.append(server.accept()[1])

        thread = threading.Thread(target=listen)
        thread.start()
        ask(client, image_url=f"http://{HOST}:{server.getsockname()[1]}/x.png")
        thread.join()
    assert asked == []


def test_other_sites_and_other_names_are_refused(client: Any) -> None:
    assert client.get("/", headers={"Host": "localhost:1234"}).status_code == 200
    assert client.get("/", headers={"Host": "rebound.example:1234"}).status_code == 403
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    body = json.dumps({**PAGE, "text": "a"})
    assert (
        client.post(
            "/knn-service", data=body, headers={"Origin": "https://evil.example"}
        ).status_code
        == 403
    )
    answer = client.post("/knn-service", data=body, headers={"Origin": "http://localhost"})
    assert answer.status_code == 200 and "Access-Control-Allow-Origin" not in answer.headers


@pytest.fixture
def hostile_project(make_project: Callable[..., Project], tmp_path: Path) -> Project:
    samples = {f"{number:03d}": pair("circle", "red", number) for number in range(6)}
    samples["002"]["txt"] = HOSTILE.encode()
    # A key that clip-retrieval's own back end would open as a file.
    samples[str(Path(__file__).with_suffix("")).lstrip("/")] = pair("square", "red", 9)
    write_shard(tmp_path / "shards" / "0.tar", samples)
    project = make_project(corpus={"shards": [str(tmp_path / "shards" / "*.tar")]})
    for publish in (publish_corpus, publish_base, embed_corpus, build_index):
        publish(project)
    return project


def test_a_hostile_caption_stays_a_text(hostile_project: Project) -> None:
    answer = ask(create_app(hostile_project).test_client(), text="a red circle")
    assert (
        answer.mimetype == "application/json"
        and answer.headers["X-Content-Type-Options"] == "nosniff"
    )
    found = ask(create_app(hostile_project).test_client(), text=HOSTILE, modality="text").get_json()
    assert found[0]["caption"] == HOSTILE
    assert all("image_path" not in result for result in found)


def test_a_shard_that_is_gone_costs_its_pictures_only(
    hostile_project: Project, tmp_path: Path
) -> None:
    app = create_app(hostile_project)
    (tmp_path / "shards" / "0.tar").unlink()
    found = ask(app.test_client(), text="a red circle").get_json()
    assert len(found[0]["caption"]) > 0 and "image" not in found[0]


def test_without_an_index_the_missing_asset_is_named(tiny_project: Project) -> None:
    with pytest.raises(MissingArtifact, match="faiss_index|corpus"):
        create_app(tiny_project)


def test_a_taken_port_is_reported(project: Project) -> None:
    with socket.create_server((HOST, 0)) as taken, pytest.raises(InputError, match="--port"):
        serve_corpus(project, taken.getsockname()[1], print)


@pytest.fixture
def at_urls(make_project: Callable[..., Project], tmp_path: Path, tiny_checkpoint: Path) -> Project:
    write_ready(tmp_path / "ready", encoded(tiny_checkpoint, CAPTIONS))
    metadata = tmp_path / "ready" / "metadata" / "metadata_00.parquet"
    table = pd.read_parquet(metadata)
    table.loc[0, "url"] = "javascript:alert(1)"
    table.to_parquet(metadata, index=False)
    project = make_project(corpus={"kind": "embeddings", "embeddings": str(tmp_path / "ready")})
    for publish in (publish_corpus, publish_base, embed_corpus, build_index):
        publish(project)
    return project


def test_pictures_at_urls_are_shown_and_searched_by_vector(
    at_urls: Project,
) -> None:
    client = create_app(at_urls).test_client()
    found = {
        result["id"]: result for result in ask(client, text=CAPTIONS[5], num_images=16).get_json()
    }
    assert len(found) == 16 and found[5]["caption"] == CAPTIONS[5]
    assert found[5]["url"] == "http://127.0.0.1:9/5.png" and "image" not in found[5]
    # Nothing listens there: the vector is the stored one.
    alike = ask(client, row=5).get_json()
    assert alike[0]["id"] == 5 and alike[0]["similarity"] == pytest.approx(1, abs=2e-3)
    # What is no address of the web is not handed on.
    assert [row for row, result in found.items() if "url" not in result] == [0]
    assert "img-src 'self' data: http: https:" in client.get("/").headers["Content-Security-Policy"]


@contextlib.contextmanager
def served(project: Project) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and its address."""
    command = [
        sys.executable,
        "-m",
        "react_pipeline",
        "serve",
        "--port",
        "0",
        "--config",
        str(project.path),
    ]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, preexec_fn=listen_to_signals
    )
    try:
        assert running.stdout is not None
        found = next(
            filter(None, (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in running.stdout))
        )
        yield running, found[0]
    finally:
        running.kill()


@pytest.mark.slow
def test_the_command_serves_on_loopback_until_it_is_interrupted(project: Project) -> None:
    with served(project) as (running, url):
        with urllib.request.urlopen(url, timeout=120) as page:  # noqa: S310 - loopback
            assert b"corpus.js" in page.read()
        running.send_signal(signal.SIGINT)
        assert running.wait(180) == 0


@pytest.mark.slow
@pytest.mark.operations
def test_three_hundred_half_sent_requests_and_fifty_clients(project: Project) -> None:  # FAULTS 55
    body = json.dumps({**PAGE, "text": "a red circle"}).encode()

    def search(url: str) -> float:
        began = time.monotonic()
        with urllib.request.urlopen(f"{url}knn-service", body, timeout=120) as answer:  # noqa: S310 - loopback
            assert len(json.loads(answer.read())) == 20
        return time.monotonic() - began

    with served(project) as (running, url), contextlib.ExitStack() as stack:
        search(url)
        process, port = psutil.Process(running.pid), int(url.rstrip("/").rpartition(":")[2])
        idle = process.num_fds()
        for _ in range(300):
            half = stack.enter_context(socket.create_connection((HOST, port), timeout=30))
            half.sendall(
                b"POST /knn-service HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{"
            )
        held = process.num_fds() - idle
        with ThreadPoolExecutor(50) as clients:
            seconds = sorted(clients.map(lambda _: search(url), range(200)))
        held = max(held, process.num_fds() - idle)
    print(
        f"{len(seconds)} searches: median {seconds[100]:.2f} s, worst {seconds[-1]:.2f} s, {held} "
        "descriptors held"
    )
    assert held <= CONNECTIONS


def test_a_failure_of_this_side_is_no_fault_of_the_question() -> None:
    assert page._explain(SourceUnavailable("gone")) == ({"message": "gone"}, 500)
