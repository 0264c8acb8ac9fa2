"""What the pickle of a file of tensors holds, gone through without torch or Python unpickling it.

A pickle is a program: it calls functions by their names, and sets what belongs to the objects that they return. Here are only the
operations that `torch.save` writes for tensors in dicts and lists; a name stays a text, nothing is called, and nothing is made but plain
values and tensors, without what is set of them. What could take for ever is not there either: only texts and small numbers are keys, which
are hashed, and other keys are left out with their values; values that hold others may be used again, as long as all uses are few.
"""

import io
import math
import pickletools
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

MAX_BYTES: Final = 2**23
"""Largest pickle of weights, unpacked; that of 1,000 tensors has 150 KB."""
MAX_OPERATIONS: Final = 2**21
"""Most operations of a pickle; 1,000 tensors take 35,000 to 45,000, the random states of 1,000 processes with numpy 1.5 million."""
MAX_MADE: Final = 2**23
"""Most that calls make of what they are given, which may be the same again and again: one for each character or item of it."""
TENSOR: Final = 128
"""What a tensor counts as, which takes a kilobyte: there are at most 65,536."""
MAX_VISITS: Final = 2**22
"""Most values that who goes through all of them comes by, those that are used again at each of their places."""
MAX_LEVELS: Final = 32
"""Most levels of values in values."""
MAX_DIMENSIONS: Final = 64
MAX_COUNT: Final = 2**56
"""Most numbers of a tensor, those that are repeated among them: torch counts their bytes in 63 bits."""
MAX_NUMBER: Final = 2**16
"""The keys of a dict are texts, and numbers that are smaller than this one: their hashes differ. Others, such as the ids of parameters with
which optimizers name their states, or the steps of a history, say nothing of weights."""
NUMBERS: Final = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"))
HOLDERS: Final = (dict, list, tuple)
PLAIN: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES: Final = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
STORAGES: Final = {
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
    "torch ComplexFloatStorage": torch.complex64,
    "torch ComplexDoubleStorage": torch.complex128,
    "torch.storage UntypedStorage": torch.uint8,
    "torch QInt8Storage": torch.int8,
    "torch QUInt8Storage": torch.uint8,
    "torch QInt32Storage": torch.int32,
    "torch QUInt4x2Storage": torch.uint8,
    "torch QUInt2x4Storage": torch.uint8,
}
"""Types of what tensors store; those of tensors that torch quantized only tell how many bytes there are."""
DTYPES: Final = {f"torch {name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


class Name(str):
    """A function or a type that a pickle names, with its module before it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """What tensors store: so many numbers of a type, under a key of the file; or a part of them."""

    key: str
    dtype: torch.dtype
    count: int
    """Of all that is under the key."""
    first: int = 0
    length: int = 0


class Place(NamedTuple):
    """Where a tensor has its numbers, as `Tensor.set_` takes it; the tensor is empty until then."""

    tensor: Tensor
    stored: Stored
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Unpickled:
    """The stack and the memo of a pickle, and the tensors that it describes, which are within what they store, and not filled yet."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.places: list[Place] = []
        self.stored: dict[str, Stored] = {}
        self.made = 0

    def content(self, stream: io.BytesIO) -> Any:
        """What the next pickle of a stream holds. Raises ValueError for what `torch.save` does not write for tensors in dicts and lists."""
        try:
            for number, (operation, argument, position) in enumerate(pickletools.genops(stream)):
                if number > MAX_OPERATIONS or (position or 0) > MAX_BYTES:
                    raise ValueError("its description is larger than that of any model")
                self._step(operation.name, argument)
            content = self.stack.pop()
        except LookupError as error:
            raise ValueError("its description is damaged") from error
        _refuse_endless(content)
        return content

    def _step(self, name: str, argument: Any) -> None:  # noqa: C901 (a table of operations)
        """Go through one operation. Raises ValueError for one that is not written, and LookupError where a value is missing."""
        if name in ("BINPUT", "LONG_BINPUT") and argument <= MAX_OPERATIONS:
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in NUMBERS:
            self.stack.append(argument)
        elif name == "SHORT_BINSTRING":
            self.stack.append(argument.encode("latin-1").decode())
        elif name in PLAIN:
            self.stack.append(PLAIN[name])
        elif name == "GLOBAL":
            self.stack.append(Name(argument))
        elif name == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif name == "EMPTY_LIST":
            self.stack.append([])
        elif name == "EMPTY_DICT":
            self.stack.append({})
        elif name in TUPLES or name == "TUPLE":
            values = self._taken(TUPLES[name]) if name in TUPLES else self._marked()
            self.stack.append(tuple(values))
        elif name in ("APPEND", "APPENDS"):
            values = self._taken(1) if name == "APPEND" else self._marked()
            self._last(list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = self._taken(2) if name == "SETITEM" else self._marked()
            self._last(dict).update(_dict(values[::2], values[1::2]))
        elif name == "BINPERSID":
            self.stack.append(self._store(self.stack.pop()))
        elif name == "REDUCE":
            function, arguments = self._taken(2)
            self.stack.append(self._called(function, arguments))
        elif name == "BUILD":  # attributes: the state of a network has some that say nothing of its weights
            self.stack.pop()
            self._last(dict)
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"it has the operation {name} {argument or ''}, which no file of tensors has")

    def _taken(self, count: int) -> list[Any]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def _marked(self) -> list[Any]:
        taken, self.stack = self.stack, self.below.pop()
        return taken

    def _last(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"it fills something that is no {kind.__name__}")
        return self.stack[-1]

    def _store(self, named: Any) -> Stored:
        """What a tensor stores, as a tuple names it; its sixth value, a part of it, was written before torch 1.6."""
        named, part = (named[:5], named[5]) if isinstance(named, tuple) and len(named) == 6 else (named, None)
        match named:
            case ("storage", Name() as kind, str() as key, str(), count) if kind in STORAGES and _is_count(count):
                stored = Stored(key, STORAGES[kind], count, 0, count)
            case _:
                raise ValueError("it names what a tensor stores in an unknown way")
        if self.stored.setdefault(key, stored) != stored:
            raise ValueError(f"it names {key!r}, what a tensor stores, in two ways")
        if part is None:
            return stored
        match part:
            case (str(), int() as first, int() as length) if first >= 0 <= length and first + length <= count:
                return Stored(key, stored.dtype, count, first, length)
            case _:
                raise ValueError("it names a part of what a tensor stores in an unknown way")

    def _called(self, function: Any, arguments: Any) -> Any:  # noqa: C901 (a table of calls)
        """What a call makes: a tensor, or something that belongs to one. Raises ValueError for any other call."""
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise ValueError("it calls for something without a name")
        module, _, name = function.partition(" ")
        if module == "torch._utils" and name.startswith("_rebuild_"):
            return self._rebuilt(name.removeprefix("_rebuild_"), arguments)
        match function, arguments:
            case "torch._tensor _rebuild_from_type_v2", (Name() as inner, _, tuple() as given, _) if inner.startswith("torch._utils "):
                return self._called(inner, given)
            case "collections OrderedDict", ():
                return {}
            case "collections OrderedDict", (list() as pairs,):  # as Python 2 writes it
                self._make(len(pairs))
                return _dict_of_pairs(pairs)
            case "collections Counter", (dict() as plain,):
                return plain
            case "torch Size", (tuple() as plain,):
                return plain
            case "__builtin__ set", (list() as members,):
                self._make(len(members))
                return frozenset(_dict(members, members))
            case "_codecs encode", (str() as text, "latin1"):
                self._make(len(text))
                return text.encode("latin-1")
            case "__builtin__ bytearray", (bytes() as plain,):
                return plain
            case "__builtin__ bytearray" | "__builtin__ bytes", ():
                return b""
            case "__builtin__ complex", (float() as real, float() as imaginary):
                return complex(real, imaginary)
            case "torch device" | "torch.serialization _get_layout", _:
                return None
            case _:
                raise ValueError(f"it calls for {function.replace(' ', '.')}")

    def _make(self, count: int) -> None:
        self.made += count
        if self.made > MAX_MADE:
            raise ValueError("its calls make more than any model has")

    def _rebuilt(self, kind: str, arguments: tuple[Any, ...]) -> Tensor:
        """A tensor as torch describes one; without data if it is none of plain numbers, which its reader refuses where it must be one."""
        self._make(TENSOR)
        match kind, arguments:
            case ("tensor", (Stored() as stored, offset, size, stride)):
                return self._tensor(stored, stored.dtype, offset, size, stride)
            case ("tensor_v2", (Stored() as stored, offset, size, stride, _, _)):
                return self._tensor(stored, stored.dtype, offset, size, stride)
            case ("tensor_v3", (Stored() as stored, offset, size, stride, _, _, Name() as dtype)) if dtype in DTYPES:
                return self._tensor(stored, DTYPES[dtype], offset, size, stride)
            case ("parameter" | "parameter_with_state", (Tensor() as tensor, *_)):
                return tensor
            case ("tensor_v2" | "tensor_v3" | "qtensor" | "sparse_tensor" | "nested_tensor" | "meta_tensor_no_storage", _):
                return torch.empty(0, device="meta")
            case _:
                raise ValueError(f"it calls for torch._utils._rebuild_{kind}")

    def _tensor(self, stored: Stored, dtype: torch.dtype, offset: Any, size: Any, stride: Any) -> Tensor:
        """A tensor whose numbers are within what it stores."""
        if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= MAX_DIMENSIONS):
            raise ValueError("it describes a tensor in an unknown way")
        if not all(map(_is_count, (offset, *size, *stride))) or math.prod(size) > MAX_COUNT or (stored.first and dtype != stored.dtype):
            raise ValueError("it describes a tensor in an unknown way")
        stop = offset + 1 + sum((count - 1) * step for count, step in zip(size, stride, strict=True)) if all(size) else 0
        if stop * dtype.itemsize > stored.length * stored.dtype.itemsize:
            raise ValueError(f"it describes a tensor that is not within what it stores, {stored.key!r}")
        self.places.append(Place(torch.empty(0, dtype=dtype, device="cpu"), stored, stored.first + offset if stop else 0, size, stride))
        return self.places[-1].tensor


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT


