"""Inputs for a target as hypothesis draws them: bytes, and seeds that were edited."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.target import Target

EDITS_MAX = 4
RAW_BYTES_MAX = 200
PIECE_BYTES_MAX = 12

_VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, True, 0, -1, 1.5, 10**40, "", "a", "1", "-1s", "\ud800", "\n", [], {}]),
    st.integers(),
    st.text(max_size=5),
    st.lists(st.integers(0, 9), max_size=3),
)


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Anything, and above all what is nearly right."""
    nearly = [_edited(target)]
    if documents := [seed for seed in target.seeds if _is_json(seed)]:
        nearly.append(_edited_document(documents))
    return st.one_of(st.binary(max_size=RAW_BYTES_MAX), *nearly, *nearly)


@st.composite
def _edited(draw: st.DrawFn, target: Target) -> bytes:
    """A seed with pieces left out, put in, or doubled."""
    data = draw(st.sampled_from(target.seeds))
    for _ in range(draw(st.integers(1, EDITS_MAX))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(len(data), begin + PIECE_BYTES_MAX)))
        pieces = [st.binary(max_size=PIECE_BYTES_MAX), st.just(data[begin:end] * 2)]
        if target.words:
            pieces.append(st.sampled_from(target.words))
        data = data[:begin] + draw(st.one_of(pieces)) + data[end:]
    return data


@st.composite
def _edited_document(draw: st.DrawFn, documents: list[bytes]) -> bytes:
    """A JSON document in which one value is another one, or gone."""
    whole = json.loads(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, EDITS_MAX))):
        places = [*_places(whole)]
        if not places:
            break
        parent, name = draw(st.sampled_from(places))
        if draw(st.booleans()):
            parent[name] = draw(_VALUES)
        else:
            del parent[name]
    return json.dumps(whole).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every value within, by what holds it and under which name."""
    names = (
        value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    )
    return [place for name in names for place in [(value, name), *_places(value[name])]]


def _is_json(seed: bytes) -> bool:
    try:
        return isinstance(json.loads(seed), dict | list)
    except ValueError:
        return False
