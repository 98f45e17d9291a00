"""The archive of a checkpoint, read without running anything that it names.

torch.save writes a zip of uncompressed records, each with its CRC-32: ``data.pkl``, a pickle that refers to the
storages of its tensors, and ``data/<key>``, the bytes of a storage. Reading verifies the checksum of every record that
is used, and unpickles tensors, numbers, text, None, lists, tuples and dicts: no other object that a pickle can ask for.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.files import open_regular
from diffusion_fw.registry import LONGEST_NAME, ConfigError

RECORD_KEY = "diffusion_fw"
"""The key of a checkpoint under which it describes itself."""
MAX_DIMS = 64
MAX_TENSORS = 200_000
"""Reading takes some ten microseconds a tensor, and the largest networks have some thousand."""

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

OPCODES = (
    *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.REDUCE, pickle.BUILD, pickle.BINPERSID),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT, pickle.BINUNICODE),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
)
"""Those that torch.save writes for the values above. None of them makes an object larger than what the file holds."""


def read_archive(path: str | os.PathLike[str]) -> Any:
    """What torch.save wrote to ``path``, with all tensors on the CPU.

    Raises ConfigError if the file is damaged, holds other objects, or claims more values than it has bytes for.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            check_records(archive, os.fstat(file.fileno()).st_size)
            return _Unpickler(archive).load()
    except pickle.UnpicklingError as error:
        raise ConfigError(f"checkpoint={path} was not loaded: {error}") from None
    except OSError as error:
        raise ConfigError(f"checkpoint={path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged file can raise any error
        raise ConfigError(f"checkpoint={path} is damaged or not a checkpoint: {str(error)[:LONGEST_NAME]!r}") from None


def check_records(archive: zipfile.ZipFile, size: int) -> None:
    """Raise pickle.UnpicklingError for records that unpack to more than the file's ``size``, or are compressed.

    torch.save stores each record once. Compressed or overlapping records could unpack to any size.
    """
    records = archive.infolist()
    unpacked = sum(record.file_size for record in records)
    if unpacked > size or any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise pickle.UnpicklingError(
            f"its {size:,} bytes would unpack to {unpacked:,}, but torch saves without compression"
        )


def _ordered_dict() -> OrderedDict[Any, Any]:
    return OrderedDict()


def _tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool, _hooks: Any
) -> Tensor:
    # Strides of 0 would give a few bytes any number of values.
    if len(size) > MAX_DIMS or math.prod(size) > storage.numel():
        raise pickle.UnpicklingError("a tensor claims more values than the file holds")
    return storage.as_strided(size, stride, offset).requires_grad_(requires_grad)


def _parameter(data: Tensor, requires_grad: bool, _hooks: Any) -> Tensor:
    return torch.nn.Parameter(data, requires_grad)


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


class _Dispatch(dict[int, Callable[[Any], None]]):
    def __missing__(self, opcode: int) -> Callable[[Any], None]:
        raise pickle.UnpicklingError(f"its pickle has opcode {opcode:#04x}, which torch.save does not write")


_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]
"""The unpickler in C would allocate gigabytes for a memo with a large index."""


class _Unpickler(_PythonUnpickler):  # type: ignore[misc]
    """Makes tensors and plain values; raises pickle.UnpicklingError for anything else."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.storages: dict[str, Tensor] = {}
        self.tensors = 0
        (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        self.folder = name.partition("/")[0]
        order = f"{self.folder}/byteorder"
        if order in archive.namelist() and archive.read(order) != sys.byteorder.encode():
            raise pickle.UnpicklingError(f"its byte order is not that of this machine, {sys.byteorder}")
        super().__init__(io.BytesIO(archive.read(name)))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            asked = f"{module}.{name}"[:LONGEST_NAME]
            raise pickle.UnpicklingError(
                f"it asks for {asked!r}; a checkpoint holds tensors, numbers, text, lists, tuples and dicts alone"
            )
        return ALLOWED[module, name]

    def persistent_load(self, reference: Any) -> Tensor:
        self.tensors += 1
        if self.tensors > MAX_TENSORS:
            raise pickle.UnpicklingError(f"it holds more than {MAX_TENSORS:,} tensors")
        _, dtype, key, _, count = reference
        if not isinstance(key, str):
            raise pickle.UnpicklingError("it names a storage by something other than text")
        if key not in self.storages:
            record = self.archive.getinfo(f"{self.folder}/data/{key}")
            if not isinstance(count, int) or count * dtype.itemsize != record.file_size:
                raise pickle.UnpicklingError("a storage claims another size than its record has")
            # Reading a record to its end verifies its CRC-32.
            content = bytearray(self.archive.read(record))
            self.storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self.storages[key]

    def load_build(self) -> None:
        """The versions of the modules, which Module.state_dict() attaches to its OrderedDict."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], OrderedDict) or set(state) != {"_metadata"}:
            raise pickle.UnpicklingError("it sets the attributes of an object")
        self.stack[-1]._metadata = state["_metadata"]  # type: ignore[attr-defined]

    def load_setitem(self) -> None:
        self._check_container(self.stack[-3])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._check_container(self.metastack[-1][-1])
        super().load_setitems()

    def _check_container(self, target: Any) -> None:
        if isinstance(target, Tensor):
            raise pickle.UnpicklingError("it assigns to the values of a tensor")

    dispatch = _Dispatch({opcode[0]: _PythonUnpickler.dispatch[opcode[0]] for opcode in OPCODES})
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
