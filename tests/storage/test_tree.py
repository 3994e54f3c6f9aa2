"""Sealed files: the content is read back as it was written, and every altered byte is detected."""

import string
from pathlib import Path

import h5py
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from healthgym.errors import StorageError
from healthgym.storage.tree import read_tree, write_tree

names = st.text(string.ascii_letters + " ()._-", min_size=1, max_size=8).filter(lambda name: name != ".")
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.lists(st.integers() | st.text(), max_size=3)
    | hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
trees = st.dictionaries(
    names,
    st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8),
    max_size=4,
)


def assert_equal(a: object, b: object) -> None:
    if isinstance(a, dict):
        assert isinstance(b, dict)
        assert a.keys() == b.keys()
        for name in a:
            assert_equal(a[name], b[name])
    elif isinstance(a, np.ndarray):
        assert isinstance(b, np.ndarray | np.generic)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert type(a) is type(b)
        assert a == b


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees)
def test_round_trip(tmp_path: Path, tree: dict[str, object]) -> None:
    write_tree(tmp_path / "a.h5", tree, "thing", 1)
    assert_equal(tree, read_tree(tmp_path / "a.h5", "thing", (1,)))


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "sealed.h5"
    write_tree(path, {"G": {"w": np.arange(12.0)}, "step": 3}, "thing", 2)
    return path


def test_same_tree_same_bytes(tmp_path: Path, sealed: Path) -> None:
    write_tree(tmp_path / "again.h5", {"G": {"w": np.arange(12.0)}, "step": 3}, "thing", 2)
    assert (tmp_path / "again.h5").read_bytes() == sealed.read_bytes()


def test_plain_hdf5_readers_open_it(sealed: Path) -> None:
    with h5py.File(sealed) as file:
        assert file["G/w"][3] == 3.0


def test_every_flipped_byte_is_noticed(sealed: Path) -> None:
    whole = sealed.read_bytes()
    line_end = whole.index(b"\n")
    for place in [*range(0, line_end, 7), *range(512, len(whole), 97), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        sealed.write_bytes(damaged)
        with pytest.raises(StorageError, match=r"altered|seal|cut short|is a|has version|version"):
            read_tree(sealed, "thing", (2,))


def test_cut_short(sealed: Path) -> None:
    sealed.write_bytes(sealed.read_bytes()[:-1])
    with pytest.raises(StorageError, match="cut short"):
        read_tree(sealed, "thing", (2,))


def test_other_kind_version_or_file(tmp_path: Path, sealed: Path) -> None:
    with pytest.raises(StorageError, match=r"is a thing; a checkpoint was expected"):
        read_tree(sealed, "checkpoint", (2,))
    with pytest.raises(StorageError, match=r"version 2 .* reads 1\."):
        read_tree(sealed, "thing", (1,))
    with pytest.raises(StorageError, match="Cannot read"):
        read_tree(tmp_path / "absent.h5", "thing", (1,))
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(StorageError, match="not a file of healthgym"):
        read_tree(tmp_path / "text.h5", "thing", (1,))


def test_keys_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without '/'"):
        write_tree(tmp_path / "a.h5", {"a/b": 1}, "thing", 1)
    assert not list(tmp_path.iterdir())
