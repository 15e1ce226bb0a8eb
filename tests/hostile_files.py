"""Hostile checkpoint files, and a process that loads them: ``python -m tests.hostile_files``.

It reads directories from standard input, one a line, and prints what loading each of them raised,
the seconds that it took, and the MB by which it made the process grow at its peak.
"""

import gzip
import json
import resource
import sys
import time
import warnings
import zlib
from pathlib import Path

from nlsq_sklearn import CorruptCheckpointError, JSONCheckpoint
from nlsq_sklearn._format import MAX_BYTES, digest_of

_ADDRESS_SPACE = 4 * 2**30


def _filled(unit, head=b'{"a": [', tail=b"0]}"):
    """Return the largest file that repeats a unit."""
    return head + unit * ((MAX_BYTES - len(head) - len(tail)) // len(unit)) + tail


def _most(unit, count, head=b'{"a": [', tail=b"0]}"):
    return head + unit * count + tail


def _keys(count):
    return b'{"a": {' + b",".join(b'"%d":1.5' % i for i in range(count)) + b"}}"


def _signed(record):
    return json.dumps({**record, "digest": digest_of(record)}).encode()


# What is as large as the limits let it be is as hostile as what is larger.
FILES = {
    "nested lists": lambda: _filled(b"[[],[]],"),
    "lists up to the limit": lambda: _most(b"[],", 2**17 - 1),
    "objects up to the limit": lambda: _most(b"{},", 2**16 - 1),
    "keys up to the limit": lambda: _keys(2**18 - 2),
    "numbers": lambda: _filled(b"1.5,"),
    "numbers up to the limit": lambda: _most(b"1.2345678901234,", 2**21 - 1),
    "whole numbers up to the limit": lambda: _most(b"123456789012,", 2**21 - 1),
    "strings": lambda: _filled(b'"ab",'),
    "strings up to the limit": lambda: _most(b'"abcdefghijkl",', 2**18 - 1),
    "one string": lambda: _filled(b"a", b'{"a": "', b'"}'),
    "one string with a wide character": lambda: _filled(b"a", b'{"a": "\\ud83d\\ude00', b'"}'),
    "escapes": lambda: _filled(b"\\u00e9", b'{"a": "', b'"}'),
    "quotation marks": lambda: _filled(b'\\"', b'{"a": "', b""),
    "depth": lambda: b"[" * 10_000_000,
    "depth behind a string": lambda: b'{"a": "\\"]]]]", "b": ' + b"[" * 100_000,
    "one number of many digits": lambda: _filled(b"7", b'{"a": ', b"}"),
    "a fraction of many digits": lambda: _filled(b"7", b'{"a": 0.', b"}"),
    "spaces": lambda: _filled(b" ", b'{"a": ', b"1}"),
    "a whole record of lists": lambda: _signed({"schema": True, "a": [[]] * (2**17 - 2)}),
    "a whole record of numbers": lambda: _signed({"schema": True, "a": [0.1] * (2**21 - 3)}),
}


def _bomb(content):
    """Return what unpacks to a content and 4 GB of spaces behind it."""
    packer = zlib.compressobj(9, wbits=31)
    pieces = [packer.compress(content)]
    pieces += [packer.compress(b" " * 2**20) for _ in range(4096)]
    return b"".join([*pieces, packer.flush()])


def write(directory, name):
    """Write a hostile file, plain and packed, both of which loading has to look at."""
    dated = directory / "checkpoint_20240101_120000.json"
    if name == "a gzip bomb":
        dated.with_suffix(".json.gz").write_bytes(_bomb(b"{}"))
    elif name == "a file of 1 GB":
        with open(dated, "wb") as file:
            file.truncate(2**30)
    else:
        content = FILES[name]()
        (directory / "checkpoint_latest.json").write_bytes(content)
        dated.with_suffix(".json.gz").write_bytes(gzip.compress(content, 1))


NAMES = [*FILES, "a gzip bomb", "a file of 1 GB"]


def _resident(field):
    """Return the MB of memory that the process has (VmRSS), or had at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def _main():
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    for directory in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        before, started_at = _resident("VmRSS"), time.monotonic()
        try:
            JSONCheckpoint(directory.strip()).load()
            error = None
        except CorruptCheckpointError as raised:
            error = str(raised)
        seconds, grown = time.monotonic() - started_at, _resident("VmHWM") - before
        print(json.dumps({"error": error, "seconds": seconds, "MB": grown}), flush=True)


if __name__ == "__main__":
    _main()
