"""Matrices of MATLAB files: as scipy reads them; what is no such matrix is said."""

import io
from typing import Any

import numpy as np
import pytest

from fastpixcon.training.data.matlab import MatlabError, open_matrix


def saved(variables: dict[str, Any], **options: Any) -> bytes:
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, variables, **options)
    return file.getvalue()


@pytest.mark.parametrize("do_compression", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "?"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 5), (480, 641)])
def test_as_scipy_reads_them(dtype: str, shape: tuple[int, int], do_compression: bool) -> None:
    from scipy.io import loadmat

    values = np.random.default_rng(0).integers(0, 2 if dtype == "?" else 120, shape).astype(dtype)
    others = {"captions": "a label", "names": np.array(["road", "sky"], object), "T": np.ones((700, 3)), "s": {"S": 1}}
    content = saved({**others, "S": values, "Z": 3}, do_compression=do_compression)
    matrix = open_matrix(content, "S")
    assert matrix.shape == shape
    wanted = loadmat(io.BytesIO(content))["S"]
    assert matrix.values().dtype == wanted.dtype
    assert np.array_equal(matrix.values(), wanted)
    assert np.array_equal(matrix.values(), values)


def test_numbers_that_are_stored_shorter_than_their_class() -> None:
    """MATLAB itself stores doubles that are small whole numbers in bytes."""
    content = bytearray(saved({"S": np.array([[1, 2, 3, 4]], np.uint8)}))
    place = content.index(b"S\0\0\0") - 40
    flags = content.index(bytes([9, 0, 0, 0]), place)  # class uint8
    content[flags] = 6  # double
    values = open_matrix(bytes(content), "S").values()
    assert values.dtype == np.float64
    assert values.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no MATLAB file of version 5 to 7.2"),
        (saved({"S": 1}, format="4"), "no MATLAB file of version 5 to 7.2"),
        (b"MATLAB 7.3 MAT-file".ljust(512), "got MATLAB 7.3, want version 5 to 7.2"),
        (saved({"T": 1}), r"has no S, but \['T'\]"),
        (saved({"S": np.ones((2, 3, 4))}), r"has {'S': \(2, 3, 4\)}"),
        (saved({"S": np.ones((0, 3))}), r"has {'S': \(0, 3\)}"),
        (saved({"S": "text"}), "no real numbers"),
        (saved({"S": np.array([[1j]])}), "no real numbers"),
        (saved({"S": {"a": 1}}), "no real numbers"),
        (saved({"S": np.ones((9, 9))})[:-20], "it ends too early"),
    ],
)
def test_what_is_no_matrix(content: bytes, message: str) -> None:
    with pytest.raises(MatlabError, match=message):
        open_matrix(content, "S")


def test_a_compressed_matrix_that_is_cut_off() -> None:
    values = np.random.default_rng(0).integers(0, 182, (99, 99), dtype=np.uint8)
    content = bytearray(saved({"S": values}, do_compression=True))
    content[-2000:] = bytes(2000)
    with pytest.raises(MatlabError, match="it is damaged"):
        open_matrix(bytes(content), "S").values()
