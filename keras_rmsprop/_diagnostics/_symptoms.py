"""By which numbers it shows that something is wrong with a training.

Each ailment has a rule here, which looks for it in a report and gives a symptom for each variable,
or one for all together. `_ailments` has their names and what they mean.

Some thresholds are bounds that follow from the equations. The others were chosen between trainings
that learn well and trainings in which the fault was planted; the tests have both.
"""

import math
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from keras_rmsprop._diagnostics._format import several
from keras_rmsprop._diagnostics._report import Report, Statistics, VariableSettings
from keras_rmsprop._math._statistics import RATE_LEFT

Severity = Literal["warning", "note"]

# Ratios of sizes are judged from this step on. Before, weights that start at 0 are no longer than
# the steps: even a random walk is sqrt(20) = 4.5 steps long after 20 of them.
JUDGED_FROM = 20

# Ratios say nothing about a few numbers: the weight of a line may well be 0, and a step on either
# side of it is then any multiple of the weight. Biases start at 0 for the same effect.
SMALLEST_LAYER = 16
_BIAS = re.compile(r"(^|[/_])(bias|beta)(:\d+)?$")

# The relative size of a step that is often advised, a thousandth of the weights: Karpathy, "CS231n:
# Convolutional Neural Networks for Visual Recognition", notes on training (2015).
USUAL_RATIO = 1e-3

# Weights also shrink in trainings that learn well, but then decay is 0.01 to 0.1 times as long as
# the rest of a step, and the gradient of the penalty l2 0.01 to 0.07 times that of the loss. Where
# decay keeps a network from learning, it is 0.2 to 0.5 times as long, and 0.1 to 0.4 of the norm of
# the weights are left; or they began small, and decay is 0.4 to 1 times as long. But the rows of a
# table that few batches have, or none, may well shrink.
DECAY_PULL = 0.1
SHRUNKEN = 0.5
COLLAPSED = 0.3
DECAY_HOLDS = 0.3
UNUSED_SHARE = 0.5
# So little is left that other gradients vanish as well.
GONE = 0.01

# Relative to freshly initialised weights. Trainings that learn well reach 0.1 with a learning rate
# of 0.01, which is ten times the default, and 0.02 with 0.001; with 0.1 they reach 0.5 to 0.9.
LARGEST_FRESH_RATIO = 0.2
# Relative to the weights themselves. Weights that are nothing but a random walk are 4.5 steps long
# at the first step that is judged, a ratio of 0.22; trainings that learn well stay below 0.11.
LARGEST_RATIO = 0.5

# A million such steps in the same direction move the weights by their own size. Trainings that
# learn well stay above 5e-4.
SMALLEST_RATIO = 1e-6

# Most schedules end like this: (1 - x)**p, which is a cosine's end for p = 2, is below `RATE_LEFT`
# for the last 1, 5 and 10 % of the steps with p = 2, 3 and 4.
REST_SHARE = 0.1
REST_SAMPLES = 3

# Where a schedule has left less of the rate, steps are meant to be short. Before the rate has
# vanished they may be shorter than `SMALLEST_RATIO`, or rounded off.
SLOW = 0.02

# Steps may be longer than any that the plain form can make: a step of the centered form is about
# mean / deviation of the gradient. Trainings that learn well reach 2.3 times its bound.
LONGEST_CENTERED_STEP = 10.0

# At the default epsilon most elements of recurrent and attention layers have smaller averages in
# their first steps, and learn, so the share alone is a note. A warning needs steps that are short:
# compared with those of another layer, which then learns faster; or at all, because the loss may be
# too small a number. Where the loss has come close to 0, steps of all layers are between 0.0003 and
# 0.05 of what the learning rate allows, and those of different layers within a factor of 10. Of the
# kernels of attention, those of queries and keys take steps as short as 0.005 of the longest ones.
EPSILON_SHARE = 0.9
EPSILON_BRAKE = 0.002
EPSILON_BRAKE_OF_ALL = 1e-4

# The elements that are rounded off. Below, chance rounds off some elements of small layers: 0.13
# was seen in a layer of 8.
STUCK_SHARE = 0.5

