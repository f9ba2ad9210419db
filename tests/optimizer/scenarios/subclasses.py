"""Subclasses that override what Keras documents, and other methods that people override."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tests.optimizer.scenarios import scenario
from tests.tools import models


def counting(RMSprop: Any) -> Any:
    """A subclass whose `update_step` counts its calls in a variable of its own."""

    class Counting(RMSprop):
        def build(self, variables: Any) -> None:
            if not self.built:
                self.updates = self.add_variable((), dtype="int32", name="updates")
            super().build(variables)

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            self.updates.assign_add(1)
            super().update_step(gradient, variable, learning_rate)

    return Counting


def _steps(optimizer: Any, count: int = 6) -> list[Any]:
    """Apply gradients that change from step to step to two variables."""
    variables = [keras.Variable([1.0, 2.0]), keras.Variable([[3.0], [4.0]])]
    for t in range(count):
        gradients = [
            ops.convert_to_tensor([1.0, -2.0 + t]),
            ops.convert_to_tensor([[0.5 * t], [1]]),
        ]
        optimizer.apply(gradients, variables)
    return models.values(variables)


@scenario()
def an_update_step_runs_once_for_each_step_and_not_for_each_call(RMSprop, folder):
    optimizer = counting(RMSprop)(0.1, gradient_accumulation_steps=3)
    weights = _steps(optimizer)
    assert int(optimizer.updates) == 2 * 2
    return weights


@scenario()
def an_update_step_runs_once_for_each_step_in_fit(RMSprop, folder):
    model = models.model()
    optimizer = counting(RMSprop)(0.1, gradient_accumulation_steps=2)
    weights = models.fit(model, optimizer)
    # Two epochs of four batches, two of which make a step; two layers of two weights.
    assert int(optimizer.updates) == 4 * 4
    return weights


@scenario()
def a_subclass_overrides_the_private_method_for_the_rate(RMSprop, folder):
    class Halved(RMSprop):
        def _get_current_learning_rate(self) -> Any:
            return super()._get_current_learning_rate() * 0.5

    return _steps(Halved(0.1))


@scenario()
def a_subclass_makes_the_rate_a_property(RMSprop, folder):
    class Constant(RMSprop):
        @property
        def learning_rate(self) -> float:
            return 0.05

    return _steps(Constant(0.1))


@scenario()
def an_instance_replaces_the_private_method_for_the_rate(RMSprop, folder):
    optimizer = RMSprop(0.1)
    optimizer._get_current_learning_rate = lambda: 0.025
    return _steps(optimizer)


@scenario()
def a_subclass_changes_gradients_in_apply(RMSprop, folder):
    class Centralized(RMSprop):
        def apply(self, grads: Any, trainable_variables: Any = None) -> None:
            grads = [g - ops.mean(g) for g in grads]
            super().apply(grads, trainable_variables)

    model = models.model()
    return [*_steps(Centralized(0.1)), *models.fit(model, Centralized(0.01))]


@scenario()
def a_subclass_records_what_is_assigned(RMSprop, folder):
    seen = []

    class Watching(RMSprop):
        def assign(self, variable: Any, value: Any) -> None:
            seen.append(variable.shape)
            super().assign(variable, value)

    weights = _steps(Watching(0.1))
    # The average of each of the two variables, at each of six steps, at least.
    assert len(seen) >= 2 * 6
    return weights


@scenario()
def a_subclass_prevents_weights_from_decreasing(RMSprop, folder):
    class Upwards(RMSprop):
        def assign_sub(self, variable: Any, value: Any) -> None:
            super().assign_sub(variable, ops.minimum(value, 0.0))

    weights = _steps(Upwards(0.1))
    assert np.all(weights[0] >= [1.0, 2.0])
    return weights


@scenario()
def a_subclass_as_in_the_keras_guide_is_trained_and_loaded(RMSprop, folder):
    @keras.saving.register_keras_serializable("scenarios", name=f"Noisy{RMSprop.__module__}")
    class Noisy(RMSprop):
        def __init__(self, *args: Any, scale: float = 0.5, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.scale = scale

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            super().update_step(gradient * self.scale, variable, learning_rate)

        def get_config(self) -> dict[str, Any]:
            return super().get_config() | {"scale": self.scale}

    model = models.model()
    models.fit(model, Noisy(0.01, scale=0.25))
    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    assert loaded.optimizer.scale == 0.25
    return models.go_on(loaded)


@scenario()
def a_subclass_adds_a_slot_for_each_variable(RMSprop, folder):
    class Remembering(RMSprop):
        def build(self, variables: Any) -> None:
            if self.built:
                return
            super().build(variables)
            self.previous = self.add_optimizer_variables(variables, "previous")

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            previous = self.previous[self._get_variable_index(variable)]
            super().update_step(gradient + 0.5 * previous, variable, learning_rate)
            self.assign(previous, gradient)

    model = models.model()
    return [*_steps(Remembering(0.1)), *models.fit(model, Remembering(0.01))]


@scenario()
def a_subclass_passes_its_whole_config_to_its_constructor(RMSprop, folder):
    class Plain(RMSprop):
        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            return cls(**config)

    variables = [keras.Variable([1.0, 2.0], name="kernel"), keras.Variable([3.0], name="bias")]
    optimizer = Plain(0.1, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    again = Plain.from_config(optimizer.get_config())
    again.exclude_from_weight_decay(var_names=["bias"])
    again.apply([ops.ones((2,)), ops.ones((1,))], variables)
    return models.values(variables)


@scenario()
def a_subclass_overrides_the_clipping(RMSprop, folder):
    class Clipping(RMSprop):
        def _clip_gradients(self, grads: Any) -> Any:
            return [ops.clip(g, -0.1, 0.1) for g in grads]

    model = models.model()
    return [*_steps(Clipping(0.1)), *models.fit(model, Clipping(0.01, weight_decay=0.1))]


@scenario()
def a_subclass_overrides_the_weight_decay(RMSprop, folder):
    class Decaying(RMSprop):
        def _apply_weight_decay(self, variables: Any) -> None:
            for variable in variables:
                variable.assign(variable * 0.9)

    return _steps(Decaying(0.1, gradient_accumulation_steps=2))


@scenario()
def a_subclass_overrides_the_update_of_all_variables(RMSprop, folder):
    class Doubled(RMSprop):
        def _backend_update_step(self, grads: Any, variables: Any, learning_rate: Any) -> None:
            super()._backend_update_step(grads, variables, learning_rate * 2.0)

    return _steps(Doubled(0.1, momentum=0.5))


@scenario()
def a_subclass_reads_the_slots_by_the_names_of_keras(RMSprop, folder):
    seen = []

    class Looking(RMSprop):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            super().update_step(gradient, variable, learning_rate)
            i = self._get_variable_index(variable)
            slots = (self._velocities[i], self._momentums[i])
            seen.extend(np.array(ops.convert_to_numpy(ops.stop_gradient(v))) for v in slots)

    return [*_steps(Looking(0.1, momentum=0.5)), *seen]


@scenario()
def a_hyperparameter_is_a_property_of_the_subclass(RMSprop, folder):
    def late(early: Any, value: Any) -> property:
        return property(lambda self: value if self.late else early, lambda *_: None)

    results = []
    for name, early, value in (
        ("momentum", 0.1, 0.5),
        ("rho", 0.9, 0.5),
        ("epsilon", 1e-7, 1e-2),
        ("weight_decay", 0.1, 0.4),
        ("clipnorm", 1.0, 0.1),
        ("clipvalue", 1.0, 0.1),
        ("ema_momentum", 0.9, 0.5),
    ):
        computed = type("Computed", (RMSprop,), {"late": False, name: late(early, value)})
        optimizer = computed(0.1, use_ema=name == "ema_momentum")
        variable = keras.Variable([1.0, 2.0])
        for t in range(6):
            optimizer.late = t >= 3
            optimizer.apply([ops.convert_to_tensor([3.0, -4.0])], [variable])
        results += models.values([variable, *optimizer.variables])
    return results


@scenario()
def a_subclass_overrides_the_filter_of_gradients(RMSprop, folder):
    class Filtering(RMSprop):
        def _filter_empty_gradients(self, grads: Any, trainable_variables: Any) -> Any:
            return [0.5 * gradient for gradient in grads], trainable_variables

    return _steps(Filtering(0.1))
