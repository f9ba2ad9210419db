"""What can be wrong with a training, what it means and what to do, and the search for it."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from keras_rmsprop._diagnostics import _symptoms
from keras_rmsprop._diagnostics._report import Report
from keras_rmsprop._diagnostics._symptoms import (
    CLIPPED_LEFT,
    CLIPPED_SAMPLES,
    CLIPPED_SHARE,
    COLLAPSED,
    DEAD_SAMPLES,
    DECAY_HOLDS,
    DECAY_PULL,
    DOMINATED_VARIABLES,
    DOMINATING_SHARE,
    EPSILON_BRAKE,
    EPSILON_BRAKE_OF_ALL,
    EPSILON_SHARE,
    JUDGED_FROM,
    LARGEST_FRESH_RATIO,
    LARGEST_RATIO,
    LONGEST_CENTERED_STEP,
    OVERFLOW_MARGIN,
    REST_SAMPLES,
    REST_SHARE,
    SHRUNKEN,
    SKIPPED_CALLS,
    SKIPPED_SHARE,
    SLOW,
    SMALLEST_LAYER,
    SMALLEST_RATIO,
    START_SHARE,
    STUCK_SHARE,
    UNUSED_SHARE,
    Severity,
    Symptom,
    largest_square_root,
    number,
    percent,
)
from keras_rmsprop._math._statistics import RATE_LEFT


class Finding(NamedTuple):
    """An ailment that was found in some variables."""

    # A short stable name, one of `AILMENTS`.
    ailment: str
    # The paths of the variables, the worst first; empty if it concerns all of them together.
    variables: tuple[str, ...]
    # The numbers that show it, with the threshold.
    evidence: str
    meaning: str
    advice: str
    severity: Severity

    def in_words(self) -> str:
        """Return all of it in sentences."""
        return (
            f"{self.severity.capitalize()}: {self.ailment}. {self.evidence}. "
            f"{self.meaning} Try: {self.advice}"
        )


class Ailment(NamedTuple):
    """What can be wrong."""

    # What shows it, and from where on, as the documentation has it.
    number: str
    threshold: str
    meaning: str
    advice: str
    rule: Callable[[Report], Iterable[Symptom]]
    # The ailments that explain it: in a variable with a warning of one of them it is not reported.
    explained_by: tuple[str, ...] = ()


def find(report: Report) -> list[Finding]:
    """Return the ailments that a report shows, the worst first.

    Warnings come before notes, and within each the ailments in the order of `AILMENTS`. Similar
    variables are in one finding.
    """
    symptoms: dict[str, list[Symptom]] = {}
    warned: dict[str, set[str | None]] = {}
    for name, ailment in AILMENTS.items():
        explained = set[str | None]().union(*(warned[other] for other in ailment.explained_by))
        symptoms[name] = [each for each in ailment.rule(report) if each.path not in explained]
        warned[name] = {each.path for each in symptoms[name] if each.severity == "warning"}
    findings = []
    severities: tuple[Severity, ...] = ("warning", "note")
    for severity in severities:
        for name, found in symptoms.items():
            alike = [each for each in found if each.severity == severity]
            if alike:
                findings.append(_finding(name, severity, alike, report))
    return findings


def _finding(name: str, severity: Severity, symptoms: list[Symptom], report: Report) -> Finding:
    ailment = AILMENTS[name]
    worst, *others = sorted(symptoms, key=lambda symptom: -symptom.badness)
    paths = tuple(each.path for each in (worst, *others) if each.path is not None)
    where = "" if worst.path is None else f"{worst.path}: "
    if others:
        which = f"all {len(paths):,}" if len(paths) == len(report.variables) else f"{len(paths):,}"
        where = f"{which} variables, the worst {where}"
    evidence = where + worst.evidence
    return Finding(
        name, paths, evidence[0].upper() + evidence[1:] if not paths else evidence,
        ailment.meaning, ailment.advice, severity,
    )  # fmt: skip


_LAYERS = f"kernels and tables of at least {SMALLEST_LAYER} weights, from step {JUDGED_FROM} on"

_SLOW = f"where the rate is below {percent(SLOW)} of its largest"

# One ailment is often the consequence of another, so causes come first.
AILMENTS: dict[str, Ailment] = {
    "non-finite weights": Ailment(
        number="`weight_norm`, `update_norm`",
        threshold="not finite",
        meaning="Weights are NaN or infinite, or become so with this step, and stay so for good.",
        advice=(
            "go back to a checkpoint, and go on with `skip_nonfinite=True` and a lower learning "
            "rate. Look for log(0), a division by 0 or a square root at 0 in the loss, and for NaN "
            "in the data."
        ),
        rule=_symptoms.non_finite_weights,
    ),
    "non-finite gradients": Ailment(
        number="`nonfinite`",
        threshold="more than 0, without `skip_nonfinite`",
        meaning="One NaN makes a weight NaN for good, and infinity freezes it or makes it NaN.",
        advice=(
            "`skip_nonfinite=True`, which leaves such batches out. Look for them in the data, and "
            "for log(0), a division by 0 or a square root at 0 in the loss."
        ),
        rule=_symptoms.non_finite_gradients,
    ),
    "frozen weights": Ailment(
        number="`frozen_share`",
        threshold="more than 0",
        meaning=(
            "The gradient is divided by the root of the average, so these weights no longer move; "
            "and as an infinite average never decays, they never will. Usual cause: a gradient "
            f"whose square overflowed (above {number(largest_square_root('float32'))} in float32)."
        ),
        advice=(
            "go back to a checkpoint, or keep the weights and start with a new optimizer; then use "
            "`skip_nonfinite=True`, a lower learning rate, or `clipvalue`."
        ),
        rule=_symptoms.frozen_weights,
        explained_by=("non-finite weights",),
    ),
    "exploding gradient": Ailment(
        number="`largest_gradient`",
        threshold=(
            f"from {number(OVERFLOW_MARGIN * largest_square_root('float32'))} on (float64: "
            f"{number(OVERFLOW_MARGIN * largest_square_root('float64'))})"
        ),
        meaning=(
            "The steps do not depend on the size of the gradients, but a square that overflows "
            "freezes its weight, and a norm that overflows cannot be clipped."
        ),
        advice=(
            "a mean instead of a sum in the loss, smaller targets, normalisation layers, shorter "
            "sequences, or a lower learning rate; `skip_nonfinite=True` as a safeguard."
        ),
        rule=_symptoms.exploding_gradient,
    ),
    "batches skipped": Ailment(
        number="`skipped_steps`",
        threshold=(
            f"a note from the first on; a warning from {percent(SKIPPED_SHARE)} of the calls on, "
            f"if there are at least {SKIPPED_CALLS}"
        ),
        meaning=(
            "`skip_nonfinite` left out batches whose gradients were not finite. Dynamic loss "
            "scaling causes one such batch in thousands; more means that data are lost."
        ),
        advice=(
            "find the batches: bad data, log(0) or a division by 0 in the loss, or a loss scale "
            "that is too large for float16."
        ),
        rule=_symptoms.skipped_batches,
    ),
    "exploding centered steps": Ailment(
        number="`largest_update` / `largest_learning_rate`, if `centered`",
        threshold=f"more than {number(LONGEST_CENTERED_STEP)} / (sqrt(1 - rho) (1 - momentum))",
        meaning=(
            "`centered=True` divides by the standard deviation of the gradient. Where a gradient "
            "hardly changes from step to step, that is almost 0, and steps become as long as "
            "epsilon lets them. Without `centered` no step exceeds learning_rate / (sqrt(1 - rho) "
            "(1 - momentum))."
        ),
        advice=(
            "`centered=False`, a larger epsilon, or smaller batches, whose gradients vary more. "
            "With `bias_correction` the very first steps always do this."
        ),
        rule=_symptoms.exploding_centered_steps,
        explained_by=("non-finite weights",),
    ),
    "weight decay dominates": Ailment(
        number=(
            "`weight_norm` / `largest_weight_norm`; learning_rate * weight_decay * `weight_norm` / "
            "`update_norm`, or l2 * `weight_norm` / `clipped_gradient_norm`"
        ),
        threshold=(
            f"less than {percent(SHRUNKEN)}, where one of the others is at least "
            f"{number(DECAY_PULL)}: a warning below {percent(COLLAPSED)}, otherwise a note; a note "
            f"where fewer than {percent(UNUSED_SHARE)} of the weights have a gradient, and for a "
            f"norm below {percent(COLLAPSED)} of `size**(1/4)` where one of the others is at least "
            f"{number(DECAY_HOLDS)} ({_LAYERS})"
        ),
        meaning=(
            "Decay pulls the weights to 0, and the gradients hardly hold them. That is right for "
            "weights that nothing uses. Otherwise what is learned is soon forgotten (with "
            "`weight_decay` after about 1 / (learning_rate weight_decay) steps), and gradients "
            "vanish behind weights that are too small. A larger learning rate makes the decay "
            "stronger, too. With `l2` the penalty decides where the gradients of the loss are "
            "small, as both are divided by the same root."
        ),
        advice=(
            "less of it: 0.01 to 0.1 are usual for `weight_decay`, 0.00001 to 0.0001 for `l2`; or "
            "none for these layers, by `groups`."
        ),
        rule=_symptoms.strong_decay,
        explained_by=("non-finite weights",),
    ),
    "dead gradients": Ailment(
        number="`zero_gradient_share`, `all_zero`",
        threshold=(
            f"100 % of a variable, from step {JUDGED_FROM} on: a warning if so in {DEAD_SAMPLES} "
            "samples, otherwise a note; a note for a bias whose layer learns"
        ),
        meaning=(
            "The weights no longer learn. Usual causes: all units of a ReLU layer give 0 for every "
            "input (after steps that were too large, or with a very negative bias), a saturated "
            "activation, inputs that are all 0, or a loss that does not depend on the layer. A "
            "bias before a normalisation has no effect, and in a problem of few weights the "
            "minimum may have been reached."
        ),
        advice=(
            "check that the loss depends on the layer (no `stop_gradient`, argmax or integers in "
            "between); start again with a lower learning rate, a smaller initial scale, or an "
            "activation that is nowhere flat, such as leaky ReLU."
        ),
        rule=_symptoms.dead_gradients,
    ),
    "vanished learning rate": Ailment(
        number="`learning_rate`, `largest_learning_rate`, `at_rest`, `update_ratio`",
        threshold=(
            f"less than {percent(RATE_LEFT)} of the largest, while the ratio is below "
            f"{number(SMALLEST_RATIO)} or the rate 0: a note, and a warning if the rate was so in "
            f"{REST_SAMPLES} and more than {percent(REST_SHARE)} of the samples; or a rate that "
            "has always been 0, a note for groups whose factor it is"
        ),
        meaning=(
            "The weights stand still, however large the gradients are, as it would take more than "
            "a million such steps to move them by their own size. Most schedules end like this."
        ),
        advice=(
            "end the training here if the schedule has ended as planned. Otherwise give the "
            "schedule more steps (it counts steps, not epochs, and goes on counting after a load), "
            "or a final rate above 0."
        ),
        rule=_symptoms.vanished_learning_rate,
        explained_by=("non-finite weights",),
    ),
    "too large updates": Ailment(
        number="`update_norm`, `update_ratio`",
        threshold=(
            f"more than {percent(LARGEST_FRESH_RATIO)} of `size**(1/4)`, the norm of newly "
            f"initialised weights, or a ratio of more than {percent(LARGEST_RATIO)} ({_LAYERS} and "
            "after the warm-up)"
        ),
        meaning=(
            "Each step undoes what earlier ones have learned; units saturate or die, and the loss "
            "jumps. The learning rate alone sets how long a step is: about learning_rate for each "
            "weight, and up to 1 / (1 - momentum) times as much with momentum."
        ),
        advice=(
            "a tenth of the learning rate, and again a tenth. 0.001 without momentum suits most "
            "networks, 0.0001 with momentum 0.9."
        ),
        rule=_symptoms.too_large_updates,
        explained_by=("non-finite weights", "exploding centered steps", "weight decay dominates"),
    ),
    "epsilon decides": Ailment(
        number="`epsilon_share`, `update_norm`",
        threshold=(
            f"a note from {percent(EPSILON_SHARE)} on; a warning if a step of a weight, relative "
            f"to learning_rate / (1 - momentum), is also below {percent(EPSILON_BRAKE)} of that in "
            f"the layer of the longest steps, or below {percent(EPSILON_BRAKE_OF_ALL)} ({_LAYERS})"
        ),
        meaning=(
            "These gradients are so small that epsilon, not their average, divides them. The "
            "weights take the steps of plain gradient descent: the smaller the gradient, the "
            "shorter the step. That is right where the loss can fall no further, common in the "
            "first steps, and without harm in a bias that a normalisation or a softmax takes away "
            "again; otherwise the layer learns too slowly."
        ),
        advice=(
            "a smaller epsilon (1e-10, or 1e-8 with `epsilon_inside_sqrt=False`; for single layers "
            "by `groups`), or larger gradients: a loss that is not divided by so much, or "
            "normalisation layers against vanishing gradients."
        ),
        rule=_symptoms.deciding_epsilon,
        explained_by=("non-finite weights", "frozen weights"),
    ),
    "stuck weights": Ailment(
        number="`stuck_share`",
        threshold=(
            f"from {percent(STUCK_SHARE)} on; in float32 and float64 only kernels and tables of at "
            f"least {SMALLEST_LAYER} weights, and a note {_SLOW}"
        ),
        meaning=(
            "Updates are smaller than half the distance between neighbouring numbers of the dtype, "
            "so rounding takes them away. That distance is 0.4 to 0.8 % of the weight in bfloat16, "
            "0.05 to 0.1 % in float16, and 0.00001 % in float32."
        ),
        advice=(
            "a larger learning rate. If the weights are in half precision, keep them in float32 "
            "and compute in half precision: `keras.config.set_dtype_policy('mixed_bfloat16')`."
        ),
        rule=_symptoms.stuck_weights,
        explained_by=("non-finite weights", "weight decay dominates", "epsilon decides"),
    ),
    "too small updates": Ailment(
        number="`update_ratio`",
        threshold=f"less than {number(SMALLEST_RATIO)} ({_LAYERS}); a note {_SLOW}",
        meaning=(
            "It would take more than a million such steps to move the weights by their own size, "
            "so the layer hardly learns."
        ),
        advice=(
            "nothing at the end of a schedule. Otherwise a larger learning rate: 0.001 suits most "
            "networks. If it concerns a single layer, see the factor of its group."
        ),
        rule=_symptoms.too_small_updates,
        explained_by=(
            "non-finite weights",
            "frozen weights",
            "weight decay dominates",
            "epsilon decides",
        ),
    ),
    "clipping always on": Ailment(
        number="`clipped_share`, `clipped_gradient_norm` / `gradient_norm`",
        threshold=(
            f"from {percent(CLIPPED_SHARE)} of at least {CLIPPED_SAMPLES} samples on: a warning if "
            f"at most {percent(CLIPPED_LEFT)} of the norm are left, otherwise a note (with "
            "`clipvalue` nothing)"
        ),
        meaning=(
            "RMSprop divides gradients by their own recent size, so making all of them smaller "
            "changes nothing, except that epsilon weighs more. Clipping helps against single large "
            "gradients; where it always acts, all batches count the same."
        ),
        advice=(
            "a limit somewhat above the usual norm, so that only exceptions are clipped, or no "
            "clipping at all."
        ),
        rule=_symptoms.permanent_clipping,
        explained_by=("non-finite weights",),
    ),
    "averages not warmed up": Ailment(
        number="`step`; `mean_rate` with `initial_square_average`",
        threshold=(
            "a note: fewer than 1 / (1 - rho) steps without `bias_correction`; or more than "
            f"{percent(START_SHARE)} of the average are left of `initial_square_average`"
        ),
        meaning=(
            "The averages of squared gradients still show their start. From 0, steps are longer by "
            "`1 / sqrt(1 - rho**t)`, which is 1 / sqrt(1 - rho) in the first; from a start above "
            "the squared gradients they are shorter. Both pass."
        ),
        advice=(
            "nothing, if the loss falls. Otherwise a learning rate that starts small (warm-up), or "
            "`bias_correction=True`."
        ),
        rule=_symptoms.cold_averages,
    ),
    "one variable dominates": Ailment(
        number="`gradient_norm` of the variable and in total, with `global_clipnorm`",
        threshold=(
            f"a note: more than {percent(DOMINATING_SHARE)} of the squared norm (of at least "
            f"{DOMINATED_VARIABLES} variables)"
        ),
        meaning=(
            "The global norm is that of one variable, so clipping shortens the gradients of all "
            "others whenever this one's is large."
        ),
        advice=(
            "`clipnorm`, which clips each variable by its own norm, or a normalisation or a "
            "smaller initial scale in that layer."
        ),
        rule=_symptoms.dominating_variable,
    ),
    "no gradient": Ailment(
        number="`sampled`",
        threshold="a note: 0, while other variables were sampled since it was there",
        meaning=(
            "The loss does not depend on the variable, so its gradient is None and it does not "
            "move."
        ),
        advice=(
            "use the layer's output in the loss, or set `trainable = False` if it should stay as "
            "it is."
        ),
        rule=_symptoms.missing_gradients,
    ),
}
