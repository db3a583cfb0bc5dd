"""Hostile and odd texts: no text costs much more than its length, ends the process, or passes for another."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from agent.kube.text import UnreadableError, json_documents, yaml_documents


def documents(text: bytes) -> list[object]:
    return [data for _, data in yaml_documents(text)]


def bomb(first: str, use: str, levels: int) -> bytes:
    """Return lines of which each repeats the one before nine times."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {use.format(', '.join([f'*a{n - 1}'] * 9))}" for n in range(1, levels)]
    return "\n".join(lines).encode()


DEEP = {
    "lists": b"[" * 100_000,
    "closed lists": b"a: " + b"[" * 100_000 + b"]" * 100_000,
    "mappings": b"{a: " * 100_000,
    "indented": b"- " * 100_000 + b"x",
}
BOMBS = {
    "lists": bomb("[x, x]", "[{}]", 30),
    "mappings": bomb("{x: 1}", "{{x: [{}]}}", 30),
    "merges": bomb("{x: 1}", "{{<<: [{}], y: 2}}", 30),
    "one wide list": b"a: &a [" + b"x, " * 20_000 + b"x]\nb: [" + b"*a, " * 20_000 + b"*a]",
}


@pytest.mark.parametrize("text", [*DEEP.values(), *BOMBS.values()], ids=[*DEEP, *BOMBS])
def test_a_text_that_would_grow_is_refused_before_it_does(text: bytes) -> None:
    # Nested this deeply, a parser that calls itself ends the process.
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(UnreadableError, match=r"^line \d+: (nested too deeply|aliases repeat too much)"):
        documents(text)
    assert time.process_time() - began < 5
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()


def test_json_nested_too_deeply() -> None:
    for text in (b"[" * 100_000, b'{"a":' * 100_000):
        with pytest.raises(UnreadableError, match="nested too deeply"):
            list(json_documents(text))


def test_aliases_that_repeat_little_stay_whatever_the_length() -> None:
    text = b"a: &a {b: [1, 2], c: {d: e}}\nmany:\n" + b"- {name: x, is: *a}\n" * 20_000
    (data,) = documents(text)
    assert isinstance(data, dict)
    assert data["many"][-1] == {"name": "x", "is": {"b": [1, 2], "c": {"d": "e"}}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a {b: *a}", "line 1: alias 'a' lies in what it stands for"),
        ("&a [*a]", "alias 'a' lies in what it stands for"),
        ("a:\n- *b", "line 2: .*alias"),
        ("a: &a 1\n---\nb: *a", "line 3: .*alias"),
        ("a: " + "9" * 5000, "line 1: a number"),
        ("\na: 0x_", "line 2: a number"),
        ("a: !!binary aGk=", "line 1: tag .* is not known here"),
        ("a: !!set {b}", "tag .* is not known here"),
        ("a: !!int x", "is not what its tag"),
        ("<<: 5", "what << names is not a mapping"),
        ("<<: [{a: 1}, 5]", "what << names is not a mapping"),
        ("a:\n\tb: 1", "line 2"),
        ("a: 'b", "line 1"),
        ("a: \x00", "UTF-8"),
        ("{[a]: 1}", "a key is not a string"),
        ("{{a: 1}: 1}", "a key is not a string"),
        ("? " * 100_000 + "x", "a key is not a string"),
        ("~: 1", "a key is not a string"),
        ("&a a: &b [1]\nc: *b\n*a : d", "line 3: key 'a' is written twice"),
        ("1: a\n'1': b", "line 2: key '1' is written twice"),
        ("true: a\nyes: b", "line 2: key 'true' is written twice"),
    ],
)
def test_what_is_refused_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(UnreadableError, match=words):
        documents(text.encode())


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("\ufeffa: 1", {"a": 1}),
        ("a: &a {x: 1, y: 1}\nb: {<<: *a, y: 2}", {"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 2}}),
        ("b: {y: 2, <<: [{x: 3, y: 3}, {x: 4, z: 4}]}", {"b": {"x": 3, "y": 2, "z": 4}}),
        ("'<<': 1", {"<<": 1}),
        ("? a\n: b", {"a": "b"}),
        ('a: !!str 5\nb: !!int "5"\nc: !!bool yes', {"a": "5", "b": 5, "c": True}),
        ("a: 010\nb: 0b11\nc: 1_000\nd: -0x1F", {"a": 8, "b": 3, "c": 1000, "d": -31}),
        ("a: 2026-01-01\nb: 12:30\nc: 0o7", {"a": "2026-01-01", "b": "12:30", "c": "0o7"}),
        ("a: -.INF", {"a": float("-inf")}),
        ("a: y\nb: Off\nc: ~\nd:", {"a": "y", "b": False, "c": None, "d": None}),
        ("", "nothing"),
        ("# nothing", "nothing"),
    ],
)
def test_what_yaml_means(text: str, data: object) -> None:
    assert documents(text.encode()) == ([] if data == "nothing" else [data])


def test_utf_16_is_read_and_other_encodings_are_not() -> None:
    assert documents("a: é".encode("utf-16")) == [{"a": "é"}]
    assert list(json_documents('{"a": "é"}'.encode("utf-16"))) == [(1, {"a": "é"})]
    with pytest.raises(UnreadableError, match="UTF-8"):
        documents("a: é".encode("latin-1"))
    with pytest.raises(UnreadableError, match="UTF-8"):
        list(json_documents('{"a": "é"}'.encode("latin-1")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: é".encode("latin-1"), "line 2: not UTF-8; write the file in UTF-8"),
        ('{"a":\n"é"}'.encode("latin-1"), "line 2: not UTF-8; write the file in UTF-8"),
        (b"a: 1\nb: \x07", "line 2: the control character U+0007; remove it"),
        ("a: 1".encode("utf-16-le"), "line 1: the control character U+0000; write the file in UTF-8"),
        ("a: 1".encode("utf-32"), "line 1: not UTF-8; write the file in UTF-8"),
    ],
)
def test_text_that_is_none_is_told_in_our_own_words(text: bytes, said: str) -> None:
    with pytest.raises(UnreadableError) as error:
        list(json_documents(text) if text.startswith(b"{") else yaml_documents(text))
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{}\n{"a": "\\ud800"}', r"^line 2: \\u stands for half a character; write both halves$"),
        ('{"\\uDfff": 1}', "line 1: .* half a character"),
        ('{}\n{"a": ' + "9" * 5000 + "}", "^line 2: a number that cannot be read; quote it if it is text$"),
        ('{}\n{"a": {"b": 1, "c": 2, "b": 3}}', "^line 2: key 'b' is written twice; keep one of them$"),
        ('{"a": 1}{', "line 1"),
        ('{"a":\n"\x01"}', "^line 2: invalid control character; correct the JSON$"),
        ('{"a": "b', "^line 1: unterminated string; correct the JSON$"),
        (" \n", "^line 1: nothing is in it; write an object, or remove the file$"),
    ],
)
def test_json_that_is_refused(text: str, words: str) -> None:
    with pytest.raises(UnreadableError, match=words):
        list(json_documents(text.encode()))


def test_lines_are_those_where_documents_begin() -> None:
    assert [line for line, _ in yaml_documents(b"a: 1\n---\n# c\nb: 2\n---\n---\n- x\n")] == [1, 4, 6, 7]