# Clipping that acts now and then is what it is for. It takes some samples to tell this from always.
CLIPPED_SHARE = 0.95
CLIPPED_SAMPLES = 20

# Samples without any gradient, from which on a layer is dead and not just without input.
DEAD_SAMPLES = 2
# The part of the gradient that it leaves, below which it is a warning.
CLIPPED_LEFT = 0.5

# How close to overflow a gradient is: a thousand times larger, and its square is infinite.
OVERFLOW_MARGIN = 1e-3

# Of the calls. Dynamic loss scaling, as torch's and Keras's, skips one call in 2,000 by design, and
# a few more in its first steps.
SKIPPED_SHARE = 0.01
SKIPPED_CALLS = 3

# The part of the averages that is still what they started from.
START_SHARE = 0.5

# The part of the squared global norm that one of at least so many variables has.
DOMINATING_SHARE = 0.99
DOMINATED_VARIABLES = 4


# What clips, in words.
CLIPS = {"value": "by value", "norm": "by norm", "global_norm": "by global norm"}


class Symptom(NamedTuple):
    """An ailment in one variable, or in all together."""

    # None for all together.
    path: str | None
    # Where the same ailment is found in several variables, the largest comes first.
    badness: float
    # What follows the path in a sentence.
    evidence: str
    severity: Severity = "warning"


# The variables of a report.


class Sampled(NamedTuple):
    """A variable that has been sampled."""

    path: str
    statistics: Statistics
    settings: VariableSettings

    @property
    def is_bias(self) -> bool:
        """Whether its name is that of a bias."""
        return _BIAS.search(self.path) is not None

    @property
    def is_layer(self) -> bool:
        """Whether the sizes of its weights and steps can be compared."""
        return self.settings.size >= SMALLEST_LAYER and not self.is_bias

    @property
    def is_past_start(self) -> bool:
        """Whether enough steps have been made to judge it."""
        return self.statistics.step >= JUDGED_FROM

    @property
    def relative_length(self) -> float:
        """The root mean square of its steps, relative to learning_rate / (1 - momentum)."""
        own, settings = self.statistics, self.settings
        reach = own.learning_rate / (1.0 - settings.momentum)
        length = own.update_norm / math.sqrt(settings.size)
        return length / reach if reach > 0.0 else math.nan

    @property
    def is_at_rest(self) -> bool:
        """Whether it has come to rest because its learning rate is not what it was."""
        own = self.statistics
        is_low = own.learning_rate < RATE_LEFT * own.largest_learning_rate and own.at_rest > 0
        # A momentum buffer may still move it.
        return is_low and (own.update_norm == 0.0 or own.update_ratio < SMALLEST_RATIO)

    @property
    def decay(self) -> float:
        """The part of each weight that decay takes in a step."""
        return self.statistics.learning_rate * self.settings.weight_decay

    @property
    def decay_pull(self) -> float:
        """How long a step of decay is, relative to the rest of the step."""
        return _ratio(self.decay * self.statistics.weight_norm, self.statistics.update_norm)

    @property
    def penalty(self) -> float:
        """How long the gradient of the penalty `l2` is; 0 if it moves nothing."""
        own = self.statistics
        return self.settings.l2 * own.weight_norm if own.learning_rate > 0.0 else 0.0

    @property
    def penalty_pull(self) -> float:
        """How long that is, relative to the gradient of the loss."""
        return _ratio(self.penalty, self.statistics.clipped_gradient_norm)

    @property
    def is_gone(self) -> bool:
        """Whether decay has left nothing of its weights, and nothing else did it before."""
        own = self.statistics
        is_judged = self.is_layer and self.is_past_start and not self.has_never_learned
        is_pulled = is_judged and max(self.decay_pull, self.penalty_pull) >= DECAY_PULL
        return is_pulled and own.weight_norm < GONE * own.largest_weight_norm

    @property
    def is_dead(self) -> bool:
        """Whether its gradient was 0 in the last sample."""
        return self.statistics.zero_gradient_share == 1.0

    @property
    def has_never_learned(self) -> bool:
        """Whether its gradient was 0 in every sample, so that no other variable made it so."""
        return self.statistics.all_zero == self.statistics.sampled

    @property
    def is_used(self) -> bool:
        """Whether most of its elements have a gradient, or none, unlike those of a table."""
        return not UNUSED_SHARE <= self.statistics.zero_gradient_share < 1.0

    @property
    def excuse(self) -> str:
        """Says what is left of its learning rate, where short steps are meant; otherwise empty."""
        own = self.statistics
        if not own.learning_rate < SLOW * own.largest_learning_rate:
            return ""
        return (
            f"; the learning rate is {percent(own.learning_rate / own.largest_learning_rate)} of "
            f"its largest value {number(own.largest_learning_rate)} (a warning from "
            f"{percent(SLOW)} on)"
        )

    @property
    def longest_plain_step(self) -> float:
        """The bound of the steps of the plain form, in learning rates.

        s_t >= k_t g_t**2 and k_t >= 1 - rho, with or without bias correction and whatever the start
        and epsilon, so |g_t / r_t| <= 1 / sqrt(1 - rho). With momentum a step is a sum of such
        terms with the factors 1, momentum, momentum**2, ..., or with nesterov with those of
        momentum * b_t + g_t / r_t, and either sum is at most 1 / (1 - momentum).
        """
        settings = self.settings
        return 1.0 / (math.sqrt(1.0 - settings.rho) * (1.0 - settings.momentum))

    @property
    def elements(self) -> str:
        """Its size, in words."""
        return several(self.settings.size, "element")


