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

READ_LENGTH = 20_000
"""Characters of a reply that are looked at, from its end."""
MOST_ANSWER = 2_000
"""Characters of an answer; a longer one is cut there, and is wrong."""
LETTERS = string.ascii_uppercase

_MARK = re.compile(
    r"####|\b(?:final[ \t]+)?answer(?:[ \t]+is)?[ \t]*:|\bthe[ \t]+(?:final[ \t]+)?answer[ \t]+is\b:?",
    re.IGNORECASE,
)
_INTEGER = re.compile(INTEGER, re.ASCII)
_DECIMAL = re.compile(r"(?<![\w.,/^])[-−]?\d{1,15}(?:,\d{3})*(?:\.\d{1,15})?(?![\w/^]|[.,]\d)", re.ASCII)
_LETTER = re.compile(r"(?<![A-Za-z'’])[(\[]?([A-Z])[)\].:]?(?![A-Za-z'’])")
_WORDS = re.compile(r"\\(?:text|textbf|mathrm|mbox)\{([^{}]*)\}")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_MATHEMATICS = re.compile(r"[\\^_{}$]|\d[ \t]*[-+*/=][ \t]*[\w(]|\d[A-Za-z]\b")


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
    said = last_boxed(text)
    if said is None:
        marks = list(_MARK.finditer(text))
        said = _first_line(text[marks[-1].end() :]) if marks else None
    return _of_form(text if said is None else said, form, marked=said is not None)[:MOST_ANSWER]


def judged(gold: Sequence[str], answer: str, form: Form) -> Verdict:
    """Whether an answer is one of the gold ones. Raises GraderError if the grader itself fails."""
    if form == "choice":
        right = answer in gold
        return Verdict(correct=right, reason=_reason(right, answer))
    if form == "text":
        right = bool(answer) and normalised(answer) in {normalised(one) for one in gold}
        return Verdict(correct=right, reason=_reason(right, answer))
    verdict = Verdict(correct=False, reason="form")
    for one in gold:
        verdict = grade(unwrap(one), answer, form=form)
        if verdict.correct:
            break
    return verdict


def normalised(text: str) -> str:
    """A short text as SQuAD compares it (Rajpurkar et al. 2016): no case, punctuation, articles, blanks."""
    lower = unicodedata.normalize("NFKC", text).casefold()
    bare = "".join(c for c in lower if unicodedata.category(c)[0] not in "PC")
    return " ".join(_ARTICLES.sub(" ", bare).split())


def last_boxed(text: str) -> str | None:
    """What the last `\\boxed{}` or `\\fbox{}` that is closed holds; None without one."""
    end = len(text)
    while True:
        at = max(text.rfind("\\boxed", 0, end), text.rfind("\\fbox", 0, end))
        if at < 0:
            return None
        opening = text.find("{", at, at + 8)
        if opening >= 0 and (closing := _closing(text, opening)) is not None:
            return text[opening + 1 : closing]
        end = at


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


def _of_form(said: str, form: Form, *, marked: bool) -> str:
    if form == "integer":
        bare = unwrap(said.strip())
        if _INTEGER.fullmatch(bare):
            return bare
        found = [*integers(said[-MOST_ANSWER:])]
        return found[-1] if found else ""
    if form == "number":
        bare = unwrap(said.strip())
        if NUMBER.fullmatch(bare):
            return bare
        decimals = _DECIMAL.findall(said[-MOST_ANSWER:])
        return decimals[-1] if decimals else ""
    if form == "choice":
        letters = _LETTER.findall(said[-MOST_ANSWER:])
        return (letters[0] if marked else letters[-1]) if letters else ""
    if marked:
        return _bare(said)
    return _bare(_last_line(said))


def _bare(said: str) -> str:
    """Without the ornaments of an answer; words that LaTeX sets as words are just them."""
    bare = unwrap(said)
    words = _WORDS.fullmatch(bare)
    return words[1].strip() if words else bare


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _reason(right: bool, answer: str) -> str:
    return "equal" if right else "different" if answer else "form"
