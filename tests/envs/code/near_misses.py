"""Programs that are almost right: the gold expression with one thing changed, and slips made by hand."""

import ast
import copy
from collections.abc import Iterator

NAMES = {
    "max": ("min",),
    "min": ("max",),
    "sum": ("len", "max"),
    "len": ("sum",),
    "sorted": ("list",),
    "set": ("list",),
    "abs": ("int",),
}
METHODS = {
    "upper": ("lower", "capitalize", "title", "swapcase"),
    "lower": ("upper", "capitalize", "swapcase"),
    "startswith": ("endswith", "__contains__", "__eq__"),
    "endswith": ("startswith", "__contains__", "__eq__"),
    "count": ("find", "__contains__"),
    "index": ("count",),
}
OPERATORS: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add, ast.Mult),
    ast.Mult: (ast.Add, ast.Sub),
    ast.FloorDiv: (ast.Div, ast.Mod),
    ast.Mod: (ast.FloorDiv,),
    ast.Div: (ast.FloorDiv, ast.Mult),
    ast.Pow: (ast.Mult,),
}
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Gt: (ast.GtE, ast.Lt, ast.NotEq),
    ast.Lt: (ast.LtE, ast.Gt, ast.NotEq),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Eq: (ast.NotEq, ast.GtE, ast.LtE),
    ast.In: (ast.NotIn, ast.Eq),
}
SLIPS = {
    "floor_constant": ("int(x / {k})", "round(x / {k})", "-(-x // {k})"),
    "remainder": ("x - {k}", "x % {k} + 1"),
    "absolute": ("-x", "x", "max(x, 0)"),
    "is_even": ("x % 2", "x % 2 == 0 and x > 0", "x % 2 == 0 and x != 0", "x % 4 == 0"),
    "is_odd": ("x % 2", "x % 2 == 1 and x > 0", "x % 2 != 1"),
    "larger": ("a", "b", "a if a > b else a", "max(a, b, 0)", "max(abs(a), abs(b))"),
    "smaller": ("a", "b", "min(a, b, 0)"),
    "text_length": ("len(s.strip())", "len(s.split())", "len(set(s))", "len(s.replace(' ', ''))"),
    "list_length": ("len(set(xs))", "xs[-1]", "len(xs) or 1", "max(len(xs), 1)"),
    "reverse_text": ("s", "s[::-1].strip()", "s[:0:-1]", "s[::-1].lower()"),
    "reverse_list": ("xs", "sorted(xs)[::-1]", "xs[:0:-1]"),
    "sum_list": ("sum(set(xs))", "sum(x for x in xs if x > 0)", "sum(map(abs, xs))"),
    "max_list": ("max([0, *xs])", "xs[0]", "xs[-1]", "max(xs, key=abs)", "sorted(xs)[0]"),
    "min_list": ("min([0, *xs])", "xs[0]", "xs[-1]", "min(xs, key=abs)"),
    "sort_list": ("sorted(set(xs))", "xs", "sorted(xs)[::-1]", "sorted(xs, key=abs)"),
    "upper": ("s", "s.upper().strip()"),
    "lower": ("s", "s.lower().strip()", "s.casefold().strip()"),
    "repeat": ("' '.join([s] * {k})", "s + '{k}'"),
    "append_word": ("s + ' {w}'", "'{w}' + s"),
    "prepend_word": ("'{w} ' + s", "s + '{w}'"),
    "divisible": ("{k} % x == 0", "x % {k} == 0 and x > 0", "x // {k} == 0"),
    "in_range": ("{k} <= x", "x <= {m}", "{k} <= x or x <= {m}", "x in range({k}, {m})", "{k} < x < {m}"),
    "has_letter": ("'{c}' in s.lower()", "s.startswith('{c}')", "s.endswith('{c}')", "s == '{c}'"),
    "starts_with": ("s[0] == '{c}'", "s.lower().startswith('{c}')", "'{c}' in s"),
    "ends_with": ("s[-1] == '{c}'", "s.lower().endswith('{c}')", "'{c}' in s"),
    "count_letter": ("s.lower().count('{c}')", "int('{c}' in s)", "s.count('{c}') or 1"),
    "replace_letter": ("s.replace('{c}', '{d}', 1)", "s.lower().replace('{c}', '{d}')"),
    "evens": ("[x for x in xs if x % 2 == 0 and x > 0]", "[x for x in xs if x % 2 == 0 and x]"),
    "odds": ("[x for x in xs if x % 2 == 1 and x > 0]", "[x for x in set(xs) if x % 2 == 1]"),
    "word_count": ("len(s.split(' '))", "s.count(' ') + 1", "len(set(s.split()))", "len(s)"),
    "join_dashes": ("''.join(words)", "' - '.join(words)", "'-'.join(words) + '-'"),
    "join_commas": ("''.join(words)", "', '.join(words)", "','.join(words) + ','"),
    "palindrome": ("s[:1] == s[-1:]", "len(s) % 2 == 0", "len(s) % 2 == 1", "len(s) < 4", "s[0] == s[-1]"),
    "spread": ("max(xs)", "xs[-1] - xs[0]", "max(xs) - min([0, *xs])", "max([0, *xs]) - min(xs)"),
    "average": ("sum(xs) / (len(xs) + 1)", "sum(set(xs)) / len(set(xs))", "sorted(xs)[len(xs) // 2]"),
    "digit_sum": ("x % 10", "x // 10 + x % 10", "x % 9", "(x - 1) % 9 + 1"),
    "digit_count": ("len(str(x)) - (x == 0)", "len(set(str(x)))", "1 + (x > 9)", "1 + (x > 10) + (x > 99)"),
    "count_evens": ("len(set(x for x in xs if x % 2 == 0))", "sum(x % 2 == 0 and x > 0 for x in xs)"),
    "count_above": ("len(set(x for x in xs if x > {k}))", "sum(x for x in xs if x > {k})"),
    "count_vowels": ("sum(c in 'aeiou' for c in s)", "sum(c in 'aeiouyAEIOUY' for c in s)", "len(set(s))"),
    "sum_of_evens": ("sum(set(x for x in xs if x % 2 == 0))", "sum(x for x in xs if x % 2 == 0 and x > 0)"),
    "sum_of_squares": ("sum(xs) ** 2", "sum(x * x for x in set(xs))"),
    "second_largest": ("sorted(xs)[1]", "xs[1]", "sorted(xs)[-1]", "xs[-2]", "sorted(xs)[::-1][-2]"),
    "sum_up_to": ("n * (n - 1) // 2", "sum(range(n))", "n * (n + 1) / 3", "n * n // 2 + 1"),
    "longest_word": ("max(words)", "words[0]", "words[-1]", "len(max(words, key=len))"),
    "word_lengths": ("[len(w) for w in s.split(' ')]", "[len(s)]", "len(s.split())"),
    "unique": ("xs", "sorted(xs)", "sorted(set(xs))[::-1]", "list(dict.fromkeys(xs))"),
    "fizz": ("'fizz'", "x", "'fizz' if x % {k} == 0 and x else x", "'fizz' if x % {k} else x"),
    "rotate": ("s[-1] + s[:-1]", "s[1:] + s[-1]", "s[::-1]", "s[1:]"),
    "add_lists": ("[x + y for x in a for y in b]", "a + b", "[x + x for x, y in zip(a, b)]"),
    "every_other": ("xs[1::2]", "xs[::2][1:]", "xs[:2]", "[x for x in xs if x % 2 == 0]"),
    "index_of_max": ("xs.index(max(xs)) + 1", "max(xs)", "len(xs) - 1", "xs.index(min(xs))"),
    "clamp": ("min(x, {k})", "max(0, x)", "max(0, min(x, {k} - 1))", "max(1, min(x, {k}))"),
    "reverse_words": ("s[::-1]", "' '.join(s.split(' ')[::-1])", "' '.join(sorted(s.split())[::-1])"),
    "sign": ("1 if x > 0 else -1", "1 if x >= 0 else -1", "x", "-1 if x < 0 else 0", "int(x != 0)"),
}  # fmt: skip
"""By template; the constants of a task are filled in."""


