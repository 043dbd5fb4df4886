"""Names: which may be used, and which was meant by one that is unknown."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def near(name: str, known: Iterable[str]) -> str:
    """Return `did you mean "x"?` for the nearest known name, else what the known ones are."""
    names = list(known)
    close = get_close_matches(name, names, n=1)
    return f'did you mean "{close[0]}"?' if close else listed(names)


def listed(known: Iterable[str]) -> str:
    """Return a few of the known names."""
    names = sorted(known)
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"known: {shown}" if names else "none is declared"


def name_fault(name: str) -> str:
    """Return what is wrong with a name; empty for one that is fine."""
    if not name.strip():
        return "is empty"
    if len(name) > 128:
        return f"has {len(name)} characters, at most 128 are allowed"
    return "has a control character" if CONTROL.search(name) else ""
