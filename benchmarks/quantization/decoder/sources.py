"""English text from Debian packages: in the public domain, or under licences that only ask for a notice."""

from __future__ import annotations

import gzip
import html
import itertools
import re
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

Extract = Callable[[Path], Iterator[str]]


@dataclass(frozen=True)
class Source:
    """Text of some packages.

    Args:
        name: What it is called here.
        packages: Debian packages, unpacked into one folder.
        extract: Yields the text of each document, given that folder.
        public_domain: Nobody's property, so that excerpts may be shipped without a notice.
    """

    name: str
    packages: tuple[str, ...]
    extract: Extract
    public_domain: bool

    def text(self, folder: Path) -> str:
        """All text; downloads and unpacks the packages below `folder`, if they are not there."""
        home = folder / self.name
        if not home.exists():
            home.mkdir(parents=True)
            subprocess.run(["apt-get", "download", "-qq", *self.packages], cwd=home, check=True)
            for package in home.glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", package, home], check=True)
        return "\n\n".join(self.extract(home))


def plain(markup: str) -> str:
    """The text of HTML or XML, one line for each block."""
    markup = re.sub(r"(?is)<(script|style|head|nav|note)\b.*?</\1>|<!--.*?-->", " ", markup)
    markup = re.sub(r"(?i)<(p|br|div|h\d|li|tr|pre|blockquote|verse|lb?)\b[^>]*>", "\n", markup)
    text = re.sub(r"[ \t]+", " ", html.unescape(re.sub(r"<[^>]+>", "", markup)))
    return re.sub(r"\n\s*\n\s*", "\n\n", text).strip()


def pages(pattern: str, read: Callable[[str], str] = str) -> Extract:
    """An extractor of the files that match a glob."""

    def extract(home: Path) -> Iterator[str]:
        for path in sorted(home.glob(pattern)):
            data = path.read_bytes()
            yield read((gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "replace"))

    return extract


def king_james(home: Path) -> Iterator[str]:
    """What the package's own program prints."""
    program = str(home / "usr/bin/bible")
    command = [program, "-p", f"{home}/usr/lib/", "-d", "bible.data", "gen1:1-rev22:21"]
    yield subprocess.run(command, check=True, capture_output=True, text=True).stdout


def world_english(home: Path) -> Iterator[str]:
    """Blocks of a SWORD module, one zlib stream for each book: offset, size and size unpacked are in the index."""
    for index in sorted(home.glob("usr/share/sword/modules/texts/ztext/*/*.bzs"), reverse=True):
        data = index.with_suffix(".bzz").read_bytes()
        for offset, size, _ in struct.iter_unpack("<III", index.read_bytes()):
            yield plain(zlib.decompress(data[offset : offset + size]).decode("utf-8", "replace"))


def austen(home: Path) -> Iterator[str]:
    """Strings in the lazily loaded data of an R package: a sequence of zlib streams, each after its size."""
    data = (home / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    while data:
        stream = zlib.decompressobj()
        yield "\n".join(_strings(stream.decompress(data[4:])))
        data = stream.unused_data


def _strings(values: bytes) -> Iterator[str]:
    """Elements of character vectors in R's serialization: flags that end in 9, a length, bytes."""
    at = values.find(b"\0\x04\0\x09")
    while at >= 0:
        (size,) = struct.unpack(">i", values[at + 4 : at + 8])
        yield values[at + 8 : at + 8 + max(size, 0)].decode("utf-8", "replace")
        at = values.find(b"\0\x04\0\x09", at + 8 + max(size, 0))


def glosses(text: str) -> str:
    """Definitions and examples of WordNet's entries."""
    return "\n".join(
        f"{line.split()[4].replace('_', ' ')}: {line.partition('| ')[2].strip()}"
        for line in itertools.filterfalse(lambda line: line.startswith("  "), text.splitlines())
    )


SOURCES = (
    Source("kjv", ("bible-kjv", "bible-kjv-text"), king_james, public_domain=True),
    Source("web", ("sword-text-web",), world_english, public_domain=True),
    Source("austen", ("r-cran-janeaustenr",), austen, public_domain=True),
    Source("jargon", ("jargon-text",), pages("usr/share/doc/jargon-text/jargon.txt.gz"), public_domain=True),
    Source("sqlite", ("sqlite3-doc",), pages("usr/share/doc/sqlite3/**/*.html", plain), public_domain=True),
    Source("python", ("python3.11-doc",), pages("usr/share/doc/python3.11/**/*.rst.txt"), public_domain=False),
    Source("postgresql", ("postgresql-doc-15",), pages("usr/share/doc/postgresql-doc-15/html/*.html", plain), False),
    Source("wordnet", ("wordnet-base",), pages("usr/share/wordnet/data.*", glosses), public_domain=False),
)
