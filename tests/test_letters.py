"""Text of anywhere becomes one line that nothing downstream trips over."""

from tasks.channels.letters import one_line, shorten


def test_a_long_text_is_cut_within_its_limit() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde\N{HORIZONTAL ELLIPSIS}"


def test_a_line_has_no_breaks_no_control_characters_and_no_half_characters() -> None:
    assert one_line(" a\r\n\tb\x1b[2J\x00\udc80\N{RIGHT-TO-LEFT OVERRIDE}c\u2028d ") == "a b [2J c d"
    assert one_line("\N{GREEK SMALL LETTER MU}s, 3.6 -> 3.7") == "\N{GREEK SMALL LETTER MU}s, 3.6 -> 3.7"
