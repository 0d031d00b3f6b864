"""Files of several functions, one of them `f`; each row is a family of tasks."""

from trieline.envs.code.program import Program, program_row

_SMALL = range(2, 6)

FILES: tuple[Program, ...] = (
    program_row(
        "sum_of_even_squares",
        "xs:ints",
        "the sum of the squares of the even numbers in xs",
        """
def is_even(x):
    return x % 2 == 0

def square(x):
    return x * x

def f(xs):
    return sum((square(x) for x in xs if is_even(x)))
""",
    ),
    program_row(
        "*sum_of_odd_doubles",
        "xs:ints",
        "the sum of the odd numbers in xs, each times two",
        """
def is_odd(x):
    return x % 2 == 1

def double(x):
    return x + x

def f(xs):
    return sum((double(x) for x in xs if is_odd(x)))
""",
    ),
    program_row(
        "scaled_range",
        "xs:filled",
        "{k} times the difference of the largest and the smallest number in xs",
        """
def spread(xs):
    return max(xs) - min(xs)

def scale(x, factor):
    return x * factor

def f(xs):
    return scale(spread(xs), {k})
""",
        k=_SMALL,
    ),
    program_row(
        "*shifted_middle",
        "xs:filled",
        "the sum of the largest and the smallest number in xs, plus {k}",
        """
def ends(xs):
    return min(xs) + max(xs)

def shift(x, step):
    return x + step

def f(xs):
    return shift(ends(xs), {k})
""",
        k=_SMALL,
    ),
    program_row(
        "initials",
        "s:text",
        "the first letters of the words of s in upper case, in one string",
        """
def first(word):
    return word[0]

def join(letters):
    return ''.join(letters)

def f(s):
    return join([first(word).upper() for word in s.split()])
""",
    ),
    program_row(
        "*last_letters",
        "s:text",
        "the last letters of the words of s in lower case, in one string",
        """
def last(word):
    return word[-1]

def join(letters):
    return ''.join(letters)

def f(s):
    return join([last(word).lower() for word in s.split()])
""",
    ),
    program_row(
        "count_long_words",
        "s:text",
        "how many words of s have at least {k} letters",
        """
def is_long(word, least):
    return len(word) >= least

def words(s):
    return s.split()

def f(s):
    count = 0
    for word in words(s):
        if is_long(word, {k}):
            count += 1
    return count
""",
        k=_SMALL,
    ),
    program_row(
        "*count_short_words",
        "s:text",
        "how many words of s have fewer than {k} letters",
        """
def is_short(word, limit):
    return len(word) < limit

def words(s):
    return s.split()

def f(s):
    count = 0
    for word in words(s):
        if is_short(word, {k}):
            count += 1
    return count
""",
        k=_SMALL,
    ),
    program_row(
        "mirrored",
        "s:word",
        "s followed by s reversed",
        """
def backwards(s):
    return s[::-1]

def f(s):
    return s + backwards(s)
""",
    ),
    program_row(
        "hours",
        "x:natural",
        "x minutes as a list of whole hours and the minutes that remain",
        """
def whole(x):
    return x // 60

def rest(x):
    return x % 60

def f(x):
    return [whole(x), rest(x)]
""",
    ),
    program_row(
        "*weeks",
        "x:natural",
        "x days as a list of whole weeks and the days that remain",
        """
def whole(x):
    return x // 7

def rest(x):
    return x % 7

def f(x):
    return [whole(x), rest(x)]
""",
    ),
)
