"""Sums, differences, products and quotients of whole numbers: found in a reply, read exactly, bounded.

sum     = product (("+" | "-") product)*
product = factor (("*" | "/") factor)*
factor  = number | "(" sum ")"
"""

import re
from fractions import Fraction

READ_LENGTH = 2_000
"""Characters of a reply that are looked at, from its end."""
MAX_TOKENS = 64
MAX_DIGITS = 6

_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")"})
_TIMES = re.compile(r"(?<=[0-9)])[ \t]?[xX][ \t]?(?=[0-9(])|\\times|\\cdot")
_LABEL = re.compile(r"(?m)^[ \t]{0,8}[0-9]{1,3}\.[ \t]")
"""Of a list."""
# Taken in one go: with a letter, a decimal point or a power in it it is read as no expression.
_RUN = re.compile(r"[0-9A-Za-z_.^+*/()\- \t]+")
_WORDS = re.compile(r"(?:(?<=[ \t])|^)[A-Za-z_.]+(?=[ \t]|$)")
_SIGNED = re.compile(r"[0-9)][ \t]*[-+*/]")
_EXPRESSION = re.compile(r"[0-9(][0-9+*/()\- \t]*")
_TOKEN = re.compile(r"[0-9]+|[-+*/()]")


class ExpressionError(ValueError):
    """What is wrong with an expression, as a sentence for its author."""


def last_expression(reply: str) -> str | None:
    """The last expression of a reply that has a sign between numbers, without blanks; None without one.

    In `3 + 5 = 8` that is `3+5`. A word next to it is not part of it.
    """
    text = _TIMES.sub("*", _LABEL.sub("", reply[-READ_LENGTH:].translate(_SIGNS)))
    found = None
    for run in _RUN.findall(text):
        for part in _WORDS.split(run):
            bare = part.strip(" \t.+-*/")
            if _EXPRESSION.fullmatch(bare) and _SIGNED.search(bare):
                found = "".join(bare.split())
    return found


def value_and_numbers(expression: str) -> tuple[Fraction, list[int]]:
    """The exact value, and the numbers used, each as often as it is there.

    Raises:
        ExpressionError: it is none, too long, or divides by zero.
    """
    tokens = _TOKEN.findall(expression)
    if "".join(tokens) != "".join(expression.split()):
        msg = "That is no expression of whole numbers, + - * / and brackets."
        raise ExpressionError(msg)
    if len(tokens) > MAX_TOKENS or max(map(len, tokens), default=0) > MAX_DIGITS:
        msg = "That expression is too long."
        raise ExpressionError(msg)
    reader = _Reader(tokens)
    value = reader.sum()
    if reader.place != len(tokens):
        raise reader.fault()
    return value, [int(token) for token in tokens if token.isdecimal()]


class _Reader:
    """One step of recursion a bracket: `MAX_TOKENS` bounds it."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.place = 0

    def fault(self) -> ExpressionError:
        rest = "".join(self.tokens[self.place :]) or "its end"
        return ExpressionError(f"The expression can't be read at {rest}.")

    def taken(self, choice: str) -> str | None:
        """The next token, if it is one of `choice`."""
        if self.place < len(self.tokens) and self.tokens[self.place] in choice:
            self.place += 1
            return self.tokens[self.place - 1]
        return None

    def sum(self) -> Fraction:
        value = self.product()
        while sign := self.taken("+-"):
            right = self.product()
            value = value + right if sign == "+" else value - right
        return value

    def product(self) -> Fraction:
        value = self.factor()
        while sign := self.taken("*/"):
            right = self.factor()
            if sign == "/" and not right:
                msg = "The expression divides by zero."
                raise ExpressionError(msg)
            value = value * right if sign == "*" else value / right
        return value

    def factor(self) -> Fraction:
        if self.taken("("):
            value = self.sum()
            if not self.taken(")"):
                raise self.fault()
            return value
        if self.place < len(self.tokens) and self.tokens[self.place].isdecimal():
            self.place += 1
            return Fraction(int(self.tokens[self.place - 1]))
        raise self.fault()
