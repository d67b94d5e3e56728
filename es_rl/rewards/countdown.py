"""The numbers game: reach a target from given numbers by + − × ÷, each number used once. Pure, with bounded cost.

Answers have their own parser, so nothing that a model writes is ever run. It accepts no powers, no names and no
numbers beyond `MOST`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

MOST_CHARACTERS = 200  # of an expression
MOST = 10**9  # limit of the numerator and denominator of any intermediate result
TOKEN = re.compile(r"\s*(\d{1,10}|[-+*/()×÷−])")
OPERATORS = {"×": "*", "÷": "/", "−": "-"}


def evaluate(expression: str) -> tuple[Fraction, list[int]]:
    """Return the value of an expression of non-negative integers, + − × ÷ and brackets, and its numbers in order.

    Raises ValueError for anything else.
    """
    tokens = _tokens(expression)
    numbers: list[int] = []
    value, rest = _sum(tokens, numbers)
    if rest:
        raise ValueError(f"{rest[0]} is left over")
    return value, numbers


def solves(expression: str, numbers: Sequence[int], target: int) -> bool:
    """Tell whether an expression uses exactly these numbers and equals the target."""
    try:
        value, used = evaluate(expression)
    except ValueError:
        return False
    return sorted(used) == sorted(numbers) and value == target


def _tokens(expression: str) -> list[str]:
    if len(expression) > MOST_CHARACTERS:
        raise ValueError(f"longer than {MOST_CHARACTERS} characters")
    tokens, at, text = [], 0, expression.rstrip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"{text[at]} is neither a number nor one of + - * / ( )")
        tokens.append(OPERATORS.get(match[1], match[1]))
        at = match.end()
    return tokens


def _sum(tokens: list[str], numbers: list[int]) -> tuple[Fraction, list[str]]:
    value, rest = _product(tokens, numbers)
    while rest and rest[0] in "+-":
        sign = 1 if rest[0] == "+" else -1
        term, rest = _product(rest[1:], numbers)
        value = _bounded(value + sign * term)
    return value, rest


def _product(tokens: list[str], numbers: list[int]) -> tuple[Fraction, list[str]]:
    value, rest = _atom(tokens, numbers)
    while rest and rest[0] in "*/":
        times = rest[0] == "*"
        factor, rest = _atom(rest[1:], numbers)
        if not times and factor == 0:
            raise ValueError("a division by zero")
        value = _bounded(value * factor if times else value / factor)
    return value, rest


def _atom(tokens: list[str], numbers: list[int]) -> tuple[Fraction, list[str]]:
    """Read a number or an expression in brackets. `MOST_CHARACTERS` limits the depth of recursion."""
    if not tokens:
        raise ValueError("it ends too early")
    if tokens[0] == "(":
        value, rest = _sum(tokens[1:], numbers)
        if not rest or rest[0] != ")":
            raise ValueError("a bracket is not closed")
        return value, rest[1:]
    if not tokens[0].isdecimal():
        raise ValueError(f"{tokens[0]} stands where a number is wanted")
    numbers.append(int(tokens[0]))
    return _bounded(Fraction(numbers[-1])), tokens[1:]


def _bounded(value: Fraction) -> Fraction:
    if max(abs(value.numerator), value.denominator) > MOST:
        raise ValueError(f"a number beyond {MOST}")
    return value
