"""Whether an answer is worked out, before anybody asks for its value.

A comparison by value takes a restated question for its answer: `5+7` for 12, `\\frac{24}{2}`, `\\sqrt{144}`,
`\\binom{4}{2}`, an integral. What is worked out is told by the gold answer, which is: an answer may do no
more than that one does. It has no operator, function, letter, bracket or sign of punctuation more often;
fractions are in lowest terms and roots of integers free of squares. A number is always worked out.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

INTEGER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)"
_FRACTION = r"[-+]?\\[dt]?frac\{\d+\}\{\d+\}|[-+]?\d+/\d+"
_NUMBER = rf"{INTEGER}(?:\.\d+)?|[-+]?\.\d+|{_FRACTION}"
# In a tuple a comma ends a number: were it to group digits too, there would be 2^k readings of k commas.
_PART = rf"(?:[-+]?\d+(?:\.\d+)?|[-+]?\.\d+|{_FRACTION})"
NUMBER = re.compile(rf"{_NUMBER}|[(\[]{_PART}(?:, ?{_PART})*[)\]]", re.ASCII)

MAX_RADICAND = 10**8
"""Of a root that is looked through for squares."""

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\.\d+|\s+|.", re.ASCII | re.DOTALL)
_KINDS = {
    **dict.fromkeys(("*", r"\cdot", r"\times"), "product"),
    **dict.fromkeys(("/", r"\frac", r"\dfrac", r"\tfrac"), "quotient"),
    **dict.fromkeys(("+", "-"), "sum"),
}
_FREE = {"{", "}", r"\left", r"\right", r"\,", r"\ ", r"\!", r"\;"}
_OPENING = {"", "(", "[", "{", ",", r"\{"}

_ARGUMENT = r"(?:\{[^{}]*\}|[0-9A-Za-z])"
_ROOT = re.compile(rf"\\sqrt\s*+(?:\[([^\[\]]*)\])?\s*+({_ARGUMENT})")
_POWER = re.compile(rf"\^\s*+{_ARGUMENT}")
_QUOTIENTS = (
    re.compile(rf"\\[dt]?frac\s*+({_ARGUMENT})\s*+({_ARGUMENT})"),
    re.compile(r"(?<![\w\\.])([\w\\.]++)\s*+/\s*+([\w\\.]++)", re.ASCII),
)
_DISGUISES = (
    re.compile(r"[\d.]\s+[\d.]"),
    re.compile(r"\d\s*+\\[dt]?frac"),
    # Braces that are no argument: 2{6}, 1/{2}.
    re.compile(r"(?:^|[\d/*+(\[{,-])\s*+\{"),
)
"""Products and sums that no operator shows, mixed numbers among them."""


def is_worked_out(answer: str, gold: str) -> bool:
    """Whether `answer` is an answer of the kind that `gold` is. Equal texts always are."""
    if _squeezed(answer) == _squeezed(gold):
        return True
    if not (_quotients_are_reduced(answer) and _roots_are_reduced(answer)):
        return False
    if NUMBER.fullmatch(answer):
        return True
    if any(disguise.search(answer) and not disguise.search(gold) for disguise in _DISGUISES):
        return False
    return Counter(_parts(answer)) <= Counter(_parts(gold))


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _parts(text: str) -> Iterator[str]:
    """What is counted: everything but numbers, blanks, braces, and signs that stand before a first term."""
    before = ""
    for token in _TOKEN.findall(text):
        if token.isspace():
            continue
        is_number = token.lstrip(".")[:1].isdecimal()
        is_sign = token in ("+", "-") and before in _OPENING
        if not (is_number or is_sign or token in _FREE):
            yield _KINDS.get(token, token)
        before = token


def _quotients_are_reduced(text: str) -> bool:
    """As far as integers tell: `14/4`, `\\frac{6x}{4}` and `3/1` are not. Sums are left alone."""
    bare = _POWER.sub("", _ROOT.sub("r", text))
    for pattern in _QUOTIENTS:
        for over, under in pattern.findall(bare):
            over, under = over.strip("{} "), under.strip("{} ")
            if any(sign in part[1:] for part in (over, under) for sign in "+-"):
                continue
            if "." in over + under or (under.lstrip("+-").isdecimal() and int(under) < 2):
                return False
            factors = (math.prod(map(int, re.findall(r"\d+", part, re.ASCII))) for part in (over, under))
            if math.gcd(*factors) > 1:
                return False
    return True


def _roots_are_reduced(text: str) -> bool:
    for degree, argument in _ROOT.findall(text):
        radicand = argument.strip("{} ")
        if not (radicand.isascii() and radicand.isdecimal()):
            continue
        power = int(degree) if degree.isascii() and degree.isdecimal() else 2
        if not 2 <= int(radicand) <= MAX_RADICAND or not 2 <= power <= 100:
            return False
        base = 2
        while base**power <= int(radicand):
            if int(radicand) % base**power == 0:
                return False
            base += 1
    return True
