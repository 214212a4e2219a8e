"""Python literals in text: the only expressions that fairseq may evaluate in the options of a checkpoint.

fairseq keeps some options as text and passes them to `eval`, such as `[(512, 3)] * 4` for the layers of a convolutional
model. `evaluate` gives the same value for numbers, strings, True, False, None, lists, tuples, dicts, and for +, - and *
of them. Everything else is refused: names, calls, attributes, subscripts and comprehensions. The sizes of text, numbers
and results are limited, so that no expression takes much time or memory.
"""

import ast
import operator

from fairseq_kd.core.errors import KDError

MAX_LENGTH = 4096  # characters of an expression
MAX_BITS = 64  # bits of an integer
MAX_ITEMS = 10_000  # values in the result; a nested value counts each time it appears, a string by its characters

TYPES = (bool, int, float, complex, str, type(None))
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
SIGNS = {ast.UAdd: operator.pos, ast.USub: operator.neg}
NUMBERS = (int, float, complex)


class NotALiteral(KDError):
    """Text that is not a literal, or whose value is too large."""


def evaluate(text):
    """The value of an expression of literals.

    Raises NotALiteral when `text` is not a string (bytes and code objects are not), not such an expression, or too
    large.
    """
    if type(text) is not str:
        raise _refusal(text, f"it is {_article(type(text).__name__)}, not text")
    if len(text) > MAX_LENGTH:
        raise _refusal(text, f"it has {len(text):,} characters, more than {MAX_LENGTH:,}")
    try:
        value, _ = _value(ast.parse(text.strip(), mode="eval").body)
    except NotALiteral:
        raise
    except (SyntaxError, ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise _refusal(text, f"it cannot be read ({type(error).__name__})") from error
    except _Refused as error:
        raise _refusal(text, str(error)) from error
    return value


class _Refused(Exception):
    """Why a part of an expression is refused."""


def _value(node) -> tuple[object, int]:
    """(value of a node, number of values in it). Raises _Refused."""
    match node:
        case ast.Constant(value=value) if type(value) in TYPES:
            return _bounded(value, max(1, len(value)) if isinstance(value, str) else 1)
        case ast.List(elts=nodes) | ast.Tuple(elts=nodes):
            values, size = _all(nodes)
            return (values if isinstance(node, ast.List) else tuple(values)), size
        case ast.Dict(keys=keys, values=nodes):
            names, size = _all(keys)
            values, more = _all(nodes)
            return _bounded(dict(zip(names, values, strict=True)), size + more)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in SIGNS:
            value, _ = _value(operand)
            _check_number(value)
            return _bounded(SIGNS[type(op)](value), 1)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return _combined(type(op), *_value(left), *_value(right))
        case _:
            raise _Refused(f"{type(node).__name__} is not part of a literal")


def _all(nodes) -> tuple[list, int]:
    values, size = [], 1
    for node in nodes:
        value, more = _value(node)
        values.append(value)
        size += more
        _check_size(size)
    return values, size


def _combined(kind, left, left_size: int, right, right_size: int) -> tuple[object, int]:
    """The sum, difference or product of two values. Its size is computed and checked before the value is."""
    if isinstance(left, NUMBERS) and isinstance(right, NUMBERS):
        return _bounded(OPERATORS[kind](left, right), 1)
    if kind is ast.Add:
        size = left_size + right_size
    elif kind is ast.Mult and (type(left) is int or type(right) is int):
        size = max(1, left * right_size if type(left) is int else right * left_size)
    else:
        raise _Refused(f"{type(left).__name__} and {type(right).__name__} cannot be combined so")
    _check_size(size)
    return OPERATORS[kind](left, right), size


def _check_number(value) -> None:
    if not isinstance(value, NUMBERS):
        raise _Refused(f"a sign before {_article(type(value).__name__)}")


def _bounded(value, size: int) -> tuple[object, int]:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise _Refused(f"an integer of {value.bit_length():,} bits is larger than {MAX_BITS}")
    _check_size(size)
    return value, size


def _check_size(size: int) -> None:
    if size > MAX_ITEMS:
        raise _Refused(f"its value has {size:,} parts, more than {MAX_ITEMS:,}")


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _refusal(text, reason: str) -> NotALiteral:
    shown = f" {text[:80]!r}" if isinstance(text, (str, bytes)) else ""
    return NotALiteral(
        f"fairseq would evaluate the option value{shown}, and only literals are evaluated (numbers, strings, lists, "
        f"tuples, dicts, + - * of them): {reason}"
    )
