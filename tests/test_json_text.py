"""Reading JSON5: what is accepted, and where each fault is said to be."""

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.config.json_text import MAX_BYTES, MAX_DEPTH, parse_json5, read_json5
from utils.errors import ConfigError

DOCUMENTED = Path(__file__).parent / "documented.json"

FAULTS = {
    "end": (
        '{"a": {\n  "b": 1\n',
        "c.json:3:1: the text ends here, before the last } or quote or comment is closed",
    ),
    "open comment": (
        "{} /* x",
        (
            "c.json:1:8: the text ends here, before the last } or quote or comment is closed\n"
            "    {} /* x\n           ^"
        ),
    ),
    "two commas": ('{"a": [1,\n  2,,]}', "c.json:2:5: unexpected ,\n      2,,]}\n        ^"),
    "no comma": (
        '{\n  "a": 1\n  "b": 2\n}',
        'c.json:3:3: unexpected "; is a comma missing before it?\n      "b": 2\n      ^',
    ),
    "bare word": ('{"a": PSPNet}', 'c.json:1:7: unexpected P\n    {"a": PSPNet}\n          ^'),
    "Python": (
        '{"a": [1, False]}',
        'c.json:1:11: False is Python; write false\n    {"a": [1, False]}\n              ^',
    ),
    "YAML": (
        "# mine\nname: x\narch:\n  type: UNet\n",
        "c.json:1:1: this is YAML; a config is JSON: { ... }, keys and text in quotes",
    ),
    "line break in a string": (
        '{"a": "x\n"}',
        (
            "c.json:1:9: a line break inside quotes, or a quote that is not closed\n"
            '    {"a": "x\n            ^'
        ),
    ),
    "far to the right": (
        '{"a": "' + "x" * 100 + '" "b": 1}',
        (
            'c.json:1:110: unexpected "; is a comma missing before it?\n'
            "    " + "x" * 57 + '" "b": 1}\n    ' + " " * 59 + "^"
        ),
    ),
    "empty": ("", "c.json:1:1: the file is empty; expected an object in { }"),
    "blanks": (" \n\t", "c.json:1:1: the file is empty; expected an object in { }"),
    "duplicate": (
        '{"a": 1,\n "b": {"c": 1, // x\n  "c": 2}}',
        "c.json:3:3: b.c: this key stands twice, first in line 2",
    ),
    "duplicate in disguise": (
        '{"a": 1, "\\u0061": 2}',
        "c.json:1:10: a: this key stands twice, first in line 1",
    ),
    "duplicate in a list": (
        '{"x": [{"a": 1}, {"a": 1, a: 2}]}',
        "c.json:1:27: x.a: this key stands twice, first in line 1",
    ),
    "duplicate behind a comment that a line separator ends": (
        '{ // c\u2028"a": 1, "a": 2}',
        "c.json:1:16: a: this key stands twice, first in line 1",
    ),
    "NaN": ('{"a": NaN}', "c.json:1:7: a: expected a finite number, got NaN"),
    "-Infinity": (
        '{"a": [1, -Infinity]}',
        "c.json:1:11: a: expected a finite number, got -Infinity",
    ),
    "1e400": ('{"a": {"b": 1e400}}', "c.json:1:13: a.b: expected a finite number, got 1e400"),
    "long number": ('{"a": ' + "1" * 5000 + "}", "c.json:1:7: a number of absurd length"),
    "too deep": ("[" * (MAX_DEPTH + 1), "c.json:1:51: nested deeper than 50 levels"),
    "much too deep": ('{"a":' * 5000, "c.json:1:251: nested deeper than 50 levels"),
    "two at once": (
        '{"a": NaN,\n"a": Infinity}',
        (
            "c.json: 3 faults\n  1:7: a: expected a finite number, got NaN\n"
            "  2:1: a: this key stands twice, first in line 1\n"
            "  2:6: a: expected a finite number, got Infinity"
        ),
    ),
    "NUL": (
        '{"a": ["x\\u0000"]}',
        "c.json: a[0]: text with \\u0000 or half a surrogate pair cannot be used",
    ),
    "half a surrogate pair": (
        '{"\\ud800": 1}',
        "c.json: the key in the file: text with \\u0000 or half a surrogate pair cannot be used",
    ),
}

