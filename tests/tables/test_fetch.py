"""Fetching a public file, from a local server that can be made to fail."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tables import small_schema, small_table

from healthgym.data.tables import fetch as fetching
from healthgym.data.tables.fetch import DATASETS, Dataset, cache_folder, check_counts, fetch
from healthgym.errors import FetchError

CONTENT = b"PatientID,Timestep\n" + b"1,2\n" * 50_000
DATASET = Dataset("art_hiv", "10.0/test", 7, 42, "table.csv", 50_000, 1)


class Figshare(ThreadingHTTPServer):
    """Answers as Figshare does. `faults` are taken one per request of the file; `record` can be changed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.content = CONTENT
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.entry: dict[str, Any] = {
            "id": 42,
            "name": "table.csv",
            "size": len(CONTENT),
            "computed_md5": hashlib.md5(CONTENT, usedforsecurity=False).hexdigest(),
            "download_url": f"{self.url}/files/42",
        }
        self.record: bytes | None = None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The server drops connections; this is tested."""


class Handler(BaseHTTPRequestHandler):
    server: Figshare

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.path == "/v2/articles/7":
            record = self.server.record or json.dumps({"files": [self.server.entry]}).encode()
            self.answer(200, record)
        else:
            fault = self.server.faults.pop(0) if self.server.faults else ""
            if fault.isdecimal():
                self.answer(int(fault), b"sorry")
            elif fault == "drop":
                self.answer(200, self.server.content, sent=len(self.server.content) // 2)
            else:
                self.answer(200, b"x" + self.server.content[1:] if fault == "flip" else self.server.content)

    def answer(self, status: int, body: bytes, sent: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def figshare(monkeypatch: pytest.MonkeyPatch) -> Iterator[Figshare]:
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    server = Figshare()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_second_call_uses_the_cache_and_no_network(figshare: Figshare, tmp_path: Path) -> None:
    path = fetch(DATASET, tmp_path, figshare.url)
    assert path.read_bytes() == CONTENT
    assert figshare.requests == ["/v2/articles/7", "/files/42"]
    assert names(tmp_path) == ["table.csv", "table.csv.verified.json"]
    pin = json.loads((tmp_path / "table.csv.verified.json").read_text())
    assert pin["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert fetch(DATASET, tmp_path, "http://127.0.0.1:9") == path
    assert len(figshare.requests) == 2


@pytest.mark.parametrize("fault", ["drop", "500", "503", "flip"])
def test_a_passing_fault_is_tried_again(figshare: Figshare, tmp_path: Path, fault: str) -> None:
    figshare.faults = [fault, fault]
    assert fetch(DATASET, tmp_path, figshare.url).read_bytes() == CONTENT
    assert figshare.requests.count("/files/42") == 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("drop", r"Cannot fetch table\.csv: .*IncompleteRead.*--table FILE"),
        ("500", r"Cannot fetch table\.csv: 500 Server Error.*--table FILE"),
        ("404", r"Cannot fetch table\.csv: 404 Client Error.*--table FILE"),
        ("flip", r"does not give the file that Figshare's record describes \(MD5 \w+\), after 3 attempts"),
    ],
)
def test_a_lasting_fault_leaves_nothing_behind(
    figshare: Figshare, tmp_path: Path, fault: str, message: str
) -> None:
    figshare.faults = [fault] * 9
    with pytest.raises(FetchError, match=message):
        fetch(DATASET, tmp_path, figshare.url, attempts=3)
    assert names(tmp_path) == []
    assert figshare.requests.count("/files/42") == 3
    figshare.faults = []
    assert fetch(DATASET, tmp_path, figshare.url).read_bytes() == CONTENT


def test_size_is_checked(figshare: Figshare, tmp_path: Path) -> None:
    figshare.entry["size"] += 1
    with pytest.raises(FetchError, match=r"has 200,019 bytes, but Figshare's record says 200,020"):
        fetch(DATASET, tmp_path, figshare.url)
    assert names(tmp_path) == []


def test_a_file_altered_in_the_cache_is_fetched_again(figshare: Figshare, tmp_path: Path) -> None:
    path = fetch(DATASET, tmp_path, figshare.url)
    path.write_bytes(CONTENT[:-1])
    assert fetch(DATASET, tmp_path, figshare.url).read_bytes() == CONTENT


def test_another_file_than_the_one_first_fetched_is_not_trusted(figshare: Figshare, tmp_path: Path) -> None:
    fetch(DATASET, tmp_path, figshare.url).unlink()
    figshare.content = CONTENT + b"1,2\n"
    digest = hashlib.md5(figshare.content, usedforsecurity=False).hexdigest()
    figshare.entry |= {"size": len(figshare.content), "computed_md5": digest}
    with pytest.raises(FetchError, match=r"the published file has changed\. .* delete .*verified\.json"):
        fetch(DATASET, tmp_path, figshare.url)
    assert names(tmp_path) == ["table.csv.verified.json"]


@pytest.mark.parametrize("record", [b"<html>", b"{}", b'{"files": [{"id": 42}]}', b"[]", b"\xff"])
def test_a_strange_record_is_named(figshare: Figshare, tmp_path: Path, record: bytes) -> None:
    figshare.record = record
    with pytest.raises(FetchError, match=r"/v2/articles/7 did not answer with a record"):
        fetch(DATASET, tmp_path, figshare.url)


def test_a_file_that_is_gone_is_named(figshare: Figshare, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"no longer lists file 43 \(table\.csv\); it has table\.csv"):
        fetch(replace(DATASET, file_id=43), tmp_path, figshare.url)
    figshare.faults = ["404"]
    with pytest.raises(FetchError, match="404 Client Error"):
        fetch(replace(DATASET, article=8), tmp_path, figshare.url)


def test_no_network_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FetchError) as caught:
        fetch(DATASETS["art_hiv"], tmp_path, "http://127.0.0.1:9")
    assert "no answer from http://127.0.0.1:9/v2/articles/22827878 (no network here?)" in str(caught.value)
    assert "https://doi.org/10.6084/m9.figshare.22827878" in str(caught.value)
    assert "--table FILE" in str(caught.value)
    assert "--dataset simulated_art_hiv" in str(caught.value)


def test_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(fetching.CACHE_VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv(fetching.CACHE_VARIABLE)
    assert cache_folder().name == "healthgym"


def test_an_unwritable_cache_is_named(figshare: Figshare, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match=r"Cannot fetch table\.csv: .*(Not a directory|exists)"):
        fetch(DATASET, tmp_path / "file" / "cache", figshare.url)


def test_counts_are_those_published() -> None:
    frame = small_table(5, 4)
    check_counts(frame, replace(DATASET, num_rows=20, num_patients=5), small_schema(), "f.csv")
    with pytest.raises(
        FetchError, match=r"f\.csv has 20 rows of 5 patients; art_hiv was published with 50,000"
    ):
        check_counts(frame, DATASET, small_schema(), "f.csv")
    with pytest.raises(FetchError, match=r"0 patients"):
        check_counts(pd.DataFrame({"a": [1]}), DATASET, small_schema(), "f.csv")
