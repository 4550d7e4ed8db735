"""TAP-Vid's pickles load; a pickle that would run anything is refused before it does."""

from __future__ import annotations

import os
import pickle
import pickletools

import numpy as np
import pytest

from everypoint.artifacts.pickles import load_arrays_pickle
from everypoint.errors import InputError
from tests.shared import shared

PROTOCOLS = [2, 3, 4, 5]


def content() -> dict:
    """The layouts of TAP-Vid: dict of videos, frames as an array or as JPEG bytes, and numpy's corners."""
    random = np.random.default_rng(0)
    return {
        "dog": {
            "video": random.integers(0, 256, (3, 4, 5, 3), np.uint8),
            "points": random.random((2, 3, 2), np.float32),
            "occluded": np.array([[True, False, True], [False, False, True]]),
        },
        "jpeg": {"video": [b"\xff\xd8abc", b""], "points": np.zeros((0, 3, 2)), "occluded": np.zeros((0, 3), bool)},
        "objects": np.array([b"one", "two", None, 3], dtype=object),
        "strings": np.array(["a", "bcd"]),
        "bytes": np.array([b"a", b"bcd"]),
        "big-endian": np.arange(4, dtype=">f4"),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "strided": np.arange(10)[::2],
        "half": np.arange(3, dtype=np.float16),
        "complex": np.array([1 + 2j]),
        "scalar": np.float32(1.5),
        "plain": [1, 2.5, "text", None, True, (1, 2), {"a": [1, 2]}, 10**30],
        "number": np.int64(7),
    }


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        kinds = [array.dtype.newbyteorder("=") for array in (a, b) if isinstance(array, np.ndarray)]  # numpy's own way
        return len(kinds) == 2 and kinds[0] == kinds[1] and a.shape == b.shape and a.tolist() == b.tolist()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


def written(path, data: bytes):
    path.write_bytes(data)
    return path


def respelt(data: bytes, protocol: int) -> bytes:
    """The pickle as the other major version of numpy spells it: numpy._core -> numpy.core."""
    data = unframed(data)
    for new, old in (
        (b"numpy._core.multiarray", b"numpy.core.multiarray"),
        (b"numpy._core.numeric", b"numpy.core.numeric"),
    ):
        if protocol < 4:  # a name ends at a line break
            data = data.replace(b"c" + new + b"\n", b"c" + old + b"\n")
        else:  # a text of stated length
            data = data.replace(bytes([0x8C, len(new)]) + new, bytes([0x8C, len(old)]) + old)
    assert b"numpy.core" in data
    assert b"numpy._core" not in data
    return data


def unframed(data: bytes) -> bytes:
    """The pickle without the frames of protocol 4 and 5, whose stated lengths a replacement would break."""
    frames = [position for opcode, _, position in pickletools.genops(data) if opcode.name == "FRAME"]
    for position in reversed(frames):
        data = data[:position] + data[position + 9 :]
    return data


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_content_loads(tmp_path, protocol):
    path = written(tmp_path / "d.pkl", pickle.dumps(content(), protocol))
    assert same(load_arrays_pickle(path), content())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_other_spelling_of_numpy_loads(tmp_path, protocol):
    small = {"points": content()["dog"]["points"], "scalar": np.float32(1.5)}
    path = written(tmp_path / "d.pkl", respelt(pickle.dumps(small, protocol), protocol))
    assert same(load_arrays_pickle(path), small)


def test_a_list_of_videos_loads(tmp_path):
    path = written(tmp_path / "d.pkl", pickle.dumps([content()["dog"]] * 2))
    assert len(load_arrays_pickle(path)) == 2


def test_shared_arrays_stay_shared(tmp_path):
    array = np.arange(3)
    first, second = load_arrays_pickle(written(tmp_path / "d.pkl", pickle.dumps([array, array])))
    assert first is second


def test_the_development_videos_load():
    data = load_arrays_pickle(shared("data/tapvid_davis32_dev.pkl"))
    assert len(data) == 8
    assert data["goat"]["points"].shape[1:] == (32, 2)


# ------------------------------------------------------------------------------------------------- hostile (R11)


class Calls:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def touch(marker) -> str:
    return f"touch {marker}"


def hostile(marker) -> dict[str, object]:
    import numpy.f2py.crackfortran as f2py
    import numpy.testing._private.utils as gadget

    run = Calls(os.system, touch(marker))
    return {
        "os.system": run,
        "builtins.eval": Calls(eval, f"open({str(marker)!r}, 'w')"),
        "numpy gadget": Calls(gadget.runstring, f"open({str(marker)!r}, 'w')", {}),
        "f2py gadget": Calls(f2py.myeval, f"open({str(marker)!r}, 'w')"),
        "nested in a dict": {"dog": {"video": [1, run]}},
        "nested reduce": Calls(np.dtype, run),
        "nested in an object array": np.array([run, 1], dtype=object),
        "getattr": Calls(getattr, np.ndarray, "tofile"),
        "class": pickle.PickleError("x"),
        "numpy.load": Calls(np.load, str(marker), None, True),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", list(hostile("x")))
def test_hostile_pickles_are_refused_unrun(tmp_path, name, protocol):
    marker = tmp_path / "marker"
    path = written(tmp_path / "d.pkl", pickle.dumps(hostile(marker)[name], protocol))
    with pytest.raises(InputError, match=r"d\.pkl is not a pickle of plain arrays"):
        load_arrays_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "numpy gadget"])