FILES = {
    "byte order mark": (b"\xef\xbb\xbf{}", ":1:1: begins with a byte order mark; save it as UTF-8"),
    "UTF-16": ("{}".encode("utf-16"), ":1:1: begins with a byte order mark; save it as UTF-8"),
    "Latin-1": (b'{\n "name": "caf\xe9"}', ":2:14: not UTF-8 (byte 0xe9); save it as UTF-8"),
    "binary": (b"{\n\x00\x01", ":2:1: a binary file; expected JSON text"),
    "large": (b" " * (MAX_BYTES + 1), ": larger than 32 KiB; a config is a few KiB of JSON. Is"),
    "list": (b"[1]", ': expected an object, { "name": ... }, got a list'),
    "text": (b'"x"', ': expected an object, { "name": ... }, got text'),
    "null": (b"null", ': expected an object, { "name": ... }, got null'),
    "number": (b"1", ': expected an object, { "name": ... }, got a single value'),
}


def refusal(read):
    try:
        read()
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_has_its_place(text, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        parse_json5(text, source="c.json")


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_config(content, message, tmp_path):
    path = tmp_path / "c.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path) + message)}"):
        read_json5(path)


def test_a_missing_file_names_its_neighbors(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        ConfigError, match=r"confg.json: no such file; did you mean 'config.json'\?"
    ):
        read_json5(tmp_path / "confg.json")
    with pytest.raises(
        ConfigError, match=r"no such file; there is no .json file in .*none\n"
    ) as told:
        read_json5(tmp_path / "none" / "config.json")
    shown = re.search(r"the default run is (.*), others are in (.*)", str(told.value))
    assert read_json5(Path(shown[1]))["name"] == "Shapes_UNet"
    assert list(Path(shown[2]).glob("*.json"))
    with pytest.raises(
        ConfigError, match=r"is a folder; expected a config file; did you mean 'con"
    ):
        read_json5(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be read: .*Not a directory"):
        read_json5(tmp_path / "config.json" / "x")
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        read_json5(Path("\0"))


def test_what_json5_adds_to_json_is_accepted():
    text = "{bare: 'one', // x\n /* y */ 'hex': 0x10, half: .5, \"NaN\": +1, list: [1, 2,],}"
    expected = {"bare": "one", "hex": 16, "half": 0.5, "NaN": 1, "list": [1, 2]}
    assert parse_json5(text, source="c.json") == expected
    assert parse_json5("{NaN: 1}", source="c.json") == {"NaN": 1}


def test_brackets_in_strings_and_comments_do_not_count():
    text = '{"a": "' + "[" * 60 + '"} // ' + "{" * 60
    assert parse_json5(text, source="c.json") == {"a": "[" * 60}


def test_the_deepest_text_is_read_from_a_deep_stack():
    def at(depth):
        text = '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH
        return at(depth - 1) if depth else parse_json5(text, source="c.json")

    limit = sys.getrecursionlimit()
    assert "a" in at(700)
    assert sys.getrecursionlimit() == limit


@pytest.mark.timeout(60)  # takes 0.3 s; json5 is pure Python, and must not explode with length
def test_the_longest_file_is_read(tmp_path):
    path = tmp_path / "c.json"
    entry = DOCUMENTED.read_text()
    path.write_text('{"list": [' + ",".join([entry] * (MAX_BYTES // len(entry) - 1)) + "]}")
    assert path.stat().st_size > 0.9 * MAX_BYTES
    assert len(read_json5(path)["list"]) > 10


PIECES = st.sampled_from(
    [*list("{}[]:,\"'/*\\ \n0aeE+-.x"), "NaN", "//", "/*", "*/", "\\u", "é", "�"]
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=40).map("".join)))
def test_any_text_is_read_or_refused(text):
    message = refusal(lambda: parse_json5(text, source="c.json"))
    assert message is None or message.startswith("c.json")


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(content)
    message = refusal(lambda: read_json5(path))
    assert message is None or message.startswith(str(path))