def _is_key(value: Any) -> bool:
    return value is None or type(value) in (str, bool) or (type(value) is int and abs(value) < MAX_NUMBER)


def _dict(keys: list[Any], values: list[Any]) -> dict[Any, Any]:
    """The entries whose keys can be hashed. Raises ValueError for a key without a value."""
    if len(keys) != len(values):
        raise ValueError("it has a key without a value")
    return {key: value for key, value in zip(keys, values, strict=True) if _is_key(key)}


def _dict_of_pairs(pairs: list[Any]) -> dict[Any, Any]:
    if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError("it has a key without a value")
    return _dict([key for key, _ in pairs], [value for _, value in pairs])


def _refuse_endless(content: Any) -> None:
    """Raise ValueError for values in values that take for ever to go through: too deep, in themselves, or used again and again."""
    visits, above = 0, [content]
    for _level in range(MAX_LEVELS + 1):
        holders = [value for value in above if isinstance(value, HOLDERS)]
        visits += sum(map(len, holders))
        if visits > MAX_VISITS:
            raise ValueError("values that hold others are used again and again in it")
        above = [inner for value in holders for inner in (value.values() if isinstance(value, dict) else value)]
    if above:
        raise ValueError(f"it has values in values, more than {MAX_LEVELS} levels")
