"""The public `RMSprop` optimizer."""

import dataclasses
import functools
import logging
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
from keras import backend, ops

from keras_rmsprop import _assignment, _description, _reporting, _state, _subclasses
from keras_rmsprop._diagnostics import _explanation
from keras_rmsprop._diagnostics._explanation import Explanation
from keras_rmsprop._diagnostics._report import Report
from keras_rmsprop._execution import _interrupts, _op_by_op, _tables, engine
from keras_rmsprop._execution._interface import Rate, Step
from keras_rmsprop._math import _rounding, _rule, _step
from keras_rmsprop._math._rule import Coefficients, Tensor
from keras_rmsprop._settings import _groups, _plan, _sampling, _validation
from keras_rmsprop._settings._groups import Groups, HeldGroups
from keras_rmsprop._settings._sampling import Diagnostics
from keras_rmsprop._variables import (
    _building,
    _exclusions,
    _gradients,
    _ledger,
    _pending,
    _watch,
)
from keras_rmsprop._variables._exclusions import Exclusions
from keras_rmsprop._variables._gate import Gate
from keras_rmsprop._variables._ledger import Ledger
from keras_rmsprop._variables._members import EarlierGroups, Members
from keras_rmsprop._variables._roster import (
    CounterVariables,
    ProgressVariables,
    Roster,
    flat_without_none,
    is_fixed,
    is_overwritten,
)
from keras_rmsprop._variables._watch import Watch

_log = logging.getLogger(__name__)

LearningRate: TypeAlias = (
    float | keras.optimizers.schedules.LearningRateSchedule | Callable[[], float | Tensor]
)