def is_past(step: int, rho: float) -> bool:
    """Whether averages have forgotten their start: 1 / (1 - rho) steps, up to rounding."""
    return step * (1.0 - rho) >= 1.0 - 1e-9


def sampled(report: Report) -> Iterator[Sampled]:
    """Yield the variables that have been sampled."""
    for path, statistics in report.variables.items():
        if statistics.sampled:
            yield Sampled(path, statistics, report.settings[path])


# The rules, in the order of `_ailments.AILMENTS`.


def non_finite_weights(report: Report) -> Iterator[Symptom]:
    for path, own, _ in sampled(report):
        if not math.isfinite(own.weight_norm):
            yield Symptom(
                path, 2.0, f"the norm of the weights was {own.weight_norm} at step {own.step:,}"
            )
        # Where a subclass makes the update, all its numbers are NaN.
        elif not math.isfinite(own.update_norm) and not math.isnan(own.epsilon_share):
            yield Symptom(path, 1.0, f"step {own.step:,} moved the weights by {own.update_norm}")


def non_finite_gradients(report: Report) -> Iterator[Symptom]:
    if report.skipped_steps is not None:
        return
    for path, own, _ in sampled(report):
        if own.nonfinite:
            evidence = (
                f"the gradient had NaN or infinite elements in {own.nonfinite:,} of "
                f"{own.sampled:,} sampled steps"
            )
            yield Symptom(path, own.nonfinite / own.sampled, evidence)


def frozen_weights(report: Report) -> Iterator[Symptom]:
    for path, own, settings in sampled(report):
        if own.frozen_share > 0.0:
            evidence = (
                f"{percent(own.frozen_share)} of the averages of squared gradients "
                f"({_elements(own.frozen_share, settings)}; none should be) are infinite or NaN"
            )
            yield Symptom(path, own.frozen_share, evidence)


def exploding_gradient(report: Report) -> Iterator[Symptom]:
    for path, own, settings in sampled(report):
        largest = largest_square_root(_arithmetic_dtype(settings))
        if OVERFLOW_MARGIN * largest <= own.largest_gradient < math.inf:
            evidence = (
                f"the largest element of the gradient is {number(own.largest_gradient)} (threshold "
                f"{number(OVERFLOW_MARGIN * largest)}), and squares overflow from "
                f"{number(largest)} on"
            )
            yield Symptom(path, own.largest_gradient, evidence)


def skipped_batches(report: Report) -> Iterator[Symptom]:
    skipped = report.skipped_steps or 0
    if not skipped:
        return
    share = skipped / (skipped + report.iterations)
    is_often = share >= SKIPPED_SHARE and skipped >= SKIPPED_CALLS
    evidence = (
        f"{several(skipped, 'call')} {'was' if skipped == 1 else 'were'} skipped and "
        f"{several(report.iterations, 'step')} were made, so {percent(share)} are missing "
        f"(a warning from {percent(SKIPPED_SHARE)} and {SKIPPED_CALLS} calls on)"
    )
    yield Symptom(None, share, evidence, "warning" if is_often else "note")


