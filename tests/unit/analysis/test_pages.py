"""Templates and what they embed: nothing from outside becomes markup."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from markupsafe import Markup

from nastool.analysis import pages


@given(st.recursive(st.none() | st.text() | st.floats() | st.integers(-9, 9), lambda s: st.lists(s, max_size=4)))
def test_embedded_values_come_back(value: Any) -> None:
    """Whatever it is, the script that holds it ends where it should, and holds the value to six digits."""
    inside = pages.embedded({"value": value})
    assert not set("<>&\u2028\u2029") & set(inside)

    def same(found: Any, given: Any) -> bool:
        if isinstance(given, list):
            return len(found) == len(given) and all(map(same, found, given))
        if isinstance(given, float):
            return found is None if given - given != 0 else found == pytest.approx(given, rel=1e-5)
        return bool(found == (pages.printable(given) if isinstance(given, str) else given))

    assert same(json.loads(inside)["value"], value)


def test_templates_escape_by_themselves() -> None:
    template = pages.environment().from_string('<p class="{{ a }}">{{ a }}{{ b }}{{ c }}</p>')
    shown = template.render(a='a"b<\x1b\ud800', b=Markup("<i></i>"), c=None)
    assert shown == '<p class="a&#34;b&lt;��">a&#34;b&lt;��<i></i></p>'
    with pytest.raises(UndefinedError):
        pages.environment().from_string("{{ a.missing }}").render(a=1)
