"""Objects and texts that were good until somebody laid hands on them."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

Path = tuple[str | int, ...]

_WRONG = st.one_of(
    st.sampled_from(
        (
            None,
            "",
            "x",
            "X_",
            "In ",
            "TCP ",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "010.0.0.0/8",
            "::ffff:10.0.0.0/104",
            "10.0.0.0",
            "egress",
            "v" * 300,
            "1",
            True,
            False,
            0,
            -1,
            80.5,
            65536,
            10**30,
            [],
            {},
            [[]],
            [None],
            [{}],
            ["x"],
            {"x": 1},
            {"matchLabels": {"a": 1}},
            {"matchExpressions": [{"key": "a", "operator": "Is"}]},
        )
    ),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
).map(copy.deepcopy)
"""Each time of its own: what was put in may be changed by what is done next."""
_FIELDS = (
    "podSelectr",
    "PodSelector",
    "podSelector",
    "port",
    "ports",
    "endPort",
    "from",
    "to",
    "ipBlock",
    "except",
    "namespaceSelector",
    "values",
    "unknown",
    "",
)


def paths(data: object, at: Path = ()) -> list[Path]:
    """Return the way to every value in plain data, containers included."""
    found: list[Path] = [at]
    if isinstance(data, dict):
        for key, value in data.items():
            found += paths(value, (*at, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            found += paths(value, (*at, index))
    return found


@st.composite
def mutants(draw: st.DrawFn, data: dict[str, Any]) -> dict[str, Any]:
    """Return data with one to three things done to it: replaced, removed, renamed, added or doubled."""
    found = copy.deepcopy(data)
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        ways = [path for path in paths(found) if path]
        if not ways:
            break
        # What lies deep outnumbers the rest, but is no more important.
        depth = draw(st.sampled_from(sorted({len(path) for path in ways})))
        *way, last_step = draw(st.sampled_from([path for path in ways if len(path) == depth]))
        last: Any = last_step
        holder: Any = found
        for step in way:
            holder = holder[step]
        deed = draw(st.sampled_from(("replace", "replace", "remove", "rename", "add", "double")))
        if deed == "replace":
            holder[last] = draw(_WRONG)
        elif deed == "remove":
            del holder[last]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]) if deed == "double" else draw(_WRONG))
        elif deed == "rename":
            holder[draw(st.sampled_from(_FIELDS))] = holder.pop(last)
        else:
            holder[draw(st.sampled_from(_FIELDS))] = draw(_WRONG)
    return found


_BYTES = (
    b"\xff",
    b"\x00",
    b"\t",
    b"\xef\xbb\xbf",
    b"[",
    b"}",
    b": ",
    b"&a ",
    b"*a",
    b"!x ",
    b"---\n",
    b"'",
    b"\n",
)


@st.composite
def spoilt_texts(draw: st.DrawFn, text: bytes) -> bytes:
    """Return a text cut off, with bytes put in, or with a line doubled or gone."""
    at = draw(st.integers(0, len(text)))
    deed = draw(st.sampled_from(("cut", "put", "put", "double", "drop")))
    if deed == "cut":
        return text[:at]
    if deed == "put":
        return text[:at] + draw(st.sampled_from(_BYTES)) + text[at:]
    lines = text.splitlines(keepends=True)
    number = draw(st.integers(0, len(lines) - 1))
    if deed == "double":
        lines.insert(number, lines[number])
    else:
        del lines[number]
    return b"".join(lines)