@keras.saving.register_keras_serializable(package="keras_rmsprop")
class RMSprop(keras.optimizers.Optimizer):
    r"""RMSprop: divides each gradient by a running root mean square of recent gradients.

    For step t = 1, 2, ... of a weight w with gradient g:

        k_t = 1 - rho        or, with `bias_correction`, (1 - rho) / (1 - rho**t)

        s_t = (1 - k_t) * s_{t-1} + k_t * g**2            s_0 = initial_square_average
        r_t = sqrt(s_t + epsilon)    or, epsilon outside, sqrt(s_t) + epsilon
        w  <- w - learning_rate * g / r_t

    `centered=True` makes s the running variance about the mean gradient m, computed as a sum of
    squares that cannot fall below zero:

        d   = g - m_{t-1}
        m_t = m_{t-1} + k_t * d
        s_t = (1 - k_t) * (s_{t-1} + k_t * d**2)

    `momentum > 0` moves the weight by a buffer b:

        b_t = momentum * b_{t-1} + learning_rate * g / r_t,   w <- w - b_t
        b_t = momentum * b_{t-1} + g / r_t,   w <- w - learning_rate * b_t
                                                          with `lr_in_momentum=False`

    With its defaults it takes the steps of `keras.optimizers.RMSprop`, and its first fifteen
    arguments are Keras's, in Keras's order. The slots, which have each weight's shape and its
    dtype (but at least float32), are `square_average` (s), `gradient_average` (m, only if
    centered) and `momentum` (b, only if `momentum > 0`).

    Args:
        learning_rate: step size; a number >= 0, a
            `keras.optimizers.schedules.LearningRateSchedule`, or a callable without arguments
            that returns the rate of the next step. A number is stored in
            `keras.config.floatx()`. Default 0.001.
        rho: decay rate of the running averages, in [0, 1); they remember about 1 / (1 - rho)
            steps. Default 0.9. torch calls it `alpha`, TF1 and optax `decay`.
        momentum: decay rate of the momentum buffer, in [0, 1). Default 0.0, no buffer.
        epsilon: keeps the root away from zero, >= 0; unit: gradient squared, or gradient if
            `epsilon_inside_sqrt=False`. Default 1e-7.
        centered: whether to divide by the standard deviation of the gradient rather than its
            root mean square. Default False.
        weight_decay: None, or decoupled decay >= 0: w <- w - learning_rate * weight_decay * w
            before the update. Default None. torch's `weight_decay` is `l2` here.
        clipnorm: None, or the maximum norm > 0 of each variable's gradient. Default None. For
            this and the other optional numbers except `loss_scale_factor`, 0 means None, as in
            Keras.
        clipvalue: None, or the maximum size > 0 of each element of a gradient. Default None.
        global_clipnorm: None, or the maximum norm > 0 of all gradients together. Default None.
            At most one of the three clips can be set.
        use_ema: whether to keep an exponential moving average of the weights. `fit` replaces
            the weights by it at the end; in your own loop call
            `optimizer.finalize_variable_values(variables)`. Default False.
        ema_momentum: decay rate of that average, in [0, 1]. Default 0.99.
        ema_overwrite_frequency: None, or the number of steps (an integer >= 1) after which the
            average replaces the weights during training. Default None.
        loss_scale_factor: None, or a factor > 0 by which `scale_loss` multiplies the loss and
            `apply` divides the gradients. Default None.
        gradient_accumulation_steps: None, or the number of calls (an integer >= 2) whose mean
            gradient makes one step. A variable without a gradient in the call that completes
            the step does not move, and keeps its sum for the next step. Default None.
        name: name of the optimizer, which prefixes the names of its variables. Default None.
        nesterov: whether the step looks ahead along the momentum buffer; needs `momentum`.
            Default False.
        epsilon_inside_sqrt: whether epsilon is under the root. Default True.
        lr_in_momentum: whether the momentum buffer holds steps, so that a change of the
            learning rate affects new gradients only, or unscaled directions, so that it affects
            the whole buffer at once. Default True.
        bias_correction: whether to correct the averages for their start from zero, as Adam does.
            Excludes `initial_square_average`. Default False.
        initial_square_average: s_0, >= 0; unit: gradient squared. Default 0.0; TF1 starts
            from 1.0.
        l2: coefficient >= 0 of the penalty l2 / 2 * |w|**2; adds l2 * w to the gradient, after
            clipping. Default 0.0.
        maximize: whether to ascend. Default False.
        lazy: whether to defer the decay of table rows that a batch does not touch, so that the
            cost of a step depends on the rows touched, not on the table. The weights are those of
            `lazy=False`. It affects `tf.IndexedSlices` gradients only, so the TensorFlow backend
            only. Dense gradients cost the same as without it, and so do all gradients with
            `gradient_accumulation_steps`, whose sums are dense, and under a distribution
            strategy, which sums over replicas. Excludes options that move rows without a
            gradient: `momentum`, `weight_decay`, `l2`, `use_ema`, and constraints on the tables.
            An id outside the table is refused, with or without `lazy`, and nothing changes;
            inside your own `jit_compile=True` function, which cannot raise, such rows are
            dropped. Default False.
        skip_nonfinite: whether to skip a call whose gradients contain NaN, infinity or a value
            whose square overflows, or whose norm overflows when clipping. Weights, slots and
            counter then stay unchanged, and `skipped_steps` is incremented. The gradients are
            checked after unscaling and summing over replicas, before accumulation and clipping.
            Default False.
        jit_compile: whether an eager step, or one inside a plain `tf.function`, runs as one
            compiled call. "auto" compiles if possible, and otherwise runs op by op with the same
            result; inside a plain `tf.function` it compiles only few and large weights, so that
            the first batch does not wait. On torch "auto" runs in place with multi-tensor
            operations; True compiles the whole step with TorchInductor, which needs a C++ compiler
            (on GPUs, Triton) and takes seconds, or half a minute for hundreds of tensors. True
            always compiles, and a step that cannot be compiled raises ValueError with the reason.
            False never compiles. Default "auto".

        groups: None, or settings for single variables: a mapping from path patterns to mappings
            with any of `learning_rate` (a factor >= 0 of the optimizer's rate), `rho`, `momentum`,
            `epsilon`, `weight_decay`, `l2`, `maximize`, `lazy` and `transform`. Settings that a
            group omits are the optimizer's. Counter, schedule, clipping, moving average,
            accumulation and skipping are the same for all. A pattern is an exact path, which takes
            precedence, or a regular expression that matches a whole path, with or without the
            model's name. Variables without a path are matched by name. The build raises an error
            if two patterns match a variable, or a pattern matches none. Default None.
        transform: None, or a function of (gradient, weight) that returns the gradient to use, of
            the same shape and dtype; or the name under which it is registered. It is called for
            each variable after clipping, with both tensors dense and in float32 or wider, and is
            compiled with the step. `keras_rmsprop.transforms` provides some and explains how to
            write one. Cannot be combined with `lazy`. Default None.
        state_dtype: None, or "bfloat16" to store the slots in it, which halves their memory. A step
            widens them to float32, computes as without this option, and rounds the results up or
            down at random, such that the mean is exact: rounding to the nearest number would stop
            an average whose steps are small. The random numbers depend only on the step, the
            variable's position and the element's index, so a resumed run goes on alike. Slots of
            float64 variables, accumulators and moving averages of the weights stay as they are.
            Cannot be combined with `lazy`. Default None.
        diagnostics: None, or which statistics of steps to keep: True, or a
            `keras_rmsprop.Diagnostics`. They are computed apart from the steps, whose results do
            not change, to the bit. See the method `diagnostics`. Default None.

    Raises:
        ValueError: if an argument is unknown, has the wrong type or is out of range, or if two
            exclude each other; the message says what was received and what is accepted.
            Only `decay`, from old Keras versions, is ignored with a warning, as in Keras.

    Sources: Hinton, "Neural Networks for Machine Learning", lecture 6e (2012); Graves,
    arXiv:1308.0850 (2013) for `centered` and `momentum`; West, CACM 22 (1979) 532-535 for the
    centered second moment.

    Example:
    >>> import keras, keras_rmsprop
    >>> weight = keras.Variable([1.0, 2.0])
    >>> optimizer = keras_rmsprop.RMSprop(learning_rate=0.1)
    >>> optimizer.apply([keras.ops.convert_to_tensor([3.0, -4.0])], [weight])
    >>> [round(float(w), 4) for w in weight.numpy()]
    [0.6838, 2.3162]
    """

    # Defined by Keras, without types.
    built: bool
    _distribution_strategy: Any

    @_pending.accept_config_entries
    @_validation.explain_unknown_arguments
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        nesterov: bool = False,
        epsilon_inside_sqrt: bool = True,
        lr_in_momentum: bool = True,
        bias_correction: bool = False,
        initial_square_average: float = 0.0,
        l2: float = 0.0,
        maximize: bool = False,
        lazy: bool = False,
        skip_nonfinite: bool = False,
        jit_compile: Literal["auto", True, False] = "auto",
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        transform: Callable[[Tensor, Tensor], Tensor] | str | None = None,
        state_dtype: Literal["bfloat16"] | None = None,
        diagnostics: bool | Diagnostics | None = None,
    ) -> None:
        _subclasses.check_names(self, RMSprop)
        given = {
            "rho": rho,
            "momentum": momentum,
            "epsilon": epsilon,
            "centered": centered,
            "weight_decay": weight_decay,
            "clipnorm": clipnorm,
            "clipvalue": clipvalue,
            "global_clipnorm": global_clipnorm,
            "use_ema": use_ema,
            "ema_momentum": ema_momentum,
            "ema_overwrite_frequency": ema_overwrite_frequency,
            "loss_scale_factor": loss_scale_factor,
            "gradient_accumulation_steps": gradient_accumulation_steps,
            "nesterov": nesterov,
            "epsilon_inside_sqrt": epsilon_inside_sqrt,
            "lr_in_momentum": lr_in_momentum,
            "bias_correction": bias_correction,
            "initial_square_average": initial_square_average,
            "l2": l2,
            "maximize": maximize,
            "lazy": lazy,
            "skip_nonfinite": skip_nonfinite,
            "jit_compile": jit_compile,
            "transform": transform,
            "state_dtype": state_dtype,
        }
        settings = {key: _validation.checked(key, value) for key, value in given.items()}
        watching = _sampling.checked(diagnostics)
        own = _groups.checked_groups(groups)
        _groups.check_together(settings, own)
        super().__init__(
            learning_rate=_validation.checked_learning_rate(learning_rate),
            name=name,
            **{key: settings.pop(key) for key in _KERAS_OPTIONS},
        )
        self._watching = watching
        self._gate = Gate()
        self._ledger = Ledger()
        # Whether the variables being added are slots that `state_dtype` is about.
        self._adds_slots = False
        self._roster = Roster([], [], CounterVariables(self._iterations))
        self._derived: _plan.Derived | None = None
        # Whether a subclass computes hyperparameters in properties, which can change unnoticed.
        self._computes_settings = any(
            hasattr(type(self), name) for name in _validation.HYPERPARAMETERS
        )
        self._exclusions = Exclusions()
        self._held_groups = HeldGroups(own)
        self._members = Members()
        self._last_load = _state.LastLoad()
        for key, value in settings.items():
            # Already checked, one by one and together.
            super().__setattr__(key, value)
        if settings["centered"] and settings["bias_correction"]:
            warnings.warn(
                "`centered=True` with `bias_correction=True` makes the first variance exactly "
                "zero, so the first step is learning_rate * gradient / sqrt(epsilon) (optax does "
                "the same). Leave one of them out, or use a large epsilon.",
                stacklevel=4,
            )

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the slots of `variables`.

        Args:
            variables: the variables whose gradients `apply` will receive.
        """
        if self.built:
            return
        before = list(self._variables)
        with _ledger.undone_on_failure(self):
            patterns = list(self._held_groups.own)
            before_this = EarlierGroups.of(self._roster, patterns, variables)
            members = self._members.of(patterns, variables, before_this)
            excluded = self._exclusions.resolve(variables)
            if excluded is not None:
                super().exclude_from_weight_decay(*excluded)
                self._exclusions.set(*excluded)
            super().build(variables)
            self._build_slots(variables, members)
            if self._ledger.before_build is None:
                self._ledger.before_build = before

    def _build_slots(self, variables: Sequence[keras.Variable], members: Sequence[int]) -> None:
        """Create the slots that Keras's `build` does not create."""
        initial = self.initial_square_average
        start: Any = "zeros"
        if initial != 0.0:
            # A callable, because keras.initializers.Constant would round to float32.
            def start(shape: Any, dtype: str) -> Tensor:
                wide = _step.accumulator_dtype(dtype)
                return ops.cast(ops.convert_to_tensor(np.full(shape, initial, wide)), dtype)

        add = self._add_slots
        settings = self._settings_in(members)
        self._square_averages = add(variables, "square_average", start)
        self._momentums = _building.create_where(
            variables, [own.momentum > 0.0 for own in settings], lambda some: add(some, "momentum")
        )
        self._gradient_averages = add(variables, "gradient_average") if self.centered else []
        progress: list[ProgressVariables | None] = [None] * len(variables)
        lazy = [own.lazy for own in settings]
        if any(lazy):
            reason = self._why_not_lazy()
            if reason is None:
                progress = _building.create_progress(self, variables, lazy)
            else:
                _log.warning("%s: `lazy=True` changes nothing, because %s.", self.name, reason)
        skipped = None
        if self.skip_nonfinite:
            skipped = self.add_variable(
                (), dtype="int", aggregation="only_first_replica", name="skipped_steps"
            )
        rates = _building.group_rates(self, self._held_groups.rates())
        counters = CounterVariables(self._iterations, skipped, rates)
        parameters = _building.parameters_of(
            self._trainable_variables,
            self._square_averages,
            self._gradient_averages,
            self._momentums,
            self._accumulated_gradients if self.gradient_accumulation_steps else [],
            self._model_variables_moving_average if self.use_ema else [],
        )
        group_numbers = None
        traced = engine.TRACED_VARIABLES
        if rates is not None and traced is not None and not self._computes_settings:
            numbers = _plan.numbers_of(self, list(self._own_groups().values()))
            group_numbers = _building.group_numbers(
                self,
                variables,
                _plan.table_of(numbers),
                self._roster.group_numbers,
                is_tracked=traced == "passed",
            )
        self._roster = Roster(parameters, progress, counters, members, group_numbers)
        self._roster.watch = self._new_watch()
        self._derived = None
        if self.use_ema and hasattr(self, "_distribution_strategy"):
            self._distribution_strategy = engine.swapping_strategy(
                self._distribution_strategy, self._roster.parameters
            )

    def _new_watch(self) -> Watch | None:
        """Create what `diagnostics` needs, for the variables of the roster."""
        if self._watching is None:
            return None
        asked, roster = self._watching, self._roster
        is_tracked = engine.TRACED_VARIABLES == "passed"
        chosen = _watch.chosen(roster, asked.patterns)
        return _watch.watch_of(
            self, roster, chosen, asked.every, asked.histograms, is_tracked=is_tracked
        )

    def _add_slots(
        self, variables: Sequence[keras.Variable], name: str, start: Any = "zeros"
    ) -> list[keras.Variable | None]:
        """Create slots in the `state_dtype`."""
        self._adds_slots = True
        try:
            slots: list[keras.Variable | None] = self.add_optimizer_variables(
                variables, name, start
            )
        finally:
            self._adds_slots = False
        return slots

    def add_variables(
        self,
        variables: Sequence[keras.Variable],
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Add variables to a built optimizer, such as those of layers that were frozen.

        The existing state is kept, and the new variables start with fresh slots. Variables that
        the optimizer already has are ignored. To unfreeze layers of a model:

            layer.trainable = True
            model.optimizer.add_variables(model.trainable_variables)
            model.compile(model.optimizer, loss)

        The optimizer's variables are then in the order in which one `build` with all weights
        creates them. An overridden `build` runs again, over all weights, and gets back the
        variables that it created before.

        Args:
            variables: variables whose gradients `apply` will receive from now on. If they include
                all that the optimizer has, it adopts their order, which Keras's JAX trainer relies
                on; otherwise the new ones come last.
            groups: None, or further groups, of new or existing variables, in the constructor's
                format. Default None.

        Raises: whatever `build` raises, and ValueError if `groups` is invalid; the optimizer is
            then unchanged.
        """
        given = {self._var_key(v): v for v in variables}
        own = _groups.joined(_assignment.groups_in_use(self), groups)
        _groups.check_together(self._settings(), own)
        if not self.built:
            with _interrupts.deferred(), _ledger.undone_on_failure(self):
                self._held_groups = HeldGroups(own)
                self.build(list(given.values()))
            return
        held = {self._var_key(v): v for v in self._trainable_variables}
        new = [key for key in given if key not in held]
        if not new and not groups:
            return
        together = held | {key: given[key] for key in new}
        order = given if held.keys() <= given.keys() else together
        with _interrupts.deferred(), _ledger.undone_on_failure(self), self._ledger.rebuilding():
            if groups:
                # The updates that rows have missed were made with the old settings.
                self.settle()
            before = self._roster
            self._held_groups = HeldGroups(own)
            self._build_again([together[key] for key in order])
            if engine.TRACED_VARIABLES == "captured":
                was_traced = before.traced_plan is not None or before.was_traced_before
                self._roster.was_traced_before = was_traced
            _watch.carry_over(before, self._roster)
            for key in new:
                parameter = self._roster.parameters[self._get_variable_index(together[key])]
                if parameter.average is not None:
                    # As on the first step, the average starts as a copy.
                    weight = engine.copy(engine.read(parameter.weight))
                    parameter.average.assign(ops.cast(weight, parameter.average.dtype))
        if not new and self._roster.was_traced_before:
            warnings.warn(
                "Functions that have been traced, such as that of `fit`, go on with the groups "
                "that there were, and do not see assignments. Call `model.compile` afterwards.",
                stacklevel=2,
            )

    def _build_again(self, variables: list[Any]) -> None:
        """Build with these variables, reusing those that the optimizer has created."""
        before, roster = list(self._variables), self._roster
        slots = flat_without_none(*roster.parameters, *filter(None, roster.progress))
        tracked = set(map(id, before))
        _ledger.track_in(self, [v for v in self._ledger.before_build or () if id(v) in tracked])
        self._trainable_variables_indices: dict[Any, int] = {}
        self.built = False
        self.build(variables)
        # Variables that were added after the build.
        for variable in self._ledger.remaining(before, self._variables, vars(self).values(), slots):
            self._track_variable(variable)

    def _why_not_lazy(self) -> str | None:
        """Return why `lazy` has no effect, or None if it has."""
        reasons = {
            f"gradients are dense on the {backend.backend()} backend": not engine.SPARSE_GRADIENTS,
            "the sums of gradient accumulation are dense": bool(self.gradient_accumulation_steps),
            "a subclass's `update_step` works on whole variables": self._overrides(
                *_subclasses.HOOKS
            ),
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Any) -> None:
        """Advance one variable and its slots by one step.

        `apply` updates all variables together; this is Keras's documented hook for a single one.
        If a subclass overrides it, or `assign`, it is called once per variable and step, and not
        for calls that only accumulate or that `skip_nonfinite` skips. In a traced function, which
        must include the call either way, its writes to variables are then undone.

        Args:
            gradient: the gradient after clipping, of the variable's shape.
            variable: one of the built variables.
            learning_rate: the rate of this step, a float or a scalar tensor.
        """
        index = self._position(variable)
        form, coefficients = _plan.form_of(self._settings_of(index)), self._coefficients_of(index)
        _tables.settle(self._roster, index, coefficients)
        owners = self._roster.parameters[index]._replace(accumulator=None, average=None)
        before = owners.read(engine.read)
        t = ops.convert_to_tensor(self.iterations) + 1
        dtype = _step.arithmetic_dtype(before)
        step = _rule.step_coefficients(form, coefficients, learning_rate, t, dtype)
        wide = _rounding.widened(before)
        after = _rule.update(form, step, wide, engine.dense(gradient, variable))
        if _rounding.is_narrow(before):
            key = _rounding.key_of(_rounding.key_of_step(t - 1), index)
            after = _rounding.narrowed(after, key)
        for owner, value in zip(owners[1:], after[1:], strict=True):
            if owner is not None:
                self.assign(owner, value)
        if self._overrides("assign_sub"):
            # Keras's own `update_step` moves the weight this way.
            self.assign_sub(owners.weight, before.weight - after.weight)
        else:
            self.assign(owners.weight, after.weight)
        _tables.count_update(self._roster, index, form, coefficients, t)

    @engine.do_not_convert
    def apply(
        self,
        grads: Sequence[Tensor | None],
        trainable_variables: Iterable[keras.Variable] | None = None,
    ) -> None:
        """Make one step.

        Args:
            grads: for each variable a gradient of its shape, or None.
            trainable_variables: the variables; by default those the optimizer was built with.
                The first call builds the optimizer with them.

        Raises:
            ValueError: if all gradients are None, if gradients and variables do not match in
                number or shape, or if a variable is unknown or occurs twice. Nothing has changed
                then.
        """
        is_plain = not self._overrides(*_subclasses.METHODS)
        if is_plain and self._are_ready(grads, trainable_variables):
            aligned = list(grads)
        else:
            # Dispatch on the type: asking a TensorFlow tensor for its shape takes a microsecond.
            gradients = [
                _gradients.as_tensor(g) if type(g) in _gradients.PYTHON_TYPES else g for g in grads
            ]
            if not gradients:
                return
            if self._overrides(*_subclasses.KERAS_STAGES):
                self._apply_as_keras(gradients, trainable_variables)
                return
            aligned = self._aligned(gradients, trainable_variables)
        if engine.is_capturing_python():
            self._make_step(aligned, is_plain)
        else:
            self._gate.make_step(self._make_step, aligned, is_plain)

    def _make_step(self, gradients: Sequence[Tensor | None], is_plain: bool) -> None:
        engine.run(self._next_step(is_plain), gradients)

    def _apply_as_keras(
        self, gradients: list[Tensor | None], variables: Iterable[keras.Variable] | None
    ) -> None:
        """Make one step through Keras's own stages, some of which a subclass overrides.

        Raises: ValueError for options that those stages do not support.
        """
        names = ("skip_nonfinite", "l2", "maximize", "transform")
        beyond = {name: getattr(self, name) for name in names} | {"groups": self._held_groups.own}
        given = [name for name, value in beyond.items() if value]
        if not given and self.jit_compile is True:
            given = ["jit_compile=True"]
        _subclasses.check_keras_stages_suffice(self, RMSprop, given)
        self._gate.make_step(super().apply, gradients, variables)

    @property
    def _velocities(self) -> list[keras.Variable | None]:
        """The square averages under Keras's name, for code written for Keras's class."""
        return self._square_averages

    @property
    def _average_gradients(self) -> list[keras.Variable | None]:
        """The gradient averages under Keras's name."""
        return self._gradient_averages

    def get_config(self) -> dict[str, Any]:
        """Return the arguments from which to re-create this optimizer, without its state."""
        config = super().get_config()
        own = set(_validation.HYPERPARAMETERS) - set(_KERAS_OPTIONS)
        config.update({name: getattr(self, name) for name in sorted(own)})
        _assignment.with_registered_name(config)
        groups = _assignment.groups_in_config(self)
        weights = self._roster.weights
        config["groups"] = groups or None
        config["diagnostics"] = (
            None if self._watching is None else dataclasses.asdict(self._watching)
        )
        config |= self._members.config(list(groups), weights, self._roster.members)
        return config | self._exclusions.config(weights, self._var_key)

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "RMSprop":
        """Create an optimizer from the config of this class or of `keras.optimizers.RMSprop`."""
        config = dict(config)
        excluded = config.pop(_exclusions.KEY, None)
        optimizer: RMSprop = super().from_config(config, custom_objects)
        if excluded is not None:
            optimizer._exclusions.set_pending(excluded)
        return optimizer

    def save_own_variables(self, store: Any) -> None:
        """Write the state to the store of a Keras file (Keras's hook)."""
        _state.write_state(_state.state_of(self._parts()), store)

    def load_own_variables(self, store: Any) -> None:
        """Load the state from the store of a Keras file (Keras's hook).

        If the optimizer is not built, nothing is loaded, as in Keras: it starts fresh, and a
        warning says how to resume. Otherwise the state that fits is loaded. It is matched to the
        variables by position and kind of slot; if the saved variables differ from the optimizer's,
        by user-given names and by shapes, where these are unambiguous. The rest starts fresh.
        Files of `keras.optimizers.RMSprop` are accepted, and their averages converted. A file
        without state, or with another optimizer's, gives a warning and changes nothing. (Adagrad's
        state cannot always be distinguished from RMSprop's.)

        Raises:
            ValueError: if the state is damaged or has a later format; the optimizer is unchanged.
        """
        found = _state.read_file(store, self._parts())
        if isinstance(found, _state.State):
            self._load(found)
            return
        self._last_load.report = _state.LoadReport((), (), found.entries)
        if found.reason is not None:
            warnings.warn(found.reason, stacklevel=2)

    def state_dict(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the state as NumPy arrays by name, consistent even while other threads step.

        (Steps inside TensorFlow graphs cannot be blocked: while there are other threads, the state
        is read until three reads agree.)

        The names are `iteration`, `learning_rate` unless it is a schedule or callable,
        `skipped_steps` with `skip_nonfinite`, and `<variable's path>/<kind>` for each slot, where
        kind is `square_average`, `gradient_average`, `momentum`, `accumulator` or `average`; with
        `lazy=True` also its counts. A subclass's own variables have the names that they were
        added with, prefixed by their weight's path if they were added for one. Unlike files, the
        dict does not record the options that change the meaning of the arrays (`lr_in_momentum`,
        `gradient_accumulation_steps`).
        """
        return _state.to_dict(_state.state_of(self._parts()))

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Load the state from arrays by name, as `state_dict` returns them.

        Args:
            state: arrays by name, from an optimizer with the same `lr_in_momentum` and, if there
                are accumulators, `gradient_accumulation_steps`.
            strict: whether every name must match. If False, what matches is restored, what is
                missing starts fresh, and `load_report` says which is which.

        Raises:
            ValueError: if the optimizer is not built, names do not match and `strict` is True, a
                shape is wrong, or a value is impossible for RMSprop; the optimizer is unchanged.
        """
        if not self.built:
            raise ValueError(
                "`load_state_dict` matches state with variables by name, so the optimizer must "
                "be built first. Call `optimizer.build(variables)`."
            )
        self._load(_state.from_dict(state, self._parts(), strict))

    @property
    def load_report(self) -> _state.LoadReport | None:
        """What the last load restored, initialized and dropped; None before the first load."""
        return self._last_load.report

    def settle(self) -> None:
        """Bring the averages of all rows up to date, as they always are with `lazy=False`.

        Further training gives the same weights with or without this call. It takes a pass over all
        slots, and does nothing without `lazy=True`.
        """
        for index in range(len(self._roster.progress)):
            self._settle(index)

    def effective_learning_rate(self, variable: Any) -> Tensor:
        """Return learning_rate / r_t: how far one unit of gradient moves each weight now.

        Args:
            variable: one of the variables the optimizer was built with.

        Returns: a tensor of the variable's shape, float32 or wider; NaN for variables without
            slots, such as float8 scales and integers.
        Raises: ValueError if the optimizer is not built, or not with this variable.
        """
        if not self.built:
            raise ValueError(
                "The effective learning rate needs the running averages, which do not exist "
                "before the optimizer is built. Make a step, or call `optimizer.build(variables)`."
            )
        position = self._position(variable)
        settings, coefficients = self._settings_of(position), self._coefficients_of(position)
        averages, _ = _tables.settled(self._roster, position, coefficients)
        square_average = averages.square_average
        if square_average is None:
            return ops.full(self._roster.shapes[position], math.nan)
        dtype = _step.arithmetic_dtype(averages)
        square_average = ops.cast(square_average, dtype)
        rate = _rule.number_in(_op_by_op.tensor_of(self._next_learning_rate(), engine.read), dtype)
        group = self._roster.members[position]
        if group:
            factors = engine.read(self._roster.counters.rates)
            rate = rate * _rule.number_in(factors[group - 1], dtype)
        epsilon = _rule.number_in(coefficients.epsilon, dtype)
        return rate / _rule.root(_plan.form_of(settings), square_average, epsilon)

    def diagnostics(self) -> Report:
        """Return the statistics of the steps that have been sampled.

        A step is sampled every so many (see the argument `diagnostics`), the first one to begin
        with, in eager loops and in functions that are traced or compiled, such as that of `fit`;
        with accumulation, the call that completes it. (Inside a function of yours that
        `torch.compile` compiles, no step is.) The statistics of each variable, and of all together,
        are computed from what the step reads, apart from the step itself, whose results do not
        change. They take little memory, are not part of the state that is saved, and begin anew
        when a state is loaded.

        Returns: a report, whose `variables` holds plain numbers by the variable's path, and `total`
            those of all of them; printed, or shown in a notebook, it is a table of the variables
            that look worst. See `keras_rmsprop.callbacks` to follow it during training.
        Raises: ValueError if the optimizer was made with `diagnostics=None`.

        Example:
        >>> import keras, keras_rmsprop
        >>> weight = keras.Variable([3.0, 4.0], name="weight")
        >>> optimizer = keras_rmsprop.RMSprop(learning_rate=0.1, diagnostics=True)
        >>> optimizer.apply([keras.ops.convert_to_tensor([0.0, 2.0])], [weight])
        >>> found = optimizer.diagnostics().variables["weight"]
        >>> found.gradient_norm, found.zero_gradient_share, found.weight_norm
        (2.0, 0.5, 5.0)
        """
        return _reporting.report_of(self, RMSprop, self._watching)

    def explain(self) -> Explanation:
        """Say in words what the steps do to the weights, and what is wrong, if something is.

        Judges `diagnostics()`. The ailments, and the numbers that show them, are listed in
        `docs/ailments.md`.

        Returns: a list of findings, the worst first, each with `ailment`, `variables`, `evidence`,
            `meaning`, `advice` and `severity`; printed, or shown in a notebook, it is a text.
        Raises: ValueError if the optimizer was made with `diagnostics=None`.
        """
        return _explanation.explain(self.diagnostics())

    @property
    def groups(self) -> Groups:
        """The groups of variables with their own settings, by pattern.

        A group shows the settings in effect; they can be assigned at any time:

            optimizer.groups["backbone/.*"].learning_rate = 0.0

        Numbers act at the next step, also in functions that have been traced, such as that of
        `fit`; so do the optimizer's own `rho`, `momentum`, `epsilon`, `l2` and `weight_decay` if
        there are groups. What switches an operation on (such as `l2` from 0) acts in such functions
        once they are traced again, which a warning says.
        """
        # A subclass may have an attribute of this name.
        held: Groups = self.__dict__["groups"] if "groups" in self.__dict__ else self._own_groups()
        return held

    @groups.setter
    def groups(self, value: Any) -> None:
        if type(self) is RMSprop:
            raise AttributeError(
                "`groups` cannot be replaced. Assign to a setting of a group, as in "
                "`optimizer.groups[pattern].rho = 0.9`, or pass further groups to `add_variables`."
            )
        self.__dict__["groups"] = value

    @groups.deleter
    def groups(self) -> None:
        if "groups" not in self.__dict__:
            raise AttributeError("`groups` cannot be deleted.")
        del self.__dict__["groups"]

    @property
    def skipped_steps(self) -> int:
        """The number of calls that `skip_nonfinite` has skipped."""
        skipped = self._roster.counters.skipped
        return 0 if skipped is None else int(engine.read(skipped))

    def describe(
        self,
        print_fn: Callable[[str], Any] = print,
        *,
        format: Literal["text", "markdown", "latex"] = "text",  # noqa: A002
    ) -> None:
        """Print the equations of this configuration, with its numbers, and what else it means.

        After the equations, and a table if there are groups, three lines say
        - which framework's RMSprop makes these steps, with that framework's arguments, or which
          comes nearest and what it lacks;
        - how much memory the state takes, or will take for each float32 parameter;
        - whether steps run compiled, and if not, why.

        A notebook shows an optimizer as "markdown".

        Args:
            print_fn: called once with the whole text. Default `print`.
            format: "text", "markdown" with equations in LaTeX, or "latex" for these equations
                alone, an `aligned` environment of amsmath. Default "text".

        Raises: ValueError if the format is unknown.

        Example:
        >>> from keras_rmsprop import conventions
        >>> conventions.torch(lr=0.02, momentum=0.9).describe()
        rm_sprop...: RMSprop
        At the start:
            s = 0                     square average: running mean of squared gradients
            b = 0                     momentum buffer
        In step t = 1, 2, ..., with gradient g of the weight w:
            lr = 0.02                 learning rate
            s = 0.99 * s + 0.01 * g**2
            r = sqrt(s) + 1e-08
            u = g / r
            b = 0.9 * b + u
            w = w - lr * b
        <BLANKLINE>
        Convention: exactly torch.optim.RMSprop(lr=0.02, momentum=0.9).
        State: none before the build; then 8 bytes per float32 parameter (square_average, momentum).
        Execution: with the ... backend, eager steps run ...
        """
        print_fn(_description.describe(self, RMSprop, format))

    def _repr_markdown_(self) -> str:
        """Return the description that a notebook shows."""
        try:
            return _description.describe(self, RMSprop, "markdown")
        except Exception as error:
            # An optimizer that cannot be described, such as a subclass that is half made, can still
            # be the last line of a cell.
            name = type(self).__name__
            return f"`{name}`, which cannot be described here ({type(error).__name__})"

    def exclude_from_weight_decay(
        self,
        var_list: Sequence[Any] | None = None,
        var_names: Sequence[str] | None = None,
    ) -> None:
        """Exclude variables from `weight_decay`, replacing earlier exclusions.

        Keras documents that it must be called before `build`. Exclusions are saved with the model.

        Args:
            var_list: variables to exclude.
            var_names: patterns; a variable is excluded if its name contains a match.
        """
        variables, names = list(var_list or ()), list(var_names or ())
        _exclusions.check_patterns(names)
        super().exclude_from_weight_decay(var_list=variables, var_names=names)
        self._exclusions.set(variables, names)
        self._derived = None

    def add_variable(
        self,
        shape: Sequence[int],
        initializer: Any = "zeros",
        dtype: Any = None,
        aggregation: str = "none",
        layout: Any = None,
        name: str | None = None,
    ) -> keras.Variable:
        """Add a variable to the optimizer, as in Keras, but never in half precision.

        A bfloat16 average of squares stalls once a step's contribution rounds away. Only slots in
        the `state_dtype`, which are not rounded to the nearest number, are an exception.
        """
        reused = self._ledger.reuse(name, shape)
        if reused is not None:
            if not self._tracker.is_in_store("variables", reused):
                self._track_variable(reused)
            return reused
        if dtype is not None:
            dtype = _step.accumulator_dtype(backend.standardize_dtype(dtype))
            if self._adds_slots and dtype == "float32":
                dtype = self.state_dtype or dtype
        variable = super().add_variable(shape, initializer, dtype, aggregation, layout, name)
        self._ledger.record(variable, name)
        return variable

    def add_variable_from_reference(
        self, reference_variable: Any, name: str | None = None, initializer: Any = "zeros"
    ) -> keras.Variable:
        """Add a variable that belongs to one of the model's, as in Keras."""
        with self._ledger.made_for(reference_variable, name or "var"):
            return super().add_variable_from_reference(reference_variable, name, initializer)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _validation.HYPERPARAMETERS:
            store = functools.partial(super().__setattr__, name)
            _assignment.assign_setting(self, name, value, store)
            return
        if name == "learning_rate":
            value = _validation.checked_assigned_learning_rate(value, self._learning_rate)
        super().__setattr__(name, value)

    # Helpers of the methods above.

    def _position(self, variable: Any) -> int:
        """Return the position of a variable among the built ones."""
        position = self._roster.position(variable)
        if position is None:
            self._check_variables_are_known([variable])
            position = self._get_variable_index(variable)
        return position

    def _settings_of(self, position: int) -> Any:
        """Return the settings in effect for a variable, as attributes."""
        (settings,) = self._settings_in([self._roster.members[position]])
        return settings

    def _coefficients_of(self, position: int) -> Coefficients:
        """Return the numbers in the equations of a variable; in a trace those of groups vary."""
        if self._roster.group_numbers is None:
            return _plan.coefficients_of(self._settings_of(position))
        numbers = _assignment.numbers_in_trace(self, self._derive().numbers)
        return numbers.groups[self._roster.members[position]].coefficients

    def _settings_in(self, members: Iterable[int]) -> list[Any]:
        """Return the settings in effect for variables of these groups, as attributes."""
        of_groups = (self, *self._own_groups().values())
        return [of_groups[group] for group in members]

    def _own_groups(self) -> Groups:
        """Return the groups, also where a subclass has other `groups`."""
        rate = functools.partial(_assignment.rate_of_group, self)
        return Groups(self, rate, functools.partial(_assignment.assign_to_group, self))

    def _settle(self, position: int) -> None:
        """Bring every row of a variable up to date."""
        if self._roster.progress[position] is not None:
            _tables.settle(self._roster, position, self._coefficients_of(position))

    def _parts(self) -> _state.OptimizerParts:
        """Return the parts of this optimizer that its state is read from and loaded into."""
        return _state.OptimizerParts(
            name=self.name,
            built=self.built,
            roster=self._roster,
            rate=self._rate().variable,
            accumulation_steps=self.gradient_accumulation_steps or 1,
            centered=self.centered,
            lr_in_momentum=self.lr_in_momentum,
            rho=[settings.rho for settings in self._settings_in(self._roster.members)],
            patterns=list(self._held_groups.own),
            initial_square_average=self.initial_square_average,
            variables=self._variables,
            entries=self._ledger.entries,
            gate=self._gate,
            steps_in_graphs=engine.TRACED_VARIABLES == "captured",
        )

    def _load(self, state: _state.State) -> None:
        plan = _state.plan_load(self._parts(), state)
        watch = self._roster.watch
        # Statistics are of the steps that led to the state.
        forgotten = [] if watch is None else [(watch.table, watch.table_at_start())]
        assignments = plan.assignments + forgotten
        with self._gate.read():
            _op_by_op.write_all_or_nothing(assignments, _state.array_of, _op_by_op.assign)
        if watch is not None:
            watch.begin_anew()
        self._last_load.report = plan.report
        # The state of an optimizer that was not built has no slots to report.
        words = _state.message(plan.report) if state.slots else None
        if words is not None:
            warnings.warn(words, stacklevel=3)

    def _derive(self, is_plain: bool = False) -> _plan.Derived:
        """Return the plan and numbers of the current settings, cached until one changes.

        Args:
            is_plain: whether it is known that no method that takes part in a step is overridden.
        """
        if (
            self._computes_settings
            or (not is_plain and self._overrides("_use_weight_decay"))
            # A captured step must depend on the settings, not on a cached result.
            or engine.is_capturing_python()
        ):
            groups = list(self._own_groups().values())
            return _plan.Derived(self, groups, self._roster, self._use_weight_decay)
        # Compare at every step, to catch every way of changing a setting. In C, this takes a
        # microsecond.
        source = (_get_settings(self.__dict__), self._held_groups.own)
        derived = self._derived
        if derived is None or derived.source != source:
            groups = list(self._own_groups().values())
            derived = _plan.Derived(self, groups, self._roster, self._use_weight_decay, source)
            self._derived = derived
        return derived

    def _next_step(self, is_plain: bool = False) -> Step:
        """Return all that the engine needs for the next step.

        Args:
            is_plain: whether it is known that no method that takes part in a step is overridden.
        """
        derived, roster = self._derive(is_plain), self._roster
        plan = derived.plan()
        numbers = _assignment.numbers_in_trace(self, derived.numbers)
        hook = None
        if not is_plain:
            hook = _subclasses.hook_of(self, RMSprop, roster, plan.decayed)
        rate = self._rate(is_plain)
        return Step(plan, numbers, roster, rate, hook, self.jit_compile, self.name, roster.watch)

    def _rate(self, is_plain: bool = False) -> Rate:
        """Return the source of the next step's learning rate (for `is_plain` see `_next_step`)."""
        is_overridden = not is_plain and self._overrides(*_subclasses.RATES)
        return Rate(self._next_learning_rate, self._learning_rate, is_overridden)

    def _next_learning_rate(self) -> Any:
        """Return the rate of the next step: the variable that holds it, a tensor, or a float."""
        rate = self.learning_rate
        if rate is self._learning_rate or isinstance(rate, keras.Variable):
            return rate
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            # Checking the tensor's value would wait for the device.
            return rate
        # A callable's result can only be checked now; nothing has changed yet.
        return _validation.checked_next_learning_rate(rate)

    def _overrides(self, *names: str) -> bool:
        return _subclasses.overrides(self, RMSprop, *names)

    def _overwrite_variable_with_gradient(self, variable: Any) -> bool:
        """Whether a variable needs no slots (called by Keras's `build`)."""
        return is_overwritten(variable) or is_fixed(variable)

    def _are_ready(self, gradients: Any, variables: Any) -> bool:
        """Whether a step can take these gradients as they are, so that nothing needs a closer look.

        This is the usual case, checked without Python code for each variable.
        """
        roster = self._roster
        return (
            self.built
            and not engine.is_capturing_python()
            and not roster.fixed
            and isinstance(gradients, (list, tuple))
            and bool(gradients)
            and (variables is None or (isinstance(variables, list) and roster.matches(variables)))
            and engine.are_ready(gradients, roster.shapes)
        )

    def _aligned(
        self, gradients: Sequence[Tensor | None], variables: Iterable[keras.Variable] | None
    ) -> list[Tensor | None]:
        """Check gradients, and return a dense or sparse one or None for each built variable."""
        positions = self._positions_of(gradients, variables)
        aligned: list[Tensor | None] = [None] * len(self._roster.parameters)
        for gradient, position in zip(gradients, positions, strict=True):
            aligned[position] = gradient
        # Keras's own list is tracked, which makes every access several times slower.
        weights = self._roster.weights
        if any(gradient is None for gradient in gradients):
            # Gives Keras's own warning about variables without a gradient.
            self._filter_empty_gradients(gradients, [weights[i] for i in positions])
        for i in self._roster.fixed:
            aligned[i] = None
        for i, (gradient, variable) in enumerate(zip(aligned, weights, strict=True)):
            # The engine handles rows, depending on how the step runs.
            if gradient is not None and not engine.is_sparse(gradient):
                aligned[i] = engine.dense(gradient, variable)
        return aligned

    def _positions_of(
        self, gradients: Sequence[Tensor | None], variables: Iterable[keras.Variable] | None
    ) -> list[int]:
        """Check gradients and variables, and return the variables' positions.

        Builds the optimizer if necessary, after all checks have passed.
        """
        if variables is None:
            if not self.built:
                raise ValueError(
                    "`apply` was given gradients without variables, and the optimizer is not "
                    "built. Pass the variables, or call `optimizer.build(variables)` first."
                )
            chosen = self._roster.weights
        else:
            chosen = list(variables)
        _gradients.check_present(gradients, chosen)
        if self.built and self._roster.matches(chosen):
            keys, shapes = list(range(len(chosen))), self._roster.shapes
        elif self.built:
            keys = [self._position(variable) for variable in chosen]
            shapes = [self._roster.shapes[position] for position in keys]
        else:
            keys = [self._var_key(variable) for variable in chosen]
            shapes = [tuple(variable.shape) for variable in chosen]
        _gradients.check_match(gradients, chosen, keys, shapes, engine.shape_of)
        if self.built:
            return keys
        with keras.name_scope(self.name, caller=self):
            self.build(chosen)
        return list(range(len(chosen)))

    def _settings(self) -> dict[str, Any]:
        """Return the hyperparameters by name."""
        return {name: getattr(self, name) for name in _validation.HYPERPARAMETERS}

    def _overwrite_model_variables_with_average_value(
        self, trainable_variables: Sequence[Any]
    ) -> None:
        """Replace the weights by their averages (Keras's hook for `use_ema`).

        Keras would assign the average's own array, which its JAX trainer then donates twice.
        """
        if _step.known_value(engine.read(self._iterations) == 0):
            # There is no average before the first step.
            return
        for variable in trainable_variables:
            average = self._roster.parameters[self._position(variable)].average
            if average is not None:
                value = ops.cast(engine.copy(engine.read(average)), variable.dtype)
                engine.write([(variable, value)])


_KERAS_OPTIONS = (
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)


# Gets all settings from an optimizer's attributes.
_get_settings = operator.itemgetter(*_validation.HYPERPARAMETERS)
