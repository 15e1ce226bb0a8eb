"""The bytes of a checkpoint file: a record to JSON with a digest, and back without trusting it."""

import errno
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

SCHEMA = 3
"""Number of the layout of a record; each change of it gets a step that upgrades the older one."""

# Parsing takes time and memory by what is parsed: some 30 bytes for a number, 70 for a list, 200
# for a key. A record has a few KB; these limits hold the largest that a fit of 1,200 parameters
# writes, and keep what a hostile file can cost at 200 MB and 2 seconds.
MAX_BYTES = 32 * 2**20
_MOST = {
    "numbers": (b",", 2**21),
    "lists": (b"[", 2**17),
    "objects": (b"{", 2**16),
    "strings": (b'"', 2**19),
    "escapes": (b"\\", 2**19),
}
_MAX_DEPTH = 32
# Python refuses more digits from 3.11 on, unless it is told not to.
_MAX_DIGITS = 4300
_MAX_BITS = 14_000
# A string that is not closed ends with the file: a pattern that fails there would start again
# at each quotation mark, in quadratic time.
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)

_OWN_KEYS = {"schema", "digest", "stamp"}


class UnknownSchemaError(ValueError):
    """A whole record is of a layout that this version does not know."""


class Snapshot(NamedTuple):
    """A record as `decode` found it, and the ``stamp`` of the dated file it was written with."""

    record: dict[str, Any]
    stamp: str | None


def digest_of(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record, whatever the order of its keys."""
    canonical = json.dumps(record, sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def check_record(record: Mapping[str, Any]) -> None:
    """Raise if a record can't go to JSON and come back as it is.

    Raises
    ------
    TypeError
        If a key in it is no string, which JSON would make one.
    ValueError
        If it has a key that is the checkpoint's own, nests too deep, or holds a huge integer.
    """
    reserved = _OWN_KEYS & record.keys()
    if reserved:
        raise ValueError(f"The key {sorted(reserved)[0]!r} of a record is the checkpoint's own.")
    _check_value(record, 1)


def _check_value(value: Any, depth: int) -> None:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"The keys of a record must be strings, got {key!r}.")
        inner = list(value.values())
    elif isinstance(value, (list, tuple)):
        inner = list(value)
    else:
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise ValueError(f"A number of {value.bit_length()} bits is too large for a record.")
        return
    if depth > _MAX_DEPTH:
        raise ValueError(f"A record may not nest deeper than {_MAX_DEPTH}.")
    for item in inner:
        _check_value(item, depth + 1)


def encode(record: Mapping[str, Any], stamp: str) -> bytes:
    """Return the content of a file.

    Raises
    ------
    OSError
        If it is larger than what `decode` takes.
    ValueError
        If it holds a number that is not finite.
    """
    whole = {**record, "stamp": stamp, "schema": SCHEMA}
    content = json.dumps({**whole, "digest": digest_of(whole)}, allow_nan=False).encode()
    try:
        _check_size(content)
    except ValueError as error:
        # As a file system would say it, since the fit must take it as calmly.
        raise OSError(errno.EFBIG, f"the record is too large: {error}") from None
    return content


def decode(content: bytes, *, is_compressed: bool) -> Snapshot:
    """Return the record of a file that may hold anything, in bounded time and memory.

    Raises
    ------
    UnknownSchemaError
        If it is whole, and of a layout that we don't know.
    ValueError
        If it is not a whole record.
    """
    if is_compressed:
        content = _decompress(content)
    _check_size(content)
    record = json.loads(
        # Our files are ASCII. One character beyond would make all of them take four bytes.
        content.decode("ascii"),
        object_pairs_hook=_unique_keys,
        parse_constant=_no_constant,
        parse_int=_to_int,
    )
    if not isinstance(record, dict):
        raise ValueError("it holds no JSON object")
    digest = record.pop("digest", None)
    if digest != digest_of(record):
        raise ValueError("its digest does not match its content")
    schema, stamp = record.pop("schema", None), record.pop("stamp", None)
    if type(schema) is not int or not (stamp is None or isinstance(stamp, str)):
        raise ValueError("it is not a checkpoint")
    if not 1 <= schema <= SCHEMA:
        raise UnknownSchemaError(f"it has the schema {schema}, this version reads {SCHEMA}")
    if schema < 2:
        _upgrade_1_to_2(record)
    if schema < 3:
        _upgrade_2_to_3(record)
    return Snapshot(record, stamp)


def _upgrade_1_to_2(record: dict[str, Any]) -> None:
    """Say of all equations in a record that the spread of y is not known."""
    state = record.get("state")
    holders: list[Any] = [record.get("equations")]
    if isinstance(state, dict):
        holders.append(state.get("equations"))
        holders += state["partial"] if isinstance(state.get("partial"), list) else []
    for equations in holders:
        if isinstance(equations, dict):
            equations.setdefault("spread", None)


def _upgrade_2_to_3(record: dict[str, Any]) -> None:
    """Let a first pass give up no start: it has summed all of its candidates."""
    state = record.get("state")
    if isinstance(state, dict):
        state.setdefault("guard", "inf")


def compress(content: bytes) -> bytes:
    """Return the content packed; the same content gives the same bytes."""
    return gzip.compress(content, mtime=0)


def _decompress(content: bytes) -> bytes:
    """Return what is packed, unless it is damaged or unpacks to more than a record can have."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        data = inflater.decompress(content, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not inflater.eof or inflater.unused_data:
        raise ValueError("the compressed data are cut off or too long")
    return data


def _check_size(content: bytes) -> None:
    """Raise if parsing might take more than what a record of ours can need.

    Signs are counted wherever they stand, in strings too: that takes a few ms for the largest.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    for name, (sign, most) in _MOST.items():
        if content.count(sign) > most:
            raise ValueError(f"it has more than {most} {name}")
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(content):
        if match[0] in b"[{":
            depth += 1
            if depth > _MAX_DEPTH:
                raise ValueError(f"it nests deeper than {_MAX_DEPTH}")
        elif match[0] in b"]}":
            depth -= 1


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key occurs twice")
    return record


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _to_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)
