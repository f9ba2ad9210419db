"""Test that equations are typeset as they are printed."""

import functools
import inspect
import math
import re
from typing import Any

import matplotlib.mathtext
import numpy as np
import pytest

from keras_rmsprop import RMSprop
from keras_rmsprop._settings import _latex
from keras_rmsprop._settings._describe import Block, equations
from yardsticks.variants import option_variants, rule_variants


@functools.cache
def all_lines() -> list[tuple[str, str]]:
    """The different equations of all variants, each with its explanation."""
    defaults = {p.name: p.default for p in inspect.signature(RMSprop).parameters.values()}
    found: dict[tuple[str, str], None] = {}
    for variant in [*rule_variants(), *option_variants()]:
        for rate in (0.02, 1e-5):
            for block in equations(defaults | variant.arguments, rate, constrained=True):
                found |= dict.fromkeys(block.lines)
    return list(found)


@pytest.mark.parametrize(
    ("equation", "sides"),
    [
        ("s = 0.9 * s + 0.1 * g**2", ("s", r"0.9\,s + 0.1\,g^{2}")),
        ("s = 0.9 * (s + 0.1 * d**2)", ("s", r"0.9\,(s + 0.1\,d^{2})")),
        ("r = sqrt(s + 1e-07)", ("r", r"\sqrt{s + 10^{-7}}")),
        ("r = sqrt(s) + 2.5e-08", ("r", r"\sqrt{s} + 2.5 \cdot 10^{-8}")),
        ("k = (1 - 0.9) / (1 - 0.9**t)", ("k", r"\frac{1 - 0.9}{1 - 0.9^{t}}")),
        ("w = w - lr * 0.004 * w", ("w", r"w - \eta \cdot 0.004\,w")),
        ("w = w - lr * (0.9 * b + u)", ("w", r"w - \eta\,(0.9\,b + u)")),
        ("u = lr * g / r", ("u", r"\frac{\eta\,g}{r}")),
        ("lr = schedule(calls)", (r"\eta", r"\operatorname{schedule}(\mathrm{calls})")),
        (
            "g = g * min(1, 2 / norm(all_g))",
            (
                "g",
                r"g\,\min\left(1, \frac{2}{\left\Vert g_{\mathrm{all}} \right\Vert}\right)",
            ),
        ),
        (
            "w = a if t % 10 == 0 else w",
            (
                "w",
                r"a\;\mathrm{if}\;t\;\mathrm{mod}\;10 = 0,\;w\;\mathrm{otherwise}",
            ),
        ),
        ("g = my_rule(g, w)", ("g", r"\operatorname{my\_rule}(g, w)")),
        ("x = a - (b - c)", ("x", "a - (b - c)")),
        ("x = (a / b)**2 * -c", ("x", r"\left(\frac{a}{b}\right)^{2}\,(-c)")),
        ("x = 1e-05**t", ("x", r"(10^{-5})^{t}")),
    ],
)
def test_an_equation_is_typeset(equation: str, sides: tuple[str, str]) -> None:
    assert _latex.sides(equation) == sides


def test_a_name_that_is_not_python_is_set_as_text() -> None:
    left, right = _latex.sides("g = <lambda>(g, w)")
    assert (left, right) == ("g", r" < \text{lambda} > \text{(g, w)}")


EQUATIONS = sorted({equation for equation, _ in all_lines() if equation})


def python_of(latex: str) -> str:
    """Translate an expression back, by rules that know nothing of Python's syntax trees."""
    words = {
        r"\left\Vert ": "norm(", r" \right\Vert": ")", r"\left(": "(", r"\right)": ")",
        r"\,": "*", r"\cdot": "*", r"\eta": "lr", r"\min": "min", r"\_": "_",
        r"\;\mathrm{mod}\;": "%", " = ": "==",
    }  # fmt: skip
    for word, python in words.items():
        latex = latex.replace(word, python)
    choice = r"(.*)\\;\\mathrm\{if\}\\;(.*),\\;(.*)\\;\\mathrm\{otherwise\}"
    latex = re.sub(choice, r"(\1) if (\2) else (\3)", latex)
    for _ in range(9):
        # From the innermost braces outwards.
        latex = re.sub(r"\\(?:mathrm|operatorname)\{([^{}]*)\}", r"\1", latex)
        latex = latex.replace("g_{all}", "all_g")
        latex = re.sub(r"\\sqrt\{([^{}]*)\}", r"sqrt(\1)", latex)
        latex = re.sub(r"\^\{([^{}]*)\}", r"**(\1)", latex)
        latex = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))", latex)
    return latex


@pytest.mark.parametrize("equation", EQUATIONS)
def test_what_is_typeset_has_the_value_of_what_is_printed(
    equation: str, rng: np.random.Generator
) -> None:
    names = ["s", "m", "b", "a", "g", "w", "d", "k", "r", "u", "lr", "total", "all_g"]
    known: dict[str, Any] = {name: rng.uniform(0.5, 2.0) for name in names}
    known |= {"sqrt": math.sqrt, "norm": abs, "min": min, "clip": np.clip, "constraint": abs}
    right = equation.partition(" = ")[2]
    for t in (1, 3, 4):
        known |= {"t": t, "calls": t - 1}
        want, got = eval(right, {}, known), eval(python_of(_latex.sides(equation)[1]), {}, known)
        assert got == pytest.approx(want, rel=1e-13, abs=0.0)


def test_the_translation_back_notices_lost_parentheses() -> None:
    known = {"k": 0.25, "s": 2.0, "d": 3.0}
    kept, lost = (eval(python_of(x), {}, known) for x in (r"(1 - k)\,(s + k)", r"1 - k\,s + k"))
    assert kept == 0.75 * 2.25 != lost


@pytest.mark.parametrize("line", all_lines(), ids=lambda line: line[0] or line[1][:30])
def test_every_line_is_rendered(line: tuple[str, str]) -> None:
    equation, meaning = line
    parser = matplotlib.mathtext.MathTextParser("path")
    parts = [r" \leftarrow ".join(_latex.sides(equation))] * bool(equation)
    for latex in [*parts, *([_latex.words(meaning)] * bool(meaning))]:
        assert parser.parse(f"${latex}$").width > 0.0


def test_characters_that_are_special_in_latex_are_escaped() -> None:
    assert _latex.words("Decay(a_b={'x': 50}) & 1 < 2") == (
        r"\text{Decay(a}\_\text{b=}\{\text{'x': 50}\}\text{) }\&\text{ 1 } < \text{ 2}"
    )


def test_lines_are_aligned_at_the_arrow() -> None:
    blocks = [
        Block("At the start:", (("s = 0", "an average"), ("", "only words"))),
        Block("", (("u = g / r", ""),)),
    ]
    assert _latex.aligned(blocks).splitlines() == [
        r"\begin{aligned}",
        r"& \rlap{\text{At the start:}} \\",
        r"s &\leftarrow 0 && \text{an average} \\",
        r"& \rlap{\text{only words}} \\",
        r"u &\leftarrow \frac{g}{r}",
        r"\end{aligned}",
    ]
