"""Functions of several lines, most with a loop; each row is a family of tasks."""

from trieline.envs.code.program import Program, program_row
from trieline.envs.code.templates import LETTERS

_ANY = range(1, 20)

LOOPS: tuple[Program, ...] = (
    program_row(
        "total_above",
        "xs:ints",
        "the sum of the numbers in xs greater than {k}",
        """
def f(xs):
    total = 0
    for x in xs:
        if x > {k}:
            total += x
    return total
""",
        k=_ANY,
    ),
    program_row(
        "count_equal",
        "xs:ints",
        "how many numbers in xs equal {k}",
        """
def f(xs):
    count = 0
    for x in xs:
        if x == {k}:
            count += 1
    return count
""",
        k=_ANY,
    ),
    program_row(
        "*count_below",
        "xs:ints",
        "how many numbers in xs are less than {k}",
        """
def f(xs):
    count = 0
    for x in xs:
        if x < {k}:
            count += 1
    return count
""",
        k=_ANY,
    ),
    program_row(
        "largest",
        "xs:filled",
        "the largest number in xs",
        """
def f(xs):
    best = xs[0]
    for x in xs[1:]:
        if x > best:
            best = x
    return best
""",
    ),
    program_row(
        "*smallest",
        "xs:filled",
        "the smallest number in xs",
        """
def f(xs):
    best = xs[0]
    for x in xs[1:]:
        if x < best:
            best = x
    return best
""",
    ),
    program_row(
        "factorial",
        "n:natural",
        "the product of the integers from 1 to n modulo 1000",
        """
def f(n):
    result = 1
    for i in range(1, n + 1):
        result = result * i % 1000
    return result
""",
    ),
    program_row(
        "*squares_up_to",
        "n:natural",
        "the sum of the squares of the integers from 1 to n",
        """
def f(n):
    total = 0
    for i in range(1, n + 1):
        total += i * i
    return total
""",
    ),
    program_row(
        "running_sums",
        "xs:ints",
        "a list of the sums of the first 1, 2, ... elements of xs",
        """
def f(xs):
    total = 0
    sums = []
    for x in xs:
        total += x
        sums.append(total)
    return sums
""",
    ),
    program_row(
        "*differences",
        "xs:ints",
        "a list of each element of xs, from the second on, minus the one before it",
        """
def f(xs):
    steps = []
    for i in range(1, len(xs)):
        steps.append(xs[i] - xs[i - 1])
    return steps
""",
    ),
    program_row(
        "grade",
        "x:int",
        "'low' if x is less than 0, 'high' if x is greater than {k}, else 'middle'",
        """
def f(x):
    if x < 0:
        return 'low'
    if x > {k}:
        return 'high'
    return 'middle'
""",
        k=_ANY,
    ),
    program_row(
        "*clip",
        "x:int",
        "x, but at least -{k} and at most {k}",
        """
def f(x):
    if x < -{k}:
        return -{k}
    if x > {k}:
        return {k}
    return x
""",
        k=_ANY,
    ),
    program_row(
        "without_letter",
        "s:text",
        "s without the letter '{c}'",
        """
def f(s):
    kept = ''
    for letter in s:
        if letter != '{c}':
            kept = kept + letter
    return kept
""",
        c=LETTERS,
    ),
    program_row(
        "*only_letter",
        "s:text",
        "all the letters '{c}' of s in one string",
        """
def f(s):
    kept = ''
    for letter in s:
        if letter == '{c}':
            kept = kept + letter
    return kept
""",
        c=LETTERS,
    ),
    program_row(
        "longest",
        "words:words",
        "the length of the longest string in words, 0 if there is none",
        """
def f(words):
    best = 0
    for word in words:
        if len(word) > best:
            best = len(word)
    return best
""",
    ),
    program_row(
        "pairs_in_order",
        "xs:ints",
        "True if no element of xs is less than the one before it, else False",
        """
def f(xs):
    for i in range(1, len(xs)):
        if xs[i] < xs[i - 1]:
            return False
    return True
""",
    ),
    program_row(
        "*every_above",
        "xs:ints",
        "True if all numbers in xs are greater than {k}, else False",
        """
def f(xs):
    for x in xs:
        if x <= {k}:
            return False
    return True
""",
        k=_ANY,
    ),
)
