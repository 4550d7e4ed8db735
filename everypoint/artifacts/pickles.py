"""Reading TAP-Vid's pickles without running them: an allow-list of the functions that numpy arrays need.

This is the only module that touches ``pickle``. An allow-list of names alone is not enough: ``numpy.dtype`` accepts a
state that hides object fields from numpy, so that an array's bytes are taken for pointers, and ``numpy.ndarray`` can be
called for any amount of memory. So the functions are checked stand-ins, classes are never called, and states are only
set on arrays and plain dtypes, after a look at them.
"""

from __future__ import annotations

import os
import pickle
import re
from typing import Any, ClassVar, NoReturn

import numpy as np

from everypoint.errors import InputError

try:
    from numpy._core.multiarray import _reconstruct
    from numpy._core.numeric import _frombuffer
except ImportError:  # numpy 1
    from numpy.core.multiarray import _reconstruct
    from numpy.core.numeric import _frombuffer

# Numbers, truth values, byte strings, text and Python objects (lists of the like); no structured or void kinds.
_PLAIN_DTYPE = re.compile(r"[<>|=]?([biufc]\d{1,2}|[SU]\d{1,8}|O8?|\?)")


class _Refusal(pickle.UnpicklingError):
    """A pickle that parses and holds what is not allowed; its text is a reason for people."""


def _refuse(reason: str) -> NoReturn:
    raise _Refusal(reason)


def _dtype(text: str, align: bool = False, copy: bool = False) -> np.dtype:
    """A plain dtype; always a copy of its own, so that a state set on it touches no other."""
    if not isinstance(text, str) or not _PLAIN_DTYPE.fullmatch(text):
        _refuse(f"it holds an array of kind {text!r}")
    return np.dtype(text, False, True)


def _array(kind: type, shape: tuple, code: bytes) -> np.ndarray:
    """The empty array that a state is set on."""
    if kind is not np.ndarray or shape != (0,) or code not in (b"b", "b"):
        _refuse("it makes an array in an unusual way")
    return _reconstruct(np.ndarray, (0,), b"b")


def _from_buffer(data: Any, dtype: np.dtype, shape: Any, order: str, axes: Any = None) -> np.ndarray:
    """Protocol 5's array from its bytes."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, (bytes, bytearray)):
        _refuse("it makes an array in an unusual way")
    return _frombuffer(data, dtype, shape, order) if axes is None else _frombuffer(data, dtype, shape, order, axes)


def _scalar(dtype: np.dtype, data: bytes) -> np.generic:
    """A numpy scalar from its bytes; object scalars are refused because they would carry a pickle of their own."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        _refuse("it holds an object scalar")
    return np.frombuffer(data, dtype)[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 stores bytes: as text in Latin-1."""
    if encoding not in ("latin1", "latin-1"):
        _refuse(f"it asks for the encoding {encoding!r}")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """How protocol 2 stores an empty byte string: as a call of ``bytes`` without arguments."""
    return b""


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,  # an argument of _reconstruct; as a class it is never called
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,
}
for _core in ("numpy._core", "numpy.core"):  # numpy 2 and numpy 1
    _ALLOWED[(f"{_core}.multiarray", "_reconstruct")] = _array
    _ALLOWED[(f"{_core}.multiarray", "scalar")] = _scalar
    _ALLOWED[(f"{_core}.numeric", "_frombuffer")] = _from_buffer
_FUNCTIONS = (_dtype, _array, _from_buffer, _scalar, _encode, _no_bytes)


class _ArraysUnpickler(pickle._Unpickler):
    """Python's own unpickler, in which every opcode that could call something passes through the checks below."""

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[(module, name)]
        except KeyError:
            _refuse(f"it asks for {module}.{name}")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is allowed for allowed in _FUNCTIONS):
            _refuse("it calls something that is not one of numpy's array functions")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, np.dtype):
            _check_dtype_state(target, state)
        elif type(target) is np.ndarray:
            _check_array_state(state)
        else:
            _refuse("it sets the state of something that is not an array")
        target.__setstate__(state)

    def load_refused(self) -> None:
        _refuse("it makes an object of a class")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    for _opcode in (pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch[_opcode[0]] = load_refused


def _check_dtype_state(dtype: np.dtype, state: Any) -> None:
    """A plain dtype's state says its byte order and, for strings, its size; anything more is refused."""
    if not isinstance(state, tuple) or len(state) not in (8, 9) or state[0] not in (3, 4):
        _refuse("it sets an unusual state on a dtype")
    subarray, names, fields, size, _, flags = state[2:8]
    if any(part is not None for part in (subarray, names, fields)) or flags != dtype.flags:
        _refuse("it holds a structured array")
    if size not in (-1, dtype.itemsize) or (len(state) == 9 and state[8] is not None):
        _refuse("it sets an unusual state on a dtype")


def _check_array_state(state: Any) -> None:
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], np.dtype):
        _refuse("it sets an unusual state on an array")
    wanted: type | tuple[type, ...] = list if state[2].hasobject else bytes
    if not isinstance(state[4], wanted):
        _refuse("it sets an unusual state on an array")


def load_arrays_pickle(path: str | os.PathLike[str]) -> Any:
    """Load a pickle that holds only arrays, dicts, lists, tuples, text, bytes and numbers.

    Raises :class:`InputError` for any other content, before anything of it runs, and for a damaged file.
    """
    try:
        with open(path, "rb") as file:
            return _ArraysUnpickler(file).load()
    except OSError as error:
        raise InputError(f"{path} cannot be opened", str(error), "check the path") from error
    except Exception as error:  # a hostile or damaged pickle can raise anything while it is parsed
        raise InputError(
            f"{path} is not a pickle of plain arrays", _reason(error), "only TAP-Vid's own layout is read"
        ) from error


def _reason(error: Exception) -> str:
    """Why a file could not be read: what pickle says of bytes that are none (``109``) explains nothing."""
    if isinstance(error, _Refusal):
        return str(error)
    if isinstance(error, MemoryError):
        return "what it claims to hold does not fit in memory"
    return "its bytes are not those of a pickle, or are damaged"
