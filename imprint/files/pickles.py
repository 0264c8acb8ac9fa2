"""Pickles of a stranger that torch reads without running code of theirs: what could take for ever, or all of the memory, is refused before.

A few bytes of an archive unpack to any number, a tuple of tuples that are one object takes for ever to hash or compare, and so do numbers
of one hash as the keys of a dict. So a pickle is gone through, and nothing is made of it, until each value is known to be of the few kinds
that `torch.save` writes of tensors in dicts and lists.
"""

import io
import pickletools
import re
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import torch

MAX_BYTES: Final = 2**23
"""Largest pickle of weights, unpacked; that of 1,000 tensors has 150 KB."""
MAX_OPERATIONS: Final = 2**20
"""Most operations of a pickle; 1,000 tensors take 35,000 to 45,000, the random states of 1,000 processes a million."""
MAX_SHARED: Final = 8
"""Values of a tuple that may be used more than once, where each is plain: AdamW has the same two numbers for all its groups."""
MAX_LEVELS: Final = 32
"""Most levels of values in values; a tensor in the state of an optimizer takes about ten."""
MAX_NUMBER: Final = 2**16
"""The keys of a dict are texts, and numbers below this one: their hashes differ."""
ZIP_START: Final = b"PK\x03\x04"
LEGACY_PICKLES: Final = 5
"""Pickles in a file from before torch 1.6: three before that of the tensors, and after it that of the names of what they store."""
REBUILD: Final = re.compile(r"torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state|qtensor|sparse_tensor)")
REBUILD_META: Final = "torch._utils _rebuild_meta_tensor_no_storage"
REBUILD_TYPE: Final = "torch._tensor _rebuild_from_type_v2"
"""Calls another of these functions, the first of its arguments."""
ORDERED: Final = "collections OrderedDict"
PARTS: Final = frozenset(("torch Size", "torch device", "torch.serialization _get_layout"))
"""What is called for the arguments of these functions."""
COPIES: Final = frozenset(("torch per_channel_affine", "torch per_channel_affine_float_qparams"))
"""Kinds of quantization of which torch copies the scales, a number for each of any count."""
TEXTS: Final = frozenset(("BINUNICODE", "SHORT_BINSTRING"))
NUMBERS: Final = frozenset(("BININT", "BININT1", "BININT2", "LONG1"))
PLAIN: Final = frozenset(("NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT"))
EMPTY: Final = {"EMPTY_LIST": "list", "EMPTY_DICT": "dict", "EMPTY_TUPLE": "tuple"}
TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
END: Final = struct.Struct("<4s8xII2x")
END_64: Final = struct.Struct("<4s36xQQ")
PLACE_64: Final = struct.Struct("<4s4xQ4x")
"""The last records of an archive: size and offset of its table of contents, twice, and the offset of the second of these records."""


@dataclass(slots=True)
class Holder:
    """A value that holds others: a list, a dict, a tuple, a tensor, or what a tensor stores."""

    kind: str
    levels: int = 1
    items: list[Any] = field(default_factory=list)
    """Those of a tuple."""

    def add(self, values: list[Any]) -> None:
        """Count the levels of more values. Raises ValueError for too many levels."""
        self.levels = max([self.levels, *(value.levels + 1 for value in values if isinstance(value, Holder))])
        if self.levels > MAX_LEVELS:
            raise ValueError(f"it has values in values, more than {MAX_LEVELS} levels")


class Name(str):
    """A function or a type that a pickle names, with its module before it."""

    __slots__ = ()


def refuse_endless_weights(file: Path) -> None:
    """Raise ValueError for a file of torch that is compressed or has a pickle unlike any; zipfile.BadZipFile, OSError."""
    with file.open("rb") as stream:
        if stream.read(len(ZIP_START)) != ZIP_START:  # as torch has it: what stands at the end of a file does not matter
            stream.seek(0)
            head = io.BytesIO(stream.read(MAX_BYTES + 2))
            for _pickle in range(LEGACY_PICKLES):
                _go_through(head)
            return
        _refuse_second_contents(stream)
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
        descriptions = [entry.file_size for entry in entries if entry.orig_filename.lower().endswith("data.pkl")]
        too_large = sum(entry.file_size for entry in entries) > stream.seek(0, io.SEEK_END) or max(descriptions, default=0) > MAX_BYTES
    if too_large or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("its description is compressed, or larger than that of any model")
    _go_through(io.BytesIO(torch._C.PyTorchFileReader(str(file)).get_record("data.pkl")))  # the very bytes that it reads


def _refuse_second_contents(stream: IO[bytes]) -> None:
    """Raise ValueError for an archive whose table of contents is not right before its end: Python and torch may read different ones."""
    size = stream.seek(0, io.SEEK_END)
    stop, stop_64 = size - END.size, size - END.size - PLACE_64.size - END_64.size
    stream.seek(max(0, stop_64))
    tail = stream.read().rjust(size - stop_64, b"\0")
    mark, length, start = END.unpack(tail[-END.size :])
    if mark != b"PK\5\6":
        raise zipfile.BadZipFile("it does not end as an archive")
    mark_64, place = PLACE_64.unpack(tail[END_64.size : -END.size])
    if mark_64 == b"PK\6\7":
        mark, length, start = END_64.unpack(tail[: END_64.size])
        stop = place if (mark, place) == (b"PK\6\6", stop_64) else -1
    if start + length != stop or length > MAX_BYTES:
        raise ValueError("its table of contents is not right before its end, or larger than that of any model")


