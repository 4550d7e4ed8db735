"""Reading TAP-Vid's pickles without running them: an allow-list of the names that numpy arrays need.

This is the only module that touches ``pickle``.
"""

from __future__ import annotations

import os
import pickle
from typing import Any

import numpy as np

from everypoint.errors import InputError

try:
    from numpy._core.multiarray import _reconstruct
    from numpy._core.numeric import _frombuffer
except ImportError:  # numpy 1
    from numpy.core.multiarray import _reconstruct
    from numpy.core.numeric import _frombuffer

import _codecs

_ALLOWED: dict[tuple[str, str], Any] = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
_ALLOWED[("_codecs", "encode")] = _codecs.encode  # how protocol 2 stores bytes
for _core in ("numpy._core", "numpy.core"):
    _ALLOWED[(f"{_core}.multiarray", "_reconstruct")] = _reconstruct
    _ALLOWED[(f"{_core}.numeric", "_frombuffer")] = _frombuffer
    _ALLOWED[(f"{_core}.multiarray", "scalar")] = None  # replaced below


def _scalar(dtype: np.dtype, data: bytes) -> np.generic:
    """A numpy scalar from its bytes; object scalars are refused because they would carry a pickle of their own."""
    if dtype.hasobject:
        raise pickle.UnpicklingError("an object scalar")
    return np.frombuffer(data, dtype)[0]


for _core in ("numpy._core", "numpy.core"):
    _ALLOWED[(f"{_core}.multiarray", "scalar")] = _scalar


class _ArraysUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[(module, name)]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


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
            f"{path} is not a pickle of plain arrays", str(error), "only TAP-Vid's own layout is read"
        ) from error
