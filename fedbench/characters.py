"""Characters that have no place in a name: what moves a cursor, turns the text, or is there and not seen.

One list for all that prints, renders and refuses. It is made of fixed ranges, and not of what Python knows of Unicode:
that grows with each version, and neither a page nor a refusal may depend on it.
"""

from __future__ import annotations

import re
import unicodedata

HIDDEN = re.compile(
    "["
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"  # control characters, the start of ANSI escapes among them
    "\xad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2064"  # without a width
    "\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # direction of writing
    "\ud800-\udfff"  # halves of characters, which no file can hold
    "\ue000-\uf8ff\ufff0-\uffff"  # private, and no characters
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U0010ffff"
    "]"
)
BLANK = re.compile("[\t\v\f\r\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
"""White space but for the plain space and the end of a line."""

_MARKS = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_STACKED = re.compile(f"({_MARKS}{{4}}){_MARKS}+")


def visible(text: str) -> str:
    r"""Return text on which everything is seen: nothing in it moves the cursor, turns the text or hides.

    White space becomes a plain space, lines stay. What is `HIDDEN` is shown by its number. More than four marks on one
    letter are left out.

    Examples
    --------
    >>> visible("fed\u202egva\t2")
    'fed⟨U+202E⟩gva 2'
    """
    return _STACKED.sub(r"\1", HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", BLANK.sub(" ", text)))


def shown(value: str, most: int = 120) -> str:
    r"""Return a text as one line that is safe to print anywhere: `visible`, and cut where it is long.

    Examples
    --------
    >>> shown("\x1b[2J\u202e" + 200 * "a", 24)
    '⟨U+001B⟩[2J⟨U+202E⟩aaaa…'
    """
    safe = visible(value[: most + 1]).replace("\n", " ")
    return safe if len(safe) <= most else safe[: most - 1] + "…"


def unfit(value: str, allowed: str = "") -> str:
    r"""Return the name of the first character that is `HIDDEN` or `BLANK`, or ends a line; empty where there is none.

    Parameters
    ----------
    value : str
        Any text.
    allowed : str
        Characters that may stand there all the same.

    Examples
    --------
    >>> unfit("a\u202eb"), unfit("Łukasz"), unfit("two\nlines"), unfit("two\nlines", "\n")
    ('RIGHT-TO-LEFT OVERRIDE (U+202E)', '', 'a control character (U+000A)', '')
    """
    for char in value:
        if char not in allowed and (char == "\n" or HIDDEN.match(char) or BLANK.match(char)):
            kind = _KINDS.get(unicodedata.category(char), "a character")
            return f"{unicodedata.name(char, kind)} (U+{ord(char):04X})"
    return ""


_KINDS = {
    "Cc": "a control character",
    "Cs": "half a surrogate pair",
    "Co": "a character of private use",
    "Cn": "no character",
}