def _go_through(stream: IO[bytes]) -> None:
    """Go through the next pickle of a stream. Raises ValueError for one that `torch.save` does not write for tensors in dicts and lists."""
    walk = _Walk()
    try:
        for number, (operation, argument, position) in enumerate(pickletools.genops(stream)):
            if number > MAX_OPERATIONS or (position or 0) > MAX_BYTES:
                raise ValueError("its description is larger than that of any model")
            walk.step(operation.name, argument)
    except IndexError as error:
        raise ValueError("its description is damaged") from error


class _Walk:
    """The stack and the memo of a pickle, with what is known of its values: texts, numbers, None for other plain ones, and Holder."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:  # noqa: C901 (a table of operations)
        """Go through one operation. Raises ValueError for one that is not written, and IndexError where the stack is empty."""
        if name in ("BINPUT", "LONG_BINPUT") and argument <= MAX_OPERATIONS:
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self._shared(argument))
        elif name in TEXTS or name in NUMBERS:
            self.stack.append(argument)
        elif name in PLAIN:
            self.stack.append(None)
        elif name == "GLOBAL" and argument not in COPIES:
            self.stack.append(Name(argument))
        elif name == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif name in EMPTY:
            self.stack.append(Holder(EMPTY[name]))
        elif name in TUPLES or name == "TUPLE":
            self._tuple(self._taken(TUPLES[name]) if name in TUPLES else self._marked())
        elif name in ("APPEND", "APPENDS"):
            self._fill("list", self._taken(1) if name == "APPEND" else self._marked())
        elif name in ("SETITEM", "SETITEMS"):
            self._fill("dict", self._taken(2) if name == "SETITEM" else self._marked())
        elif name == "BINPERSID":
            self._store(self.stack.pop())
        elif name == "REDUCE":
            self._call(*self._taken(2))
        elif name == "BUILD":
            self._fill("dict", [None, self.stack.pop()], keys=False)
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"it has the operation {name} {argument or ''}, which no file of tensors has")

    def _taken(self, count: int) -> list[Any]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def _marked(self) -> list[Any]:
        taken, self.stack = self.stack, self.below.pop()
        return taken

    def _shared(self, index: int) -> Any:
        """A value of the memo, unless it is one of those of which many uses could take for ever."""
        if index not in self.memo:
            raise ValueError("its description is damaged")
        value = self.memo[index]
        is_short = isinstance(value, Holder) and value.kind == "tuple" and value.levels == 1 and len(value.items) <= MAX_SHARED
        if isinstance(value, Holder) and value.kind != "tensor" and not is_short:
            raise ValueError("a value that holds others is used twice in it")
        return value

    def _tuple(self, values: list[Any]) -> None:
        made = Holder("tuple", items=values)
        made.add(values)
        self.stack.append(made)

    def _fill(self, kind: str, values: list[Any], *, keys: bool = True) -> None:
        """Put values in the list or dict that is the last of the stack."""
        target = self.stack[-1]
        if not isinstance(target, Holder) or target.kind != kind or (kind == "dict" and len(values) % 2):
            raise ValueError(f"it fills something that is no {kind}")
        if kind == "dict" and keys and not all(_is_key(key) for key in values[::2]):
            raise ValueError("it has a key that is no name")
        target.add(values)

    def _store(self, named: Any) -> None:
        """What a tensor stores, which a tuple names: ("storage", its type, its number as a text, a device, its length) and a part of it."""
        items = named.items if isinstance(named, Holder) and named.kind == "tuple" else []
        part = items[5].items if len(items) == 6 and isinstance(items[5], Holder) else [""]
        if [type(item) for item in items[:5]] != [str, Name, str, str, int] or not (items[2].isascii() and items[2].isdecimal()):
            raise ValueError("it names what a tensor stores in an unknown way")
        if not isinstance(part[0], str):
            raise ValueError("it names a part of what a tensor stores in an unknown way")
        self.stack.append(Holder("storage"))

    def _call(self, function: Any, arguments: Any) -> None:
        """What is made by a call: a tensor, or something that belongs to one. Raises ValueError for any other call."""
        if not isinstance(function, Name) or not isinstance(arguments, Holder) or arguments.kind != "tuple":
            raise ValueError("it calls for something without a name")
        called = arguments.items[0] if function == REBUILD_TYPE and arguments.items else function
        if isinstance(called, Name) and (REBUILD.fullmatch(called) or called == REBUILD_META):
            kind = "tensor"
        elif (function == ORDERED and not arguments.items) or function in PARTS:
            kind = "dict" if function == ORDERED else "part"
        else:
            raise ValueError(f"it calls for {function.replace(' ', '.')}")
        made = Holder(kind)
        made.add([arguments])
        self.stack.append(made)


def _is_key(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and 0 <= value < MAX_NUMBER)
