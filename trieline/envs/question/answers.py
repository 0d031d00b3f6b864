"""The answer within a reply, and whether it is the gold one.

What counts as the answer is what a reader would take for it: what stands in the last `\\boxed{}`, else behind
the last `####`, `Answer:` or `the answer is`, else the last number, or the last line. Values are compared by
`trieline.envs.math.grading`, whose guard on the form stands before any comparison by value, so a question
that is said again, worked out or not, is no answer to it.
"""

import re
import string
import unicodedata
from collections.abc import Sequence
from typing import Literal

from trieline.envs.integers import integers
from trieline.envs.math.form import INTEGER, NUMBER
from trieline.envs.math.grading import Verdict, grade, unwrap

Form = Literal["integer", "number", "expression", "text", "choice"]
Place = Literal["boxed", "marked", "free"]
"""Where an answer stands: in a box, behind a mark, anywhere in a reply."""

READ_LENGTH = 20_000
"""Characters of a reply that are looked at, from its end."""
MOST_ANSWER = 2_000
"""Characters of an answer; a longer one is cut there, and is wrong."""
LETTERS = string.ascii_uppercase

_MARK = re.compile(
    r"(?:####|\b(?:final[ \t]+)?answer(?:[ \t]+is)?[ \t]*:"
    r"|\bthe[ \t]+(?:final[ \t]+)?answer[ \t]+is\b:?)[* \t]*",
    re.IGNORECASE,
)
_INTEGER = re.compile(INTEGER, re.ASCII)
_LITERAL = (
    r"(?<![\w.,/^{}\\])[-−]?(?:\\frac\{\d{1,15}\}\{\d{1,15}\}"
    r"|\d{1,15}(?:,\d{3})*(?:\.\d{1,15})?(?:/\d{1,15})?)(?![\w^/{}]|[.,]\d)"
)
_NUMBERS = re.compile(_LITERAL, re.ASCII)
_FORMULA = re.compile(rf"{_LITERAL}(?:\s*(?:[-+*/=×·]|\\times|\\cdot)\s*\$?(?:{_LITERAL}|\w+))*", re.ASCII)
_NO_NUMBER_ALONE = re.compile(r"[\\^_{}*+=<>!]|\d\s*-|-\s*[{(]")
"""In a box, what makes a formula of a number."""
_SPACING = re.compile(r"\\left|\\right|\\[!,;: ]|\\quad|\\displaystyle")
_UNITS = re.compile(r"\\(?:text|mathrm|mbox|textbf)\s*\{[^{}]*\}|\^\s*\{?\\circ\}?|°|\\%|%|\\?\$|€|£")
_SHORT_FRACTION = re.compile(r"\\[dt]?frac\s*(\d|\{\d+\})\s*(\d|\{\d+\})", re.ASCII)
_LETTER = re.compile(r"(?<![A-Za-z'’])[(\[]?([A-Z])[)\].:]?(?![A-Za-z'’])")
_WORDS = re.compile(r"\\(?:text|textbf|mathrm|mbox)\{([^{}]*)\}")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_MATHEMATICS = re.compile(r"[\\^_{}$]|\d[ \t]*[-+*/=][ \t]*[\w(]|\d[A-Za-z]\b")
MOST_BOXES = 50
"""That are never closed, after which none is looked for."""


def form_of(gold: str) -> Form:
    """What kind of an answer a gold one is, by its look. Integers are numbers: 5.00 is 5."""
    bare = unwrap(gold)
    if NUMBER.fullmatch(bare):
        return "number"
    return "expression" if _MATHEMATICS.search(bare) else "text"


def gold_answer(text: str) -> str:
    """The answer within a worked solution of a data set: boxed, or behind `####`; else all of it."""
    boxed = last_boxed(text)
    if boxed is not None:
        return _bare(boxed)
    _, mark, after = text.rpartition("####")
    return _bare(after if mark else text)


def read_answer(reply: str, form: Form) -> str:
    """What a reply says the answer is; empty without one."""
    text = reply[-READ_LENGTH:]
    said: str | None = last_boxed(text)
    if said is not None:
        return _of_form(said, form, "boxed")[:MOST_ANSWER]
    marks = list(_MARK.finditer(text))
    if marks:
        return _of_form(_first_line(text[marks[-1].end() :]), form, "marked")[:MOST_ANSWER]
    return _of_form(text, form, "free")[:MOST_ANSWER]