def exploding_centered_steps(report: Report) -> Iterator[Symptom]:
    for variable in sampled(report):
        own, bound = variable.statistics, variable.longest_plain_step
        # A momentum buffer may hold steps of an earlier, larger rate.
        longest = bound * own.largest_learning_rate
        if (
            variable.settings.centered
            and own.largest_update > LONGEST_CENTERED_STEP * longest > 0.0
        ):
            times = own.largest_update / own.largest_learning_rate
            evidence = (
                f"the largest step of a weight is {number(own.largest_update)}, "
                f"{number(times)} times the learning rate (without `centered` at most "
                f"{number(bound)} times; threshold {number(LONGEST_CENTERED_STEP * bound)} times)"
            )
            yield Symptom(variable.path, times, evidence)


def dead_gradients(report: Report) -> Iterator[Symptom]:
    vanish = _vanish_with_weights(report)
    alive = {_layer_of(path) for path, own, _ in sampled(report) if own.zero_gradient_share < 1.0}
    for variable in sampled(report):
        own = variable.statistics
        if variable.is_gone or (vanish and not variable.has_never_learned):
            continue
        if variable.is_dead and variable.is_past_start:
            # Such as one before a normalisation, which takes it away again.
            has_no_effect = variable.is_bias and _layer_of(variable.path) in alive
            # A single batch may have no input for a layer.
            is_certain = own.all_zero >= DEAD_SAMPLES and not has_no_effect
            yield Symptom(
                variable.path,
                variable.settings.size,
                f"100 % of the gradients are 0 ({variable.elements}; threshold 100 %), in "
                f"{own.all_zero:,} of {several(own.sampled, 'sampled step')} (a warning from "
                f"{DEAD_SAMPLES} on)",
                "warning" if is_certain else "note",
            )


def vanished_learning_rate(report: Report) -> Iterator[Symptom]:
    rates = [own.largest_learning_rate for _, own, _ in sampled(report)]
    for variable in sampled(report):
        own = variable.statistics
        rate, largest = own.learning_rate, own.largest_learning_rate
        if largest == 0.0 and variable.is_past_start:
            # A factor of 0 in a group is a way to keep its variables as they are.
            is_group = max(rates) > 0.0
            evidence = f"the learning rate has been 0 in all {own.sampled:,} sampled steps"
            yield Symptom(variable.path, 2.0, evidence, "note" if is_group else "warning")
        elif variable.is_at_rest:
            ratio = own.update_ratio if own.update_norm > 0.0 else 0.0
            evidence = (
                f"the learning rate is {number(rate)}, {percent(rate / largest)} of its largest "
                f"value {number(largest)} (threshold {percent(RATE_LEFT)}), and a step moves the "
                f"weights by {number(ratio)} of their norm (threshold "
                f"{number(SMALLEST_RATIO)}); the rate was below its threshold in {own.at_rest:,} "
                f"of {several(own.sampled, 'sample')} (a warning from {REST_SAMPLES} and more than "
                f"{percent(REST_SHARE)} on)"
            )
            is_long = own.at_rest >= REST_SAMPLES and own.at_rest > REST_SHARE * own.sampled
            yield Symptom(
                variable.path, 1.0 - rate / largest, evidence, "warning" if is_long else "note"
            )