EQUIVALENT = {
    "is_even": "x % 2 <= 0",
    "is_odd": "x % 2 >= 1",
    "divisible": "x % {k} <= 0",
    "evens": "[x for x in xs if x % 2 <= 0]",
    "odds": "[x for x in xs if x % 2 >= 1]",
    "count_evens": "sum(x % 2 <= 0 for x in xs)",
    "sum_of_evens": "sum(x for x in xs if x % 2 <= 0)",
    "fizz": "'fizz' if x % {k} <= 0 else x",
    "sum_up_to": "sum(range(0, n + 1))",
}
"""Changes by which the value stays the same."""


def near_misses(gold: str) -> Iterator[str]:
    """`gold` with one node of its syntax tree changed, in every way known here."""
    for place, node in enumerate(ast.walk(ast.parse(gold, mode="eval"))):
        for change in range(len(_alternatives(node))):
            tree = ast.parse(gold, mode="eval")
            target = [*ast.walk(tree)][place]
            _Replace(target, _alternatives(target)[change]).visit(tree)
            yield ast.unparse(ast.fix_missing_locations(tree))


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def _alternatives(node: ast.AST) -> list[ast.AST]:
    match node:
        case ast.Compare():
            return _comparisons(node)
        case ast.BoolOp(op=op):
            return [_with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And()), *node.values]
        case ast.BinOp(left=left, op=op, right=right):
            others = [_with(node, op=other()) for other in OPERATORS[type(op)]]
            return [*others, left, right, *([] if _commutes(op) else [_with(node, left=right, right=left)])]
        case ast.Constant(value=int(value)):
            return [ast.Constant(value + 1), ast.Constant(value - 1)]
        case ast.Constant(value=str(text)):
            return [ast.Constant(text[1:]), ast.Constant(text + "?")]
        case ast.Name(id=name):
            return [ast.Name(other) for other in NAMES.get(name, ())]
        case ast.Attribute(attr=name):
            return [_with(node, attr=other) for other in METHODS.get(name, ())]
        case ast.Call(keywords=[_, *_]):
            return [_with(node, keywords=[])]
        case ast.Call(func=ast.Name(), args=[argument]):
            return [argument]
        case ast.Slice(lower=lower, upper=upper, step=step):
            parts = {"lower": lower, "upper": upper, "step": step}
            return [_with(node, **{name: None}) for name, part in parts.items() if part is not None]
        case ast.comprehension(ifs=[condition]):
            return [_with(node, ifs=[]), _with(node, ifs=[ast.UnaryOp(ast.Not(), condition)])]
        case ast.IfExp(body=body, orelse=orelse):
            return [_with(node, body=orelse, orelse=body), body, orelse]
        case ast.UnaryOp(operand=operand):
            return [operand]
    return []


def _comparisons(node: ast.Compare) -> list[ast.AST]:
    changed: list[ast.AST] = []
    for i, op in enumerate(node.ops):
        for other in COMPARISONS[type(op)]:
            changed.append(_with(node, ops=[*node.ops[:i], other(), *node.ops[i + 1 :]]))
    if len(node.ops) == 2:
        low, middle, high = node.left, *node.comparators
        first, second = ast.Compare(low, [node.ops[0]], [middle]), ast.Compare(middle, [node.ops[1]], [high])
        changed += [first, second, ast.BoolOp(ast.Or(), [first, second])]
    return changed


def _commutes(op: ast.operator) -> bool:
    return isinstance(op, (ast.Add, ast.Mult))


def _with(node: ast.AST, **fields: object) -> ast.AST:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other
