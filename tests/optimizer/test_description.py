"""Test the description of an optimizer, in all its formats."""

import re
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop
from keras_rmsprop._settings import _latex
from keras_rmsprop._settings._describe import describe, equations
from tests.settings.test_describe import VARIANTS, configuration
from tests.tools.models import WithPath
from yardsticks.agreement import rmsprop
from yardsticks.variants import Variant


def described(optimizer: Any, **options: Any) -> str:
    """What `describe` prints."""
    printed: list[str] = []
    optimizer.describe(print_fn=printed.append, **options)
    (text,) = printed
    return text


def with_groups() -> RMSprop:
    """A built optimizer with groups and an exclusion."""
    groups = {r"back|(?:b/.*)": {"momentum": 0.5, "transform": "centralize"}}
    optimizer = rmsprop(momentum=0.9, weight_decay=0.01, groups=groups, name="mine")
    optimizer.exclude_from_weight_decay(var_names=["scale"])
    optimizer.build([WithPath("b/kernel"), WithPath("h/scale")])
    return optimizer


@pytest.mark.parametrize("variant", list(VARIANTS.values())[::7], ids=lambda variant: variant.id)
def test_the_text_begins_with_the_equations_and_goes_on_with_three_lines(variant: Variant) -> None:
    optimizer = rmsprop(name="rmsprop", **variant.arguments)
    rate = float(optimizer.learning_rate.numpy().item())
    equations_alone = describe(configuration(**variant.arguments), np.float32(rate))
    text = described(optimizer)
    head, _, rest = text.partition("\n\n")
    assert head == equations_alone
    assert [line.partition(": ")[0] for line in rest.splitlines()] == [
        "Convention",
        "State",
        "Execution",
    ]


def test_the_table_of_groups_comes_before_the_three_lines() -> None:
    head, _, rest = described(with_groups()).partition("\n\n")
    assert "Settings of single variables:" in head
    assert rest.startswith("Convention: nearest is keras.optimizers.RMSprop(")
    assert "except for groups." in rest


def test_latex_is_the_equations_alone() -> None:
    optimizer = rmsprop(learning_rate=0.25, momentum=0.9)
    blocks = equations(optimizer._settings(), 0.25)
    assert described(optimizer, format="latex") == _latex.aligned(blocks)
    assert described(optimizer, format="latex").splitlines() == [
        r"\begin{aligned}",
        r"& \rlap{\text{At the start:}} \\",
        r"s &\leftarrow 0 && \text{square average: running mean of squared gradients} \\",
        r"b &\leftarrow 0 && \text{momentum buffer} \\",
        r"& \rlap{\text{In step t = 1, 2, ..., with gradient g of the weight w:}} \\",
        r"\eta &\leftarrow 0.25 && \text{learning rate} \\",
        r"s &\leftarrow 0.9\,s + 0.1\,g^{2} \\",
        r"r &\leftarrow \sqrt{s + 10^{-7}} \\",
        r"u &\leftarrow \frac{\eta\,g}{r} \\",
        r"b &\leftarrow 0.9\,b + u \\",
        r"w &\leftarrow w - b",
        r"\end{aligned}",
    ]


def test_markdown_has_the_equations_and_the_tables() -> None:
    optimizer = with_groups()
    text = described(optimizer, format="markdown")
    assert text.startswith("**mine**: RMSprop\n\n$$\n\\begin{aligned}\n")
    assert described(optimizer, format="latex") in text
    tables = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert [table.splitlines() for table in tables] == [
        [
            "| variables | group | momentum | transform | weight_decay |",
            "| --- | --- | --- | --- | --- |",
            r"| b/kernel | `'back\|(?:b/.*)'` | 0.5 | centralize | 0.01 |",
            "| h/scale |  | 0.9 | None | excluded |",
        ],
        [
            "| state | arrays | dtype | memory |",
            "| --- | --- | --- | --- |",
            "| `square_average` | 2 | float32 | 8 bytes |",
            "| momentum | 2 | float32 | 8 bytes |",
        ],
    ]
    for word in (
        "**Convention:** nearest is `keras.optimizers.RMSprop(",
        "**State:** 16 bytes in ",
    ):
        assert word in text
    assert "**Execution:** with the " in text