def strong_decay(report: Report) -> Iterator[Symptom]:
    for variable in sampled(report):
        own = variable.statistics
        norm, largest = own.weight_norm, own.largest_weight_norm
        if not (variable.is_layer and variable.is_past_start):
            continue
        # Where gradients are 0 for another reason, that has a rule of its own.
        if variable.is_dead and not variable.is_gone:
            continue
        pull = max(variable.decay_pull, variable.penalty_pull)
        if variable.decay_pull == pull:
            pulled = (
                f"weight decay, which takes {percent(variable.decay)} of each weight in a step, is "
                f"{multiple(pull)} as long as the rest of the step"
            )
        else:
            pulled = (
                f"the gradient {number(variable.penalty)} of the penalty `l2` is "
                f"{multiple(pull)} as long as that of the loss"
            )
        fresh = fresh_norm(variable.settings.size)
        if norm < SHRUNKEN * largest and pull >= DECAY_PULL:
            size = (
                f"{percent(norm / largest)} of the largest that was sampled (threshold "
                f"{percent(SHRUNKEN)}; a warning below {percent(COLLAPSED)})"
            )
            threshold = DECAY_PULL
        elif norm < COLLAPSED * fresh and pull >= DECAY_HOLDS:
            size = (
                f"{percent(norm / fresh)} of the norm {number(fresh)} that newly initialised "
                f"weights of this size have (threshold {percent(COLLAPSED)})"
            )
            threshold = DECAY_HOLDS
        else:
            continue
        is_certain = norm < COLLAPSED * largest and variable.is_used
        yield Symptom(
            variable.path,
            pull,
            f"the norm of the weights is {number(norm)}, {size}, and {pulled} "
            f"(threshold {multiple(threshold)})",
            "warning" if is_certain else "note",
        )


def too_large_updates(report: Report) -> Iterator[Symptom]:
    for variable in sampled(report):
        own, settings = variable.statistics, variable.settings
        # With rho near 1, longer steps are part of the warm-up.
        is_warm = settings.bias_correction or is_past(own.step, settings.rho)
        # Without a gradient a penalty alone moves the weights.
        is_judged = variable.is_layer and variable.is_past_start and not variable.is_dead
        if not (is_judged and is_warm):
            continue
        fresh = own.update_norm / fresh_norm(settings.size)
        if fresh > LARGEST_FRESH_RATIO:
            evidence = (
                f"a step has the norm {number(own.update_norm)}, {percent(fresh)} of the norm "
                f"{number(fresh_norm(settings.size))} that newly initialised weights of this size "
                f"have (threshold {percent(LARGEST_FRESH_RATIO)}), and {percent(own.update_ratio)} "
                f"of that of the weights (guide: {percent(USUAL_RATIO)})"
            )
            yield Symptom(variable.path, fresh, evidence)
        elif own.update_ratio > LARGEST_RATIO:
            evidence = (
                f"a step moves the weights by {percent(own.update_ratio)} of their norm "
                f"(threshold {percent(LARGEST_RATIO)}; guide: {percent(USUAL_RATIO)})"
            )
            yield Symptom(variable.path, own.update_ratio, evidence)


def deciding_epsilon(report: Report) -> Iterator[Symptom]:
    if _vanish_with_weights(report):
        return
    lengths = {each.path: each.relative_length for each in sampled(report) if each.is_layer}
    longest = max((x for x in lengths.values() if math.isfinite(x)), default=0.0)
    threshold = max(EPSILON_BRAKE * longest, EPSILON_BRAKE_OF_ALL)
    for variable in sampled(report):
        own, settings = variable.statistics, variable.settings
        # That all gradients are 0 has a rule of its own.
        is_judged = variable.is_past_start and not variable.is_dead
        if not (is_judged and own.epsilon_share >= EPSILON_SHARE):
            continue
        gradient = own.clipped_gradient_norm / math.sqrt(settings.size)
        root = math.sqrt(settings.epsilon) if settings.epsilon_inside_sqrt else settings.epsilon
        evidence = (
            f"for {percent(own.epsilon_share)} of the weights epsilon exceeds the average of "
            f"squared gradients (threshold {percent(EPSILON_SHARE)}): gradients are about "
            f"{number(gradient)}, and epsilon divides them by at least {number(root)}"
        )
        length = lengths.get(variable.path, math.nan)
        if math.isfinite(length):
            evidence += (
                f"; a step of a weight is {percent(length)} of what the learning rate allows (a "
                f"warning below {percent(threshold)}; the layer of the longest steps has "
                f"{percent(longest)})"
            )
        is_braked = length < threshold
        badness = -length if math.isfinite(length) else -math.inf
        yield Symptom(variable.path, badness, evidence, "warning" if is_braked else "note")


