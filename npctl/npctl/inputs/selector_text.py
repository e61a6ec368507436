"""kubectl's label selector notation to a `Selector`: `a=b`, `a!=b`, `a in (x,y)`, `a notin (x)`, `a`, `!a`, with commas."""

from __future__ import annotations

import re

from netpol_compiler.model.selectors import Operator, Requirement, Selector, make_selector
from netpol_compiler.reading.fields import label_key_error, label_value_error
from npctl.errors import usage

_PART = re.compile(
    r"\s*(?:"
    r"!\s*(?P<absent>[^\s,()!=]+)"
    r"|(?P<key>[^\s,()!=]+)\s*(?:"
    r"(?P<set>in|notin)\s*\((?P<values>[^()]*)\)"
    r"|(?P<op>==|=|!=)\s*(?P<value>[^\s,()!=]*)"
    r")?"
    r")\s*(?:,|$)"
)


def parse_selector(text: str) -> Selector:
    """Parse one -l argument. Raises CommandError, saying where it stopped to make sense."""
    requirements: list[Requirement] = []
    place = 0
    while place < len(text):
        match = _PART.match(text, place)
        if match is None or match.end() == place:
            raise usage(
                f"-l {text!r}: cannot understand {text[place:]!r}",
                "write a=b, a!=b, a in (x,y), a notin (x,y), a or !a, with commas",
            )
        requirements.append(_requirement(text, match))
        place = match.end()
    return make_selector(requirements)


def _requirement(text: str, match: re.Match[str]) -> Requirement:
    key = match["absent"] or match["key"]
    values: tuple[str, ...] = ()
    if match["absent"]:
        operator = Operator.DOES_NOT_EXIST
    elif match["set"]:
        operator = Operator.IN if match["set"] == "in" else Operator.NOT_IN
        values = tuple(sorted({v.strip() for v in match["values"].split(",")}))
    elif match["op"]:
        operator, values = (Operator.NOT_IN if match["op"] == "!=" else Operator.IN), (match["value"],)
    else:
        operator = Operator.EXISTS
    error = label_key_error(key) or next((e for v in values if (e := label_value_error(v))), "")
    if error:
        raise usage(f"-l {text!r}: {error}")
    return Requirement(key, operator, values)