def test_markdown_before_the_build_has_no_table_of_state() -> None:
    text = described(rmsprop(), format="markdown")
    assert "**State:** none before the build; then 4 bytes" in text
    assert "\n|" not in text


def test_an_unknown_format_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'text', 'markdown', 'latex', received .*'html'"):
        rmsprop().describe(format="html")


EVIL = [
    "<script>alert(1)",
    "a`b|<i>c",
    "``<b>`",
    "`",
    "# no\n# heading\n\n<img src=x>",
    "\u2028<hr>\r<hr>",
    "![x](y) **z** $w$",
    "a|b",
]


@pytest.mark.parametrize("text", EVIL, ids=ascii)
def test_markdown_shows_names_and_patterns_as_they_are(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    pattern = re.escape(text)
    optimizer = rmsprop(name=text, groups={pattern: {"momentum": 0.5}})
    page = described(optimizer, format="markdown")
    tokens = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).parse(page)
    inline = [part for token in tokens for part in token.children or ()]
    kinds = {token.type for token in [*tokens, *inline]}
    assert not {kind for kind in kinds if "html" in kind or "heading" in kind or "image" in kind}
    codes = [token.content for token in inline if token.type == "code_inline"]
    assert "".join(c if c.isprintable() else " " for c in text) in codes
    assert any(repr(pattern) in code for code in codes)
    # Nothing of it is outside.
    assert "<" not in "".join(token.content for token in inline if token.type == "text")


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[2Jb", "a\u202eb"], ids=ascii)
def test_names_do_not_act_on_a_terminal(text: str) -> None:
    page = described(rmsprop(name=text))
    assert page.startswith(f"{text.encode('unicode_escape').decode()}: RMSprop\n")
    assert all(line.isprintable() for line in page.split("\n"))
    assert all(
        line.isprintable() for line in described(rmsprop(name=text), format="markdown").split("\n")
    )


def test_a_notebook_shows_markdown() -> None:
    optimizer = rmsprop(name="mine")
    assert optimizer._repr_markdown_() == described(optimizer, format="markdown")


def test_a_subclass_is_named_as_a_difference() -> None:
    class Mine(RMSprop):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            super().update_step(gradient, variable, learning_rate)

    assert described(Mine()).count("except for the `update_step` of Mine.") == 1


# A notebook must show whatever a cell returns.


class WithRaisingProperty(RMSprop):
    """A subclass that computes a setting, and cannot yet."""

    fails = False

    @property
    def rho(self) -> float:
        """Raise once asked to."""
        if self.fails:
            raise RuntimeError("not yet")
        return 0.5

    @rho.setter
    def rho(self, value: float) -> None:
        pass


def test_a_notebook_gets_words_where_a_subclass_cannot_be_described() -> None:
    optimizer = WithRaisingProperty()
    assert "0.5\\,s" in optimizer._repr_markdown_()
    optimizer.fails = True
    expected = "`WithRaisingProperty`, which cannot be described here (RuntimeError)"
    assert optimizer._repr_markdown_() == expected
    with pytest.raises(RuntimeError, match="not yet"):
        optimizer.describe()


def test_a_notebook_gets_words_for_an_optimizer_that_is_half_made() -> None:
    half_made = RMSprop.__new__(RMSprop)
    assert half_made._repr_markdown_().startswith("`RMSprop`, which cannot be described here (")


def test_describing_reads_only_the_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = rmsprop(learning_rate=0.5, momentum=0.9, centered=True, use_ema=True)
    weight = keras.Variable(np.ones(3, "float32"))
    optimizer.apply([ops.ones(3)], [weight])
    read: list[Any] = []
    convert = ops.convert_to_numpy

    def counted(x: Any) -> Any:
        read.append(tuple(x.shape))
        return convert(x)

    def refused(variable: Any, *_: Any) -> Any:
        raise AssertionError(f"{variable.path} was read")

    monkeypatch.setattr(ops, "convert_to_numpy", counted)
    monkeypatch.setattr(keras.Variable, "__float__", refused)
    monkeypatch.setattr(keras.Variable, "numpy", refused)
    assert "0.5" in optimizer._repr_markdown_()
    assert read == [()]
