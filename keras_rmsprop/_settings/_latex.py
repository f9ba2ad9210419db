r"""Typeset the equations of `_describe` in LaTeX.

Each equation is Python, and is translated from its syntax tree, so that what is typeset is what the
text says. Only commands that LaTeX (with amsmath), MathJax, KaTeX and, for single equations,
matplotlib have in common are used.
"""

import ast
import re
from collections.abc import Sequence
from typing import NamedTuple

from keras_rmsprop._settings._describe import Block

_SYMBOLS = {"lr": r"\eta", "all_g": r"g_{\mathrm{all}}"}

# How tightly an expression is bound; what is bound less tightly than its place needs parentheses.
_CHOICE, _COMPARISON, _SUM, _PRODUCT, _POWER, _ATOM = range(6)

_COMPARISONS = {ast.Eq: "=", ast.Lt: "<", ast.LtE: r"\leq", ast.Gt: ">", ast.GtE: r"\geq"}


class _Typeset(NamedTuple):
    latex: str
    bound: int


def aligned(blocks: Sequence[Block]) -> str:
    """Return the equations with their headings and explanations, as an `aligned` environment."""
    rows = []
    for heading, lines in blocks:
        if heading:
            rows.append(_across(heading))
        for equation, meaning in lines:
            if not equation:
                rows.append(_across(meaning))
                continue
            left, right = sides(equation)
            explained = f" && {words(meaning)}" if meaning else ""
            rows.append(rf"{left} &\leftarrow {right}{explained}")
    return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"


def sides(equation: str) -> tuple[str, str]:
    r"""Return both sides of an assignment in LaTeX.

    >>> sides("s = 0.9 * s + 0.1 * g**2")
    ('s', '0.9\\,s + 0.1\\,g^{2}')
    """
    left, _, right = equation.partition(" = ")
    return _typeset(left), _typeset(right)


def words(text: str) -> str:
    """Return text for use between equations."""
    pieces = re.split(rf"([{re.escape(''.join(_SPECIAL))}])", " ".join(text.split()))
    return "".join(_SPECIAL.get(piece, rf"\text{{{piece}}}") for piece in pieces if piece)


# The characters that `\text` cannot hold everywhere; "<" and ">" are those of HTML.
_SPECIAL = {
    **{character: rf"\{character}" for character in "_%&#${}"},
    "^": r"\wedge ",
    "~": r"\sim ",
    "\\": r"\backslash ",
    "<": " < ",
    ">": " > ",
}


def _across(text: str) -> str:
    """Return a row of text that does not widen a column."""
    return rf"& \rlap{{{words(text)}}}"


def _typeset(expression: str) -> str:
    try:
        return _of(ast.parse(expression, mode="eval").body).latex
    except (SyntaxError, _UnknownError):
        # Only a user's function has a name that is not Python's, such as "<lambda>".
        return words(expression)


class _UnknownError(Exception):
    """There is no translation of an expression."""


def _of(node: ast.expr) -> _Typeset:
    match node:
        case ast.Constant(value=int() | float() as number):
            return _number(number)
        case ast.Name(id=name):
            return _Typeset(_SYMBOLS.get(name) or _name(name), _ATOM)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _Typeset(f"-{_within(operand, _PRODUCT)}", _SUM)
        case ast.BinOp():
            return _operation(node)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _call(name, arguments)
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            sign = _COMPARISONS.get(type(operator))
            if sign is not None:
                return _Typeset(f"{_within(left, _SUM)} {sign} {_within(right, _SUM)}", _COMPARISON)
        case ast.IfExp(test=test, body=body, orelse=otherwise):
            choice = (
                rf"{_within(body, _SUM)}\;\mathrm{{if}}\;{_within(test, _COMPARISON)},\;"
                rf"{_within(otherwise, _SUM)}\;\mathrm{{otherwise}}"
            )
            return _Typeset(choice, _CHOICE)
    raise _UnknownError


def _operation(node: ast.BinOp) -> _Typeset:
    match node.op:
        case ast.Add() | ast.Sub():
            sign = "+" if isinstance(node.op, ast.Add) else "-"
            both = f"{_within(node.left, _SUM)} {sign} {_within(node.right, _PRODUCT)}"
            return _Typeset(both, _SUM)
        case ast.Mult():
            left, right = _within(node.left, _PRODUCT), _within(node.right, _POWER)
            # Numbers side by side would read as one.
            times = r" \cdot " if right[0].isdigit() else r"\,"
            return _Typeset(f"{left}{times}{right}", _PRODUCT)
        case ast.Div():
            return _Typeset(rf"\frac{{{_of(node.left).latex}}}{{{_of(node.right).latex}}}", _POWER)
        case ast.Mod():
            left, right = _within(node.left, _PRODUCT), _within(node.right, _POWER)
            return _Typeset(rf"{left}\;\mathrm{{mod}}\;{right}", _PRODUCT)
        case ast.Pow():
            base, exponent = _within(node.left, _ATOM), _of(node.right).latex
            return _Typeset(f"{base}^{{{exponent}}}", _POWER)
    raise _UnknownError


def _call(name: str, arguments: Sequence[ast.expr]) -> _Typeset:
    inner = ", ".join(_of(argument).latex for argument in arguments)
    match name:
        case "sqrt":
            return _Typeset(rf"\sqrt{{{inner}}}", _ATOM)
        case "norm":
            return _Typeset(rf"\left\Vert {inner} \right\Vert", _ATOM)
        case "min":
            return _Typeset(rf"\min{_parenthesized(inner)}", _ATOM)
    return _Typeset(rf"\operatorname{{{_escaped(name)}}}{_parenthesized(inner)}", _ATOM)


def _within(node: ast.expr, least: int) -> str:
    """Typeset an operand, in parentheses if it is bound less tightly than `least`."""
    latex, bound = _of(node)
    return latex if bound >= least else _parenthesized(latex)


def _parenthesized(latex: str) -> str:
    return rf"\left({latex}\right)" if r"\frac" in latex else f"({latex})"


def _number(number: float) -> _Typeset:
    digits, _, power = f"{number:.15g}".partition("e")
    if not power:
        return _Typeset(digits, _ATOM)
    ten = f"10^{{{int(power)}}}"
    return _Typeset(ten, _POWER) if digits == "1" else _Typeset(rf"{digits} \cdot {ten}", _PRODUCT)


def _name(name: str) -> str:
    return name if len(name) == 1 else rf"\mathrm{{{_escaped(name)}}}"


def _escaped(name: str) -> str:
    return name.replace("_", r"\_")