def test_the_hostile_pickles_do_run_elsewhere(tmp_path, name):
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(hostile(marker)[name]))
    assert marker.exists()


# Opcodes by hand: what no honest pickler writes.
P = b"\x80\x02"
DTYPE = b"cnumpy\ndtype\n"
FORGED = (  # numpy.dtype("V8") told that it holds a Python object at byte 0, and that numpy need not know
    P
    + DTYPE
    + b"X\x02\x00\x00\x00V8K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00|NX\x01\x00\x00\x00a\x85}X\x01\x00\x00\x00a"
    + DTYPE
    + b"X\x01\x00\x00\x00O\x85RK\x00\x86sK\x08K\x01K\x00tb."
)
BY_HAND = {
    "forged dtype": FORGED,
    "object dtype without its flag": P + DTYPE + b"X\x02\x00\x00\x00O8\x85R(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xff"
    b"J\xff\xff\xff\xffK\x00tb.",
    "structured dtype": P + DTYPE + b"X\x05\x00\x00\x00i4,i4\x85R.",
    "void dtype": P + DTYPE + b"X\x02\x00\x00\x00V8\x85R.",
    "dtype of another size": P + DTYPE + b"X\x02\x00\x00\x00S4\x85R(K\x03X\x01\x00\x00\x00|NNNM\xff\xffK\x01K\x00tb.",
    "call of ndarray": P + b"cnumpy\nndarray\nM\xff\xff\x85R.",
    "new of ndarray": P + b"cnumpy\nndarray\nM\xff\xff\x85\x81.",
    "obj of ndarray": P + b"(cnumpy\nndarray\nM\xff\xffo.",
    "inst of ndarray": P + b"(M\xff\xffinumpy\nndarray\n.",
    "huge reconstruct": P
    + b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\xff\xff\xff\x7f\x85C\x01b\x87R.",
    "other codec": P + b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
    "object scalar": P + b"cnumpy._core.multiarray\nscalar\n" + DTYPE + b"X\x01\x00\x00\x00O\x85RC\x02K.\x86R.",
    "state of a dict": P + b"}K\x01b.",
    "extension": P + b"\x82\x01.",
    "persistent id": P + b"K\x01Q.",
    "bytes of a size": P + b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.",
}


@pytest.mark.parametrize("name", BY_HAND)
def test_pickles_that_no_pickler_writes_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="not a pickle of plain arrays"):
        load_arrays_pickle(written(tmp_path / "d.pkl", BY_HAND[name]))
    assert np.dtype("O").hasobject  # numpy's own dtypes are as they were
    assert np.dtype("S4").itemsize == 4


def test_the_forged_dtype_is_what_numpy_takes():
    dtype = pickle.loads(FORGED)
    assert dtype.fields["a"][0] == np.dtype("O")
    assert not dtype.hasobject


def test_byte_order_is_set_on_a_copy(tmp_path):
    for protocol in PROTOCOLS:
        path = written(tmp_path / "d.pkl", pickle.dumps(np.arange(3, dtype=">i4"), protocol))
        assert load_arrays_pickle(path).tolist() == [0, 1, 2]
    assert np.dtype("i4").isnative
    assert pickle.loads(pickle.dumps(np.arange(3, dtype="i4"))).tolist() == [0, 1, 2]


@pytest.mark.parametrize("data", [b"", b"x", b"\x80\x05", b"<html></html>", pickle.dumps([1, 2])[:-1]])
def test_damaged_files_are_one_sentence(tmp_path, data):
    with pytest.raises(InputError, match="not a pickle"):
        load_arrays_pickle(written(tmp_path / "d.pkl", data))


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be opened"):
        load_arrays_pickle(tmp_path / "nowhere.pkl")


@pytest.mark.parametrize("content", [b"methods: [chain]\n", b"hello world\n", b"", pickle.dumps([1, 2, 3])[:-4]])
def test_a_file_that_is_no_pickle_is_said_to_be_none(tmp_path, content):
    (tmp_path / "d.pkl").write_bytes(content)
    with pytest.raises(InputError) as error:
        load_arrays_pickle(tmp_path / "d.pkl")
    assert error.value.why == "its bytes are not those of a pickle, or are damaged"
