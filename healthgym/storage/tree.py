"""A nested dict of arrays and plain values as one sealed HDF5 file.

The file begins with an HDF5 user block of 512 bytes: a line of text with the SHA-256 and the size of the
    rest.
HDF5 readers skip it; `head -c 512 FILE` shows it. With this seal a truncated file, or a single altered bit,
is detected on reading. Nothing is pickled.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np

from healthgym.errors import StorageError
from healthgym.faults import patiently, reading
from healthgym.files import sha256_of, write_bytes
from healthgym.storage.hdf5 import open_to_read

Tree: TypeAlias = dict[str, Any]

SEAL_BYTES = 512
_MAGIC = "healthgym sealed file"


def write_tree(path: Path, tree: Mapping[str, Any], kind: str, version: int) -> str:
    """Write a tree as one sealed file, atomically, and return the SHA-256 of its content.

    Args:
        path: the file to make or replace.
        tree: nested mappings with text keys; leaves are numpy arrays, text, numbers, booleans, None
            or JSON-like lists.
        kind: of the file, e.g. "checkpoint".
        version: of the format of this kind.
    """
    image = io.BytesIO()
    with h5py.File(image, "w", userblock_size=SEAL_BYTES, libver=("earliest", "v110")) as file:
        file.attrs.update({"kind": kind, "version": version})
        _write_group(file, tree)
    content = image.getbuffer()
    seal = hashlib.sha256(content[SEAL_BYTES:]).hexdigest()
    content[:SEAL_BYTES] = _seal_line(seal, len(content))
    write_bytes(path, content)
    return seal


def read_tree(path: Path, kind: str, versions: tuple[int, ...]) -> Tree:
    """Read a file of `write_tree`.

    Raises:
        StorageError: the file is missing, truncated, altered, or of another kind or version.
    """
    verify_seal(path)

    def read() -> Tree:
        with open_to_read(path) as file:
            check_kind(file, path, kind, versions)
            return _read_group(file)

    return patiently(read, f"reading {path}")


def seal_file(path: Path) -> str:
    """Fill the empty user block of an HDF5 file of any size with its seal, and return the SHA-256.

    For a file that was written beside its target, before it is renamed (`files.atomic_path`).
    """
    seal = sha256_of(path, SEAL_BYTES)
    with path.open("r+b") as stream:
        stream.write(_seal_line(seal, path.stat().st_size))
    return seal


def read_seal(path: Path) -> tuple[str, int]:
    """Return (SHA-256, size in bytes) of the file's first line."""
    with reading(path), path.open("rb") as stream:
        line = stream.read(SEAL_BYTES)
    words = line.split(b"\n", 1)[0].decode(errors="replace")
    if not words.startswith(_MAGIC):
        raise StorageError(
            f"{path} is not a file of healthgym: its first line is not a seal. Check the path."
        )
    found = re.fullmatch(rf"{_MAGIC}: sha256 ([0-9a-f]{{64}}), ([0-9]+) bytes", words)
    if found is None:
        raise StorageError(f"{path} has a damaged seal ('{words}'). Use another copy of it.")
    return found[1], int(found[2])


def check_size(path: Path) -> str:
    """Check only a sealed file's size, and return the SHA-256 of its first line."""

    def look() -> tuple[str, int, int]:
        with reading(path):
            return *read_seal(path), path.stat().st_size

    seal, size, found = patiently(look, f"reading {path}")
    if found != size:
        raise StorageError(
            f"{path} has {found} bytes where its seal says {size}: it was cut short or appended to. Use "
            f"another copy of it."
        )
    return seal


def verify_seal(path: Path) -> str:
    """Check a sealed file's size and SHA-256, and return the latter."""
    seal = check_size(path)

    def digest() -> str:
        with reading(path):
            return sha256_of(path, SEAL_BYTES)

    if patiently(digest, f"reading {path}") != seal:
        raise StorageError(
            f"{path} does not match its checksum: it was altered after it was written. Use another copy of "
            "it."
        )
    return seal


def check_kind(node: h5py.Group, path: Path, kind: str, versions: tuple[int, ...]) -> None:
    """Refuse a file of another kind, or of an unknown version."""
    found_kind, found_version = node.attrs.get("kind"), int(node.attrs.get("version", 0))
    if found_kind != kind:
        raise StorageError(f"{path} is a {found_kind or 'file of unknown kind'}; a {kind} was expected.")
    if found_version not in versions:
        raise StorageError(
            f"{path} has version {found_version} of the {kind} format; this program reads "
            f"{', '.join(map(str, versions))}. Install the healthgym that wrote it."
        )


def kind_of(path: Path) -> str:
    """Return the kind of an intact, sealed HDF5 file."""
    with open_to_read(path) as file:
        return str(file.attrs.get("kind"))


def _seal_line(seal: str, size: int) -> bytes:
    return f"{_MAGIC}: sha256 {seal}, {size} bytes\n".encode().ljust(SEAL_BYTES, b"\0")


def _write_group(group: h5py.Group, tree: Mapping[str, Any]) -> None:
    for name, value in tree.items():
        if not isinstance(name, str) or "/" in name or not name or name == ".":
            raise ValueError(f"a tree's keys are text without '/', not {name!r}")
        if isinstance(value, Mapping):
            _write_group(group.create_group(name, track_order=True), value)
        elif isinstance(value, np.ndarray):
            group.create_dataset(name, data=value)
        else:
            group.attrs[f"json:{name}"] = json.dumps(value)


def _read_group(group: h5py.Group) -> Tree:
    tree: Tree = {
        name.removeprefix("json:"): json.loads(value)
        for name, value in group.attrs.items()
        if name.startswith("json:")
    }
    for name, node in group.items():
        tree[name] = _read_group(node) if isinstance(node, h5py.Group) else node[()]
    return tree
