"""Broken text where a config should be: each with the place that the answer has to name."""

import json
import random
from collections.abc import Iterator

from mutant import Mutant, base, changed, paths


def broken_text(rng: random.Random) -> Iterator[Mutant]:
    text = json.dumps(base(), indent=2)
    for _ in range(20):
        cut = rng.randrange(1, len(text) - 1)
        last = text.count("\n", 0, cut) + 1
        yield Mutant("truncated", text[:cut].encode(), f".json:{last}:", "the text ends here")
    lines = text.splitlines()
    for number in rng.sample(
        [i for i, line in enumerate(lines) if line.endswith(",") and ": " in line], 12
    ):
        twice = [*lines[: number + 1], lines[number], *lines[number + 1 :]]
        advice = f"this key stands twice, first in line {number + 1}"
        yield Mutant("duplicate", "\n".join(twice).encode(), f":{number + 2}:", advice)
    numbers = [path for path, value in paths(base()) if type(value) in (int, float)]
    for path in rng.sample(numbers, 10):
        wrong = rng.choice(["NaN", "Infinity", "-Infinity", "1e400", "-1e999"])
        content = changed(path, "@@").replace(b'"@@"', wrong.encode())
        yield Mutant("not finite", content, f"{path}: expected a finite number", f"got {wrong}")
    for number in rng.sample(range(2, len(lines) - 2), 8):
        if lines[number].endswith(","):
            broken = [*lines[:number], lines[number][:-1], *lines[number + 1 :]]
            yield Mutant("no comma", "\n".join(broken).encode(), f":{number + 2}:", "missing")


def no_text(rng: random.Random) -> Iterator[Mutant]:
    text = json.dumps(base())
    yield Mutant("empty", b"", ":1:1: ", "empty")
    yield Mutant("blank", b"\n\n  ", ":1:1: ", "empty")
    yield Mutant("comment", b"// nothing", ":1:", "the text ends here")
    noise = bytes(rng.choices(range(1, 10), k=2000))
    yield Mutant("binary", noise + b"\0", f":{noise.count(10) + 1}:", "a binary file")
    yield Mutant("image", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ":3:1: ", "a binary file")
    yield Mutant("zip", b"PK\x03\x04\0\0", ":1:", "a binary file")
    yield Mutant("byte order mark", b"\xef\xbb\xbf" + text.encode(), ":1:1: ", "byte order mark")
    yield Mutant("UTF-16", text.encode("utf-16"), ":1:1: ", "byte order mark")
    latin = text.replace("PSPNet", "caf\xe9", 1).encode("latin-1")
    yield Mutant("Latin-1", latin, ":1:", "not UTF-8")
    yield Mutant("large", text.encode() + b" " * 40_000, ": larger than 32 KiB", "")
    yield Mutant("deep", b'{"a":' * 5000, ":1:251: ", "nested deeper than 50 levels")
    yield Mutant("list", f"[{text}]".encode(), ": expected an object", "got a list")
    yield Mutant("text", b'"config"', ": expected an object", "got text")
    yield Mutant("two objects", f"{text}{text}".encode(), ":1:", "unexpected {")
    yield Mutant("half a pair", changed("name", "\ud800"), "name: ", "surrogate")