def judged(gold: Sequence[str], answer: str, form: Form) -> Verdict:
    """Whether an answer is one of the gold ones. Raises GraderError if the grader itself fails."""
    if form == "choice":
        right = answer in gold
        return Verdict(correct=right, reason=_reason(right, answer))
    if form == "text":
        right = any(_same_text(one, answer) for one in gold)
        return Verdict(correct=right, reason=_reason(right, answer))
    verdict = Verdict(correct=False, reason="form")
    for one in gold:
        verdict = grade(unwrap(one), answer, form=form)
        if verdict.correct:
            break
    return verdict


def normalised(text: str) -> str:
    """A short text as SQuAD compares it (Rajpurkar et al. 2016): no case, punctuation, articles, blanks."""
    return " ".join(_ARTICLES.sub(" ", _folded(text)).split())


def _folded(text: str) -> str:
    """Without case, punctuation and the number of blanks."""
    lower = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c for c in lower if unicodedata.category(c)[0] not in "PC").split())


def _same_text(gold: str, answer: str) -> bool:
    """As SQuAD has it; a gold answer that is nothing but articles and signs is compared with them."""
    if wanted := normalised(gold):
        return wanted == normalised(answer)
    if wanted := _folded(gold):
        return wanted == _folded(answer)
    return bool(gold) and gold.strip() == answer.strip()


def last_boxed(text: str) -> str | None:
    """What the last `\\boxed{}` or `\\fbox{}` that is closed holds; None without one."""
    end = len(text)
    for _ in range(MOST_BOXES):
        at = max(text.rfind("\\boxed", 0, end), text.rfind("\\fbox", 0, end))
        if at < 0:
            return None
        opening = text.find("{", at, at + 8)
        if opening >= 0 and (closing := _closing(text, opening)) is not None:
            return text[opening + 1 : closing]
        end = at
    return None


def _closing(text: str, opening: int) -> int | None:
    depth = 0
    for at in range(opening, min(len(text), opening + MOST_ANSWER)):
        if text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return at
    return None


def _of_form(said: str, form: Form, place: Place) -> str:
    if form in ("integer", "number"):
        return _number(said, form, place)
    if form == "choice":
        letters = _LETTER.findall(said[-MOST_ANSWER:])
        return (letters[-1] if place == "free" else letters[0]) if letters else ""
    return _bare(said if place != "free" else _last_line(said))


def _number(said: str, form: Form, place: Place) -> str:
    """A number that stands alone, with or without its unit. What is worked out no further is none."""
    whole = _INTEGER if form == "integer" else NUMBER
    bare = unwrap(_plain(unwrap(said if place != "free" else said.strip())))
    if whole.fullmatch(bare):
        return bare
    if place == "boxed":
        found = _NUMBERS.findall(bare) if not _NO_NUMBER_ALONE.search(bare) else []
        return found[0] if len(found) == 1 else bare
    if place == "marked":
        return _value_of(_FORMULA.search(bare))
    if form == "integer":
        every = [*integers(said[-MOST_ANSWER:])]
        return every[-1] if every else ""
    numbers = _NUMBERS.findall(_plain(said[-MOST_ANSWER:]))
    return numbers[-1] if numbers else ""


def _value_of(formula: re.Match[str] | None) -> str:
    """Of a number, itself; of `5 + 7 = 12`, what it comes to; of `5 + 7`, all of it, which is no number."""
    if formula is None:
        return ""
    return formula[0].rpartition("=")[2].strip(" \t$") or formula[0]


def _plain(text: str) -> str:
    """LaTeX's spacing, units and signs of money gone, short fractions written out."""
    text = _UNITS.sub("", _SPACING.sub("", text)).replace("\\(", "").replace("\\)", "")
    return _SHORT_FRACTION.sub(lambda m: f"\\frac{{{m[1].strip('{}')}}}{{{m[2].strip('{}')}}}", text).strip()


def _bare(said: str) -> str:
    """Without the ornaments of an answer; words that LaTeX sets as words are just them."""
    bare = unwrap(said.strip("* \t\n"))
    words = _WORDS.fullmatch(bare)
    return words[1].strip() if words else bare


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _reason(right: bool, answer: str) -> str:
    return "equal" if right else "different" if answer else "form"
