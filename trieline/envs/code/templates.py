"""The functions that PythonFunction asks for, by level. Each row is a family of tasks: its constants vary.

A whole row is held out or not, so that the test split asks for functions that were never asked for in
training. `gold` is the one place where the right answer stands; expected values come from it, on this side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Constant = int | str
Choices = range | tuple[str, ...]

LETTERS = tuple("aeiost")
WORDS = ("sun", "tree", "river", "stone", "cat", "blue")


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """`Write f(params) that returns {description}`."""

    name: str
    level: int
    params: Mapping[str, str]
    """Name and kind of each parameter, in order; the kinds are those of `examples`."""
    description: str
    """May hold {constants}."""
    gold: str
    """A Python expression over the parameters; may hold {constants}."""
    constants: Mapping[str, Choices] = field(default_factory=dict)
    held_out: bool = False


def _row(level: int, name: str, params: str, description: str, gold: str, **constants: Choices) -> Template:
    """`params` is 'name:kind name:kind'; a name that starts with '*' is held out."""
    kinds = dict(param.split(":") for param in params.split())
    held_out, name = name.startswith("*"), name.lstrip("*")
    return Template(
        name=name,
        level=level,
        params=kinds,
        description=description,
        gold=gold,
        constants=constants,
        held_out=held_out,
    )


_SMALL = range(2, 10)
_ANY = range(1, 20)

_ONE_STEP = (
    _row(0, "plus_constant", "x:int", "x plus {k}", "x + {k}", k=_ANY),
    _row(0, "minus_constant", "x:int", "x minus {k}", "x - {k}", k=_ANY),
    _row(0, "times_constant", "x:int", "x times {k}", "x * {k}", k=_SMALL),
    _row(0, "floor_constant", "x:int", "x divided by {k}, rounded down", "x // {k}", k=_SMALL),
    _row(0, "remainder", "x:natural", "the remainder of x divided by {k}", "x % {k}", k=_SMALL),
    _row(0, "square", "x:int", "the square of x", "x * x"),
    _row(0, "*cube", "x:int", "the cube of x", "x ** 3"),
    _row(0, "absolute", "x:int", "the absolute value of x", "abs(x)"),
    _row(0, "is_even", "x:int", "True if x is even, else False", "x % 2 == 0"),
    _row(0, "*is_odd", "x:int", "True if x is odd, else False", "x % 2 == 1"),
    _row(0, "greater_than", "x:int", "True if x is greater than {k}, else False", "x > {k}", k=_ANY),
    _row(0, "*less_than", "x:int", "True if x is less than {k}, else False", "x < {k}", k=_ANY),
    _row(0, "equals", "x:int", "True if x equals {k}, else False", "x == {k}", k=_ANY),
    _row(0, "product", "a:int b:int", "a times b", "a * b"),
    _row(0, "difference", "a:int b:int", "a minus b", "a - b"),
    _row(0, "*sum_of_two", "a:int b:int", "the sum of a and b", "a + b"),
    _row(0, "larger", "a:int b:int", "the larger of a and b", "max(a, b)"),
    _row(0, "*smaller", "a:int b:int", "the smaller of a and b", "min(a, b)"),
    _row(0, "upper", "s:text", "s in upper case", "s.upper()"),
    _row(0, "*lower", "s:text", "s in lower case", "s.lower()"),
    _row(0, "text_length", "s:text", "the length of s", "len(s)"),
    _row(0, "*list_length", "xs:ints", "the number of elements in xs", "len(xs)"),
    _row(0, "reverse_text", "s:text", "s reversed", "s[::-1]"),
    _row(0, "*reverse_list", "xs:ints", "the list xs reversed", "xs[::-1]"),
    _row(0, "sum_list", "xs:ints", "the sum of the list xs", "sum(xs)"),
    _row(0, "max_list", "xs:ints", "the largest number in xs", "max(xs)"),
    _row(0, "*min_list", "xs:ints", "the smallest number in xs", "min(xs)"),
    _row(0, "sort_list", "xs:ints", "the list xs sorted", "sorted(xs)"),
    _row(0, "first_element", "xs:ints", "the first element of xs", "xs[0]"),
    _row(0, "*last_element", "xs:ints", "the last element of xs", "xs[-1]"),
    _row(0, "first_letter", "s:word", "the first character of s", "s[0]"),
    _row(0, "*last_letter", "s:word", "the last character of s", "s[-1]"),
    _row(0, "repeat", "s:word", "s repeated {k} times", "s * {k}", k=range(2, 6)),
    _row(0, "append_word", "s:word", "s followed by '{w}'", "s + '{w}'", w=WORDS),
    _row(0, "*prepend_word", "s:word", "'{w}' followed by s", "'{w}' + s", w=WORDS),
)

_TWO_STEPS = (
    _row(1, "linear", "x:int", "{k} times x, plus {m}", "{k} * x + {m}", k=_SMALL, m=_ANY),
    _row(1, "*from_constant", "x:int", "{k} minus x", "{k} - x", k=_ANY),
    _row(1, "divisible", "x:int", "True if x is divisible by {k}, else False", "x % {k} == 0", k=_SMALL),
    _row(
        1,
        "in_range",
        "x:int",
        "True if x is between {k} and {m} inclusive, else False",
        "{k} <= x <= {m}",
        k=range(1, 9),
        m=range(9, 20),
    ),
    _row(1, "squares_of_two", "a:int b:int", "the square of a plus the square of b", "a * a + b * b"),
    _row(1, "*square_of_sum", "a:int b:int", "the square of the sum of a and b", "(a + b) ** 2"),
    _row(1, "*sum_of_three", "a:int b:int c:int", "the sum of a, b and c", "a + b + c"),
    _row(
        1, "has_letter", "s:word", "True if s contains the letter '{c}', else False", "'{c}' in s", c=LETTERS
    ),
    _row(
        1,
        "starts_with",
        "s:word",
        "True if s starts with '{c}', else False",
        "s.startswith('{c}')",
        c=LETTERS,
    ),
    _row(1, "*ends_with", "s:word", "True if s ends with '{c}', else False", "s.endswith('{c}')", c=LETTERS),
    _row(1, "count_letter", "s:text", "how often the letter '{c}' occurs in s", "s.count('{c}')", c=LETTERS),
    _row(
        1,
        "replace_letter",
        "s:text",
        "s with every '{c}' replaced by '{d}'",
        "s.replace('{c}', '{d}')",
        c=LETTERS,
        d=("x", "z", "-"),
    ),
    _row(1, "first_letters", "s:text", "the first {k} characters of s", "s[:{k}]", k=range(2, 5)),
    _row(1, "*last_letters", "s:text", "the last {k} characters of s", "s[-{k}:]", k=range(2, 5)),
    _row(
        1,
        "scale_list",
        "xs:ints",
        "a list of the elements of xs times {k}",
        "[x * {k} for x in xs]",
        k=_SMALL,
    ),
    _row(
        1, "*shift_list", "xs:ints", "a list of the elements of xs plus {k}", "[x + {k} for x in xs]", k=_ANY
    ),
    _row(1, "squares", "xs:ints", "a list of the squares of the numbers in xs", "[x * x for x in xs]"),
    _row(1, "evens", "xs:ints", "a list of the even numbers in xs", "[x for x in xs if x % 2 == 0]"),
    _row(1, "*odds", "xs:ints", "a list of the odd numbers in xs", "[x for x in xs if x % 2 == 1]"),
    _row(
        1,
        "above",
        "xs:ints",
        "a list of the numbers in xs greater than {k}",
        "[x for x in xs if x > {k}]",
        k=_ANY,
    ),
    _row(
        1,
        "*below",
        "xs:ints",
        "a list of the numbers in xs less than {k}",
        "[x for x in xs if x < {k}]",
        k=_ANY,
    ),
    _row(1, "word_count", "s:text", "the number of words in s", "len(s.split())"),
    _row(1, "join_dashes", "words:words", "the strings in words joined with '-'", "'-'.join(words)"),
    _row(1, "*join_commas", "words:words", "the strings in words joined with ','", "','.join(words)"),
    _row(1, "palindrome", "s:mirror", "True if s reads the same backwards, else False", "s == s[::-1]"),
    _row(1, "spread", "xs:ints", "the largest number in xs minus the smallest", "max(xs) - min(xs)"),
    _row(1, "without_first", "xs:filled", "xs without its first element", "xs[1:]"),
    _row(1, "*without_last", "xs:filled", "xs without its last element", "xs[:-1]"),
    _row(
        1,
        "longer_than",
        "s:text",
        "True if s has more than {k} characters, else False",
        "len(s) > {k}",
        k=range(4, 9),
    ),
    _row(1, "average", "xs:ints", "the average of the numbers in xs", "sum(xs) / len(xs)"),
)

_THREE_STEPS = (
    _row(2, "digit_sum", "x:natural", "the sum of the decimal digits of x", "sum(int(d) for d in str(x))"),
    _row(2, "*digit_count", "x:natural", "the number of decimal digits of x", "len(str(x))"),
    _row(2, "count_evens", "xs:ints", "how many numbers in xs are even", "sum(x % 2 == 0 for x in xs)"),
    _row(
        2,
        "*count_above",
        "xs:ints",
        "how many numbers in xs are greater than {k}",
        "sum(x > {k} for x in xs)",
        k=_ANY,
    ),
    _row(2, "count_vowels", "s:text", "the number of vowels in s", "sum(c in 'aeiouAEIOU' for c in s)"),
    _row(
        2, "sum_of_evens", "xs:ints", "the sum of the even numbers in xs", "sum(x for x in xs if x % 2 == 0)"
    ),
    _row(
        2,
        "*sum_of_squares",
        "xs:ints",
        "the sum of the squares of the numbers in xs",
        "sum(x * x for x in xs)",
    ),
    _row(2, "second_largest", "xs:distinct", "the second largest number in xs", "sorted(xs)[-2]"),
    _row(2, "sum_up_to", "n:natural", "the sum of the integers from 1 to n", "sum(range(1, n + 1))"),
    _row(
        2,
        "*multiples",
        "n:natural",
        "a list of the first n multiples of {k}, from {k} on",
        "[{k} * i for i in range(1, n + 1)]",
        k=_SMALL,
    ),
    _row(2, "longest_word", "words:words", "the longest string in words", "max(words, key=len)"),
    _row(
        2, "*word_lengths", "s:text", "a list of the lengths of the words in s", "[len(w) for w in s.split()]"
    ),
    _row(2, "unique", "xs:repeats", "a sorted list of the distinct numbers in xs", "sorted(set(xs))"),
    _row(
        2,
        "*fizz",
        "x:natural",
        "'fizz' if x is divisible by {k}, else x",
        "'fizz' if x % {k} == 0 else x",
        k=_SMALL,
    ),
    _row(2, "rotate", "s:word", "s with its first character moved to the end", "s[1:] + s[0]"),
    _row(
        2,
        "*add_lists",
        "a:ints b:ints",
        "a list of the sums of the pairs in zip(a, b)",
        "[x + y for x, y in zip(a, b)]",
    ),
    _row(2, "every_other", "xs:ints", "every second element of xs, from the first on", "xs[::2]"),
    _row(2, "*index_of_max", "xs:distinct", "the index of the largest number in xs", "xs.index(max(xs))"),
    _row(2, "clamp", "x:int", "x, but at least 0 and at most {k}", "max(0, min(x, {k}))", k=_ANY),
    _row(
        2,
        "*reverse_words",
        "s:text",
        "the words of s in reverse order, joined with spaces",
        "' '.join(s.split()[::-1])",
    ),
    _row(2, "sign", "x:int", "1 if x is positive, -1 if x is negative, 0 if x is 0", "(x > 0) - (x < 0)"),
)

TEMPLATES: Mapping[str, Template] = {row.name: row for row in (*_ONE_STEP, *_TWO_STEPS, *_THREE_STEPS)}
LEVELS = 1 + max(row.level for row in TEMPLATES.values())
