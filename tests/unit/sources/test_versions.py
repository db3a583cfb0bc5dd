"""Which versions were told last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.kube.model import Key
from agent.sources.apiserver.versions import Versions

_keys = st.builds(Key, st.sampled_from(("", "a", "b")), st.sampled_from("xyz"))


@given(st.lists(st.tuples(_keys, st.none() | st.integers(0, 9))))
def test_they_are_a_dict_from_keys_to_numbers(history: list[tuple[Key, int | None]]) -> None:
    held, expected = Versions(), dict[Key, int]()
    for key, version in history:
        if version is None:
            held.forget(key)
            expected.pop(key, None)
        else:
            held.note(key, version)
            expected[key] = version
        assert len(held) == len(expected)
    assert set(held) == set(expected)
    for key in (Key(namespace, name) for namespace in ("", "a", "b") for name in "xyz"):
        assert held.get(key) == expected.get(key)
        assert (key in held) is (key in expected)
    held.doubt()
    assert {key: held.get(key) for key in held} == dict.fromkeys(expected, 0)
