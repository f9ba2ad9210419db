"""A report in words: what the steps do, then what is wrong."""

import html
import math
import re
import textwrap
from collections.abc import Iterable, Iterator

from keras_rmsprop._diagnostics import _ailments
from keras_rmsprop._diagnostics._ailments import Finding
from keras_rmsprop._diagnostics._format import several
from keras_rmsprop._diagnostics._report import Report
from keras_rmsprop._diagnostics._symptoms import (
    CLIPS,
    USUAL_RATIO,
    number,
    percent,
    sampled,
)

WIDTH = 88

# With fewer samples, a few more are worth their cost.
_FEW_SAMPLES = 3


class Explanation(list[Finding]):
    """The findings of a report, the worst first, which read as text.

    Args:
        report: the report.
        findings: what was found in it.
    """

    def __init__(self, report: Report, findings: Iterable[Finding]) -> None:
        super().__init__(findings)
        self.report = report

    @property
    def warnings(self) -> list[Finding]:
        """The findings that are more than notes."""
        return [finding for finding in self if finding.severity == "warning"]

    def __str__(self) -> str:
        return in_words(self.report, self)

    # What a Python prompt shows.
    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return in_markdown(self.report, self)

    def _repr_html_(self) -> str:
        return in_html(self.report, self)


def explain(report: Report) -> Explanation:
    """Say what goes on in a training, and what is wrong with it.

    Args:
        report: the statistics of the steps so far.

    Returns: a list of findings, the worst first, whose text is that of `in_words`.
    """
    return Explanation(report, _ailments.find(report))


def in_words(report: Report, findings: Iterable[Finding]) -> str:
    """Return a report and its findings as text, in lines that fit a terminal."""
    findings = list(findings)
    parts = [
        "\n".join(_wrapped(sentence) for sentence in summary(report)),
        verdict(report, findings),
    ]
    for finding in findings:
        where = f"{finding.severity.capitalize()}: {finding.ailment}"
        lines = (f"{finding.evidence}.", finding.meaning, f"Try: {finding.advice}")
        parts.append("\n".join([where, *(_wrapped(line, "    ") for line in lines)]))
    return "\n\n".join(part for part in parts if part)


