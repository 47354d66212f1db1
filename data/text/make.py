#!/usr/bin/env python3
"""Rebuild austen.txt from Debian's r-cran-janeaustenr (stdlib only).

    apt-get download r-cran-janeaustenr && dpkg -x r-cran-janeaustenr_*.deb unpacked
    python3 data/text/make.py unpacked > data/text/austen.txt

The novels are R character vectors in a lazy-load database: `Rdata.rdx` maps a name to (offset,
length) in `Rdata.rdb`, and each record is a compressed stream of R's binary serialisation. The
subset of that format these two files use is read here (R Internals, section 1.8).
"""
import gzip
import pathlib
import struct
import sys
import zlib

NOVELS = ("prideprejudice", "persuasion")
SYMBOL, PAIRLIST, CHARACTER, LOGICAL, INTEGER, STRINGS, LIST = 1, 2, 9, 10, 13, 16, 19
REFERENCE, NULL = 255, 254


class Reader:
    """Reads one value of R's XDR serialisation, format version 2 or 3."""

    def __init__(self, data):
        self.data, self.at, self.symbols = data, 2, []
        if data[:2] != b"X\n":
            raise ValueError(f"make.py: not an XDR stream: starts with {data[:2]!r}")
        version, _, _ = self.integer(), self.integer(), self.integer()
        if version == 3:
            self.take(self.integer())  # the name of the native encoding

    def take(self, count):
        self.at += count
        return self.data[self.at - count : self.at]

    def integer(self):
        return struct.unpack(">i", self.take(4))[0]

    def value(self):
        flags = self.integer()
        kind, has_attributes, has_tag = flags & 255, flags & 512, flags & 1024
        if kind == NULL:
            return None
        if kind == REFERENCE:
            return self.symbols[(flags >> 8) - 1]
        if kind == SYMBOL:
            self.symbols.append(self.value())
            return self.symbols[-1]
        if kind == PAIRLIST:
            tag = self.value() if has_tag else None
            head = self.value()
            return {tag: head, **(self.value() or {})}
        if kind == CHARACTER:
            size = self.integer()
            return None if size == -1 else self.take(size).decode("utf-8")
        count = self.integer()
        if kind in (LOGICAL, INTEGER):
            result = struct.unpack(f">{count}i", self.take(4 * count))
        elif kind in (STRINGS, LIST):
            result = [self.value() for _ in range(count)]
        else:
            raise ValueError(f"make.py: R type {kind} is not read here")
        attributes = self.value() if has_attributes else {}
        return dict(zip(attributes["names"], result)) if "names" in attributes else result


def record(data):
    """Undo a lazy-load record: the plain size in 4 bytes, then a zlib stream."""
    size, plain = struct.unpack(">I", data[:4])[0], zlib.decompress(data[4:])
    if len(plain) != size:
        raise ValueError(f"make.py: a record has {len(plain)} bytes, its header says {size}")
    return plain


def main():
    folder = pathlib.Path(sys.argv[1]) / "usr/lib/R/site-library/janeaustenr/data"
    index = Reader(gzip.decompress((folder / "Rdata.rdx").read_bytes())).value()["variables"]
    database = (folder / "Rdata.rdb").read_bytes()
    for novel in NOVELS:
        offset, length = index[novel]
        lines = Reader(record(database[offset : offset + length])).value()
        sys.stdout.buffer.write(("\n".join(lines).strip("\n") + "\n\n").encode("utf-8"))


if __name__ == "__main__":
    main()