def stuck_weights(report: Report) -> Iterator[Symptom]:
    for variable in sampled(report):
        own, settings = variable.statistics, variable.settings
        is_narrow = settings.dtype in ("float16", "bfloat16")
        # That the rate has vanished has a rule of its own.
        if variable.is_at_rest:
            continue
        if own.stuck_share >= STUCK_SHARE and (is_narrow or variable.is_layer):
            # In half precision a schedule's last steps do nothing, and could.
            excuse = "" if is_narrow else variable.excuse
            evidence = (
                f"{percent(own.stuck_share)} of the weights ({_elements(own.stuck_share, settings)}"
                f"; threshold {percent(STUCK_SHARE)}) do not move, because {settings.dtype} rounds "
                f"their updates off: a step is {number(own.update_ratio)} of the weights' norm"
                f"{excuse}"
            )
            severity: Severity = "note" if excuse else "warning"
            yield Symptom(variable.path, own.stuck_share, evidence, severity)


def too_small_updates(report: Report) -> Iterator[Symptom]:
    for variable in sampled(report):
        own = variable.statistics
        ratio, rate = own.update_ratio, own.learning_rate
        is_judged = variable.is_layer and variable.is_past_start
        # These have rules of their own.
        is_stuck = own.stuck_share >= STUCK_SHARE
        has_cause = rate == 0.0 or variable.is_at_rest or variable.is_dead or is_stuck
        if is_judged and ratio < SMALLEST_RATIO and not has_cause:
            evidence = (
                f"a step moves the weights by {number(ratio)} of their norm (threshold "
                f"{number(SMALLEST_RATIO)}; guide: {number(USUAL_RATIO)}){variable.excuse}"
            )
            severity: Severity = "note" if variable.excuse else "warning"
            yield Symptom(variable.path, -ratio, evidence, severity)


def permanent_clipping(report: Report) -> Iterator[Symptom]:
    if report.clip is None:
        return
    of_all = report.clip == "global_norm"
    each = [(None, report.total)] if of_all else [(path, own) for path, own, _ in sampled(report)]
    for path, own in each:
        if own.sampled < CLIPPED_SAMPLES or not own.clipped_share >= CLIPPED_SHARE:
            continue
        left = own.clipped_gradient_norm / own.gradient_norm if own.gradient_norm else math.nan
        if math.isnan(left):
            continue
        # Of a large gradient some element always exceeds the limit.
        if report.clip == "value" and not left <= CLIPPED_LEFT:
            continue
        evidence = (
            f"clipping {CLIPS[report.clip]} acted in {own.clipped:,} of {own.sampled:,} sampled "
            f"steps (threshold {percent(CLIPPED_SHARE)}); in the last it cut the gradient's norm "
            f"from {number(own.gradient_norm)} to {number(own.clipped_gradient_norm)} "
            f"({percent(left)}; a warning from {percent(CLIPPED_LEFT)} down)"
        )
        yield Symptom(path, 1.0 - left, evidence, "warning" if left <= CLIPPED_LEFT else "note")


def cold_averages(report: Report) -> Iterator[Symptom]:
    for path, own, settings in sampled(report):
        rho, t = settings.rho, own.step
        # The numbers may be old.
        if is_past(report.iterations - t, rho):
            continue
        if settings.initial_square_average > 0.0:
            share = _share_of_start(own, settings)
            if share > START_SHARE:
                evidence = (
                    f"after {t:,} steps {percent(share)} of the average of squared gradients "
                    f"(threshold {percent(START_SHARE)}) are what is left of its start, "
                    f"{number(settings.initial_square_average)}; so steps are shorter than "
                    "they will be"
                )
                yield Symptom(path, share, evidence + _steps_to_go(own, settings), "note")
        # A step of one's own may use no averages.
        elif not (
            settings.bias_correction or is_past(report.iterations, rho) or math.isnan(own.mean_rate)
        ):
            times = 1.0 / math.sqrt(-math.expm1(t * math.log(rho)))
            evidence = (
                f"step {t:,} of about {round(1.0 / (1.0 - rho)):,} that the averages need; they "
                f"start from 0, and so steps are still about {number(times)} times as long as "
                "they will be"
            )
            yield Symptom(path, times, evidence, "note")