def in_markdown(report: Report, findings: Iterable[Finding]) -> str:
    """Return a report and its findings in Markdown."""
    findings = list(findings)
    parts = [_marked(" ".join(summary(report))), _marked(verdict(report, findings))]
    parts += [
        f"- **{finding.severity.capitalize()}: {finding.ailment}.** {_marked(finding.evidence)}. "
        f"{_marked(finding.meaning)} *Try:* {_marked(finding.advice)}"
        for finding in findings
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def in_html(report: Report, findings: Iterable[Finding]) -> str:
    """Return a report and its findings in HTML, without any style."""
    findings = list(findings)
    texts = (" ".join(summary(report)), verdict(report, findings))
    parts = [f"<p>{_as_html(text)}</p>" for text in texts if text]
    items = [
        f"<li><strong>{finding.severity.capitalize()}: {finding.ailment}.</strong> "
        f"{_as_html(f'{finding.evidence}. {finding.meaning}')} "
        f"<em>Try:</em> {_as_html(finding.advice)}</li>"
        for finding in findings
    ]
    return "\n".join([*parts, "<ul>", *items, "</ul>"] if items else parts)


def summary(report: Report) -> Iterator[str]:
    """Say what the steps do, in sentences."""
    total = report.total
    if report.reason is not None:
        yield f"{report.name}: there is less to say, because {report.reason}."
        return
    made = f"{report.name}: {several(report.iterations, 'step')} made"
    how_often = "every step" if report.every == 1 else f"one step in {report.every:,}"
    more = _more_samples(report)
    if not total.sampled:
        skipped = f" {several(total.skipped, 'sampled call')} skipped." if total.skipped else ""
        yield (
            f"{made}. Nothing has been sampled yet, so there is nothing to judge; {how_often} is "
            f"sampled.{skipped}{more and ' ' + more}"
        )
        return
    yield (
        f"{made}, {total.sampled:,} of them sampled ({how_often}). The numbers are those of step "
        f"{total.step:,}."
    )
    if more:
        yield more
    yield _rate(report)
    yield _gradient(report)
    yield from _movement(report)


def _more_samples(report: Report) -> str:
    """Say how a short training gets more samples, if there are only few."""
    total = report.total
    if total.sampled + total.skipped >= _FEW_SAMPLES:
        return ""
    # A loaded optimizer has made steps elsewhere, and its first sample is not of its first step.
    steps = report.iterations % report.every
    if total.sampled:
        steps = (total.sampled - 1) * report.every + report.iterations - total.step
    every = steps // 10
    if not 0 < every < report.every:
        return ""
    return f"In a short training pass `diagnostics=Diagnostics(every={every})`."


def verdict(report: Report, findings: Iterable[Finding]) -> str:
    """Say how many ailments were found."""
    severities = [finding.severity for finding in findings]
    warnings, notes = severities.count("warning"), severities.count("note")
    and_notes = several(notes, "note")
    if warnings:
        return several(warnings, "warning") + (f" and {and_notes}:" if notes else ":")
    if report.reason is not None or not report.total.sampled:
        return f"{and_notes.capitalize()}:" if notes else ""
    return f"No warning, but {and_notes}:" if notes else "No ailment found."


def _rate(report: Report) -> str:
    rates = {variable.statistics.learning_rate for variable in sampled(report)}
    if len(rates) == 1:
        (rate,) = rates
        largest = report.total.largest_learning_rate
        so_far = f"; the largest sampled was {number(largest)}" if largest > rate else ""
        return f"The learning rate is {number(rate)}{so_far}."
    return f"The learning rates are between {number(min(rates))} and {number(max(rates))}."


def _gradient(report: Report) -> str:
    total = report.total
    of_all = f"of all {len(report.variables):,} variables together " * (len(report.variables) > 1)
    text = f"The gradient {of_all}has the norm {number(total.gradient_norm)}"
    if report.clip is None:
        return f"{text}, and is not clipped."
    text += (
        f". Clipping {CLIPS[report.clip]} acted in {total.clipped:,} of {total.sampled:,} samples"
    )
    if total.clipped_gradient_norm < total.gradient_norm:
        return f"{text}, and left {number(total.clipped_gradient_norm)} of this one."
    if total.clipped_gradient_norm == total.gradient_norm:
        return f"{text}, and left this one as it is."
    return f"{text}."


def _movement(report: Report) -> Iterator[str]:
    total = report.total
    if math.isnan(total.update_norm):
        yield "How far the weights move is not known."
        return
    text = f"The step moves the weights by {number(total.update_norm)}"
    if math.isfinite(total.update_ratio):
        ratio, norm = percent(total.update_ratio), number(total.weight_norm)
        text += f", which is {ratio} of their norm {norm}"
    ratios = {v.path: v.statistics.update_ratio for v in sampled(report) if v.is_layer}
    ratios = {path: ratio for path, ratio in ratios.items() if math.isfinite(ratio)}
    if len(ratios) > 1:
        (least, smallest), *_, (most, largest) = sorted(ratios.items(), key=lambda two: two[1])
        text += f"; from {percent(smallest)} ({least}) to {percent(largest)} ({most})"
    decays = {v.decay for v in sampled(report) if v.decay > 0.0}
    if decays:
        least, most = percent(min(decays)), percent(max(decays))
        which = least if least == most else f"{least} to {most}"
        text += f". Weight decay takes another {which} of each weight"
    guide = f"{percent(USUAL_RATIO)}, early in a training up to ten times as much"
    yield f"{text}. A guide is {guide}."
    if math.isfinite(total.mean_rate):
        yield (
            f"A gradient of 1 moves a weight by {number(total.mean_rate)} (the effective learning "
            f"rate: geometric mean, from {number(total.smallest_rate)} to "
            f"{number(total.largest_rate)})."
        )


def _wrapped(text: str, indent: str = "") -> str:
    wrapped = textwrap.fill(
        # A number stays together with its sign.
        text.replace(" %", "\N{NO-BREAK SPACE}%"),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapped.replace("\N{NO-BREAK SPACE}%", " %")


def _marked(text: str) -> str:
    """Escape what Markdown would take for emphasis or HTML, outside of code."""
    pieces = text.split("`")
    pieces[::2] = [re.sub(r"([*_<])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)


def _as_html(text: str) -> str:
    return re.sub("`(.*?)`", r"<code>\1</code>", html.escape(text))
