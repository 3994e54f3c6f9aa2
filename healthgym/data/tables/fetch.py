"""Downloading, verifying and caching a public cohort.

Size and MD5 of Figshare's record are verified on download. On first use the file's SHA-256 is stored beside
it; from then on the file is used without network access, and a later download must give the same bytes.
"""

import contextlib
import io
import json
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from healthgym.errors import FetchError, listed
from healthgym.files import sha256_of, write_json
from healthgym.schema import Schema

FIGSHARE_API = "https://api.figshare.com"
CACHE_VARIABLE = "HEALTHGYM_CACHE"
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Dataset:
    """A file of a Figshare article, and the properties of its table."""

    name: str
    doi: str
    article: int
    file_id: int
    file_name: str
    num_rows: int
    num_patients: int

    @property
    def by_hand(self) -> str:
        """Instructions for machines without network access."""
        return (
            f"Download {self.file_name} from https://doi.org/{self.doi} on a machine with a network and give "
            f"it as --table FILE, or use the embedded cohort: --dataset simulated_art_hiv."
        )


# Kuo et al., CC BY 4.0; counts as published with the file.
DATASETS = {
    "art_hiv": Dataset(
        name="art_hiv",
        doi="10.6084/m9.figshare.22827878",
        article=22827878,
        file_id=40584980,
        file_name="HealthGymV2_CbdrhDatathon_ART4HIV.csv",
        num_rows=534_960,
        num_patients=8_916,
    )
}


def cache_folder() -> Path:
    """Return where fetched files are kept: $HEALTHGYM_CACHE, else the user's cache folder."""
    import pooch  # here: it imports tqdm.auto, which warns in every notebook without ipywidgets

    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("healthgym"))


def fetch(dataset: Dataset, folder: Path | None = None, api: str = FIGSHARE_API, attempts: int = 4) -> Path:
    """Return the path of the verified file, downloading it if it is not in the cache.

    A broken download is tried again from the start; an incomplete file never takes the file's name.

    Args:
        dataset: what to fetch.
        folder: where files are kept, by default `cache_folder()`.
        api: base address of Figshare's interface.
        attempts: how often to try a download.

    Raises:
        FetchError: no network, or what came is not what was published.
    """
    folder = folder or cache_folder()
    path = folder / dataset.file_name
    pin_path = folder / f"{dataset.file_name}.verified.json"
    pin = _read_pin(pin_path)
    if pin and path.is_file() and sha256_of(path) == pin["sha256"]:
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _download(dataset, folder, record := _record(dataset, api), attempts)
    except OSError as error:  # those of requests are OSErrors, too
        raise FetchError(f"Cannot fetch {dataset.file_name}: {_reason(error)}. {dataset.by_hand}") from None
    digest = sha256_of(path)
    if pin and digest != pin["sha256"]:
        path.unlink()
        raise FetchError(
            f"{dataset.file_name} now has SHA-256 {digest}, but had {pin['sha256']} when it was first "
            f"fetched: the published file has changed. If you trust the new one, delete {pin_path}."
        )
    write_json(pin_path, {"sha256": digest, "doi": dataset.doi, **record})
    return path


def check_counts(frame: pd.DataFrame, dataset: Dataset, schema: Schema, source: str) -> None:
    """Refuse a table that has not the published numbers of rows and patients."""
    patients = frame[schema.keys.patient].nunique() if schema.keys.patient in frame else 0
    if (len(frame), patients) != (dataset.num_rows, dataset.num_patients):
        raise FetchError(
            f"{source} has {len(frame):,} rows of {patients:,} patients; {dataset.name} was published with "
            f"{dataset.num_rows:,} rows of {dataset.num_patients:,}. Compare https://doi.org/{dataset.doi}."
        )


def _record(dataset: Dataset, api: str) -> dict[str, Any]:
    """Return size, MD5 and address of the file by Figshare's record of the article."""
    import pooch

    address = f"{api}/v2/articles/{dataset.article}"
    answer = io.BytesIO()
    pooch.HTTPDownloader(timeout=_TIMEOUT_SECONDS)(address, answer, None)
    try:
        files = json.loads(answer.getvalue())["files"]
        found = [entry for entry in files if entry["id"] == dataset.file_id]
        names = [entry["name"] for entry in files]
        if found:
            entry = found[0]
            md5 = entry.get("computed_md5") or entry["supplied_md5"]
            return {"size": int(entry["size"]), "md5": str(md5), "url": str(entry["download_url"])}
    except (ValueError, KeyError, TypeError) as error:
        raise FetchError(f"{address} did not answer with a record of files. {dataset.by_hand}") from error
    raise FetchError(
        f"{address} no longer lists file {dataset.file_id} ({dataset.file_name}); it has {listed(names)}. "
        f"{dataset.by_hand}"
    )


def _download(dataset: Dataset, folder: Path, record: dict[str, Any], attempts: int) -> None:
    """Download and verify size and MD5; the file appears under its name only if they are right."""
    import pooch

    keeper = pooch.create(
        path=folder,
        base_url="",
        registry={dataset.file_name: f"md5:{record['md5']}"},
        urls={dataset.file_name: record["url"]},
        retry_if_failed=attempts - 1,
    )
    downloader = pooch.HTTPDownloader(timeout=_TIMEOUT_SECONDS, progressbar=sys.stderr.isatty())
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        path = Path(keeper.fetch(dataset.file_name, downloader=downloader))
    except ValueError:
        raise FetchError(
            f"{record['url']} does not give the file that Figshare's record describes (MD5 {record['md5']}), "
            f"after {attempts} attempts. {dataset.by_hand}"
        ) from None
    if path.stat().st_size != record["size"]:
        size = path.stat().st_size
        path.unlink()
        raise FetchError(
            f"{dataset.file_name} has {size:,} bytes, but Figshare's record says {record['size']:,}. "
            f"{dataset.by_hand}"
        )


def _read_pin(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        pin = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(pin, dict) and isinstance(pin.get("sha256"), str):
            return pin
    return None


def _reason(error: OSError) -> str:
    """Return the first sentence of a network error; "no network" where nothing answers."""
    text = " ".join(str(error).split())
    if any(word in text for word in ("resolve", "Max retries", "Connection refused", "timed out")):
        host = getattr(getattr(error, "request", None), "url", None) or "the server"
        return f"no answer from {host} (no network here?)"
    return text.rstrip(".")
