"""A release's card shows titles unchanged, with any Markdown or HTML characters in them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from healthgym.release.card import plain

MARKS = "\\`*_{}[]<>#|~$&!^"


@given(st.text(st.characters(codec="utf-8") | st.sampled_from(MARKS + "\n")))
def test_marks_are_escaped_and_nothing_is_lost(text: str) -> None:
    shown = plain(text)
    assert re.sub(r"\\(.)", r"\1", shown, flags=re.DOTALL) == " ".join(text.split())
    bare = re.sub(r"\\.", " ", shown, flags=re.DOTALL)
    assert not set(MARKS) & set(re.sub(r"(?<=[^\W_])_(?=[^\W_])", "", bare))
    assert "\n" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [("art_hiv (v2), 10%", "art_hiv (v2), 10%"), ("a|b <i> $x$", r"a\|b \<i\> \$x\$")],
)
def test_plain_text_stays_plain(text: str, shown: str) -> None:
    assert plain(text) == shown