def dominating_variable(report: Report) -> Iterator[Symptom]:
    total = report.total.gradient_norm
    if report.clip != "global_norm" or not report.total.clipped or not total > 0.0:
        return
    for path, own, _ in sampled(report):
        share = (own.gradient_norm / total) ** 2
        if share > DOMINATING_SHARE and len(report.variables) >= DOMINATED_VARIABLES:
            evidence = (
                f"{percent(share)} of the squared global norm (threshold "
                f"{percent(DOMINATING_SHARE)}) are of this one of {len(report.variables):,} "
                f"variables: {number(own.gradient_norm)} of {number(total)}"
            )
            yield Symptom(path, share, evidence, "note")


def missing_gradients(report: Report) -> Iterator[Symptom]:
    for path, own in report.variables.items():
        is_missing = not own.sampled and not own.skipped and report.settings[path].size
        samples = report.total.sampled - report.settings[path].samples_before
        if samples > 0 and is_missing:
            evidence = f"there was no gradient in any of {samples:,} sampled steps"
            yield Symptom(path, report.settings[path].size, evidence, "note")


# What the rules compute.


def largest_square_root(dtype: str) -> float:
    """Return the largest number of a dtype whose square is finite."""
    return math.sqrt(float(np.finfo(dtype).max))


def fresh_norm(size: int) -> float:
    """Return the norm of a newly initialised kernel of so many weights.

    With as many inputs as outputs, f, there are size = f**2 weights, of variance 1 / f (Glorot and
    Bengio, AISTATS 2010, eq. 16), so that their norm is sqrt(f).
    """
    return float(size**0.25)


def _share_of_start(own: Statistics, settings: VariableSettings) -> float:
    """Return which part of the average is left of its start: rho**t s_0 / s, of the mean r."""
    root = own.learning_rate / own.mean_rate if own.mean_rate > 0.0 else math.nan
    epsilon = settings.epsilon
    square = root**2 - epsilon if settings.epsilon_inside_sqrt else max(root - epsilon, 0.0) ** 2
    left = settings.rho**own.step * settings.initial_square_average
    return min(left / square, 1.0) if square > 0.0 else math.nan


def _steps_to_go(own: Statistics, settings: VariableSettings) -> str:
    """Say how many steps it takes until the start weighs no more than the gradients."""
    square = own.clipped_gradient_norm**2 / settings.size
    start = settings.initial_square_average
    if not 0.0 < square < start or settings.rho == 0.0:
        return ""
    steps = math.ceil(math.log(square / start) / math.log(settings.rho)) - own.step
    return f", for about {steps:,} more steps with gradients of this size" if steps > 0 else ""


def _layer_of(path: str) -> str:
    return path.rpartition("/")[0]


def _arithmetic_dtype(settings: VariableSettings) -> str:
    return "float64" if settings.dtype == "float64" else "float32"


def _vanish_with_weights(report: Report) -> bool:
    """Whether gradients may be small because decay has left nothing of the weights behind them."""
    return any(variable.is_gone and variable.is_used for variable in sampled(report))


def _ratio(part: float, whole: float) -> float:
    """Return part / whole, which is 0 where there is no part or the whole is not known."""
    if not part > 0.0 or math.isnan(whole):
        return 0.0
    return part / whole if whole > 0.0 else math.inf


# Numbers in sentences.


def number(value: float) -> str:
    """Return a number with three digits."""
    if 1000.0 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    # As it is written by hand: 1e-6 rather than 1e-06.
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:.3g}")


def percent(share: float) -> str:
    """Return a share in percent; only what is nothing or all reads 0 % or 100 %."""
    if 0.0 < share < 1e-6:
        return "less than 0.0001 %"
    if 0.9995 <= share < 1.0:
        return "more than 99.9 %"
    return f"{number(100.0 * share)} %"


def multiple(factor: float) -> str:
    """Return a factor in words."""
    return "infinitely many times" if math.isinf(factor) else f"{number(factor)} times"


def _elements(share: float, settings: VariableSettings) -> str:
    return f"{round(share * settings.size):,} of {settings.size:,}"
