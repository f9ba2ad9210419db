"""A program of TensorFlow 1: variables in scopes, a session, and a Saver."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from yardsticks.peers import Array, Snapshot

# In nested scopes; of all programs here.
NAMES = ("net/scale", "net/dense/kernel", "net/dense/bias")


class Program:
    """`tf.compat.v1.train.RMSPropOptimizer` in a graph, with the interface of a peer.

    Attributes:
        names: the names of the variables.
        session: runs the graph.
        optimizer: the optimizer.
    """

    def __init__(
        self,
        weights: Sequence[Array],
        *,
        names: Sequence[str] = NAMES,
        schedule: Callable[[Any], Any] | None = None,
        scope: str | None = None,
        counts: bool = True,
        use_resource: bool = True,
        further: dict[str, Array] | None = None,
        **arguments: Any,
    ) -> None:
        """Build the graph and initialise its variables.

        Args:
            weights: the initial weights.
            names: for each weight its name.
            schedule: makes the learning rate of the global step; without it, `set_rate` sets it.
            scope: the variable scope in which the optimizer is applied.
            counts: whether there is a global step.
            use_resource: whether variables are of the new kind.
            further: variables that are not trained.
            **arguments: the optimizer's.
        """
        v1 = tf.compat.v1
        self.names = tuple(names)
        self.now = 0.0
        self.settings = {"centered": False, "momentum": 0.0} | arguments
        self.graph = tf.Graph()
        with self.graph.as_default():
            options = {"use_resource": use_resource}
            self.variables = [
                v1.get_variable(name, initializer=weight, **options)
                for name, weight in zip(names, weights, strict=True)
            ]
            for name, value in (further or {}).items():
                v1.get_variable(name, initializer=value, trainable=False, **options)
            step = v1.train.get_or_create_global_step() if counts else None
            self.rate = v1.placeholder(tf.float64, ())
            rate = self.rate if schedule is None else schedule(step)
            self.optimizer = v1.train.RMSPropOptimizer(rate, **arguments)
            self.gradients = [v1.placeholder(v.dtype.base_dtype, v.shape) for v in self.variables]
            pairs = list(zip(self.gradients, self.variables, strict=True))
            with v1.variable_scope(scope or v1.get_variable_scope()):
                self.train = self.optimizer.apply_gradients(pairs, global_step=step)
            self.saver = v1.train.Saver()
            self.session = v1.Session()
            self.session.run(v1.global_variables_initializer())

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the following steps."""
        self.now = rate

    def tensors(self, gradients: Sequence[Array]) -> list[Any]:
        """Return what is fed."""
        return list(gradients)

    def step(self, gradients: Sequence[Any]) -> None:
        """Make one step."""
        fed = dict(zip(self.gradients, gradients, strict=True))
        self.session.run(self.train, fed | {self.rate: self.now})

    def weights(self) -> list[Array]:
        """Copy the weights."""
        return [np.array(value) for value in self.session.run(self.variables)]

    def snapshot(self) -> Snapshot:
        """Copy weights and state, in this package's terms."""
        s = self.slot("rms")
        slots = {"square_average": s}
        if self.settings["centered"]:
            m = self.slot("mg")
            slots = {
                "square_average": [v - mean**2 for v, mean in zip(s, m, strict=True)],
                "gradient_average": m,
            }
        if self.settings["momentum"]:
            slots["momentum"] = self.slot("momentum")
        return Snapshot(self.weights(), slots)

    def slot(self, name: str) -> list[Array]:
        """Copy TF1's slots of a name."""
        slots = [self.optimizer.get_slot(variable, name) for variable in self.variables]
        return [np.array(value) for value in self.session.run(slots)]

    def value_of(self, name: str) -> Array:
        """Copy a variable of any name."""
        with self.graph.as_default():
            found = {v.op.name: v for v in tf.compat.v1.global_variables()}
        return np.array(self.session.run(found[name]))

    def save(self, folder: Path) -> str:
        """Write a checkpoint with the Saver, and return its path."""
        with self.graph.as_default():
            return str(self.saver.save(self.session, str(folder / "model.ckpt"), 10))

    def restore(self, path: str) -> None:
        """Restore every variable from a checkpoint with the Saver."""
        with self.graph.as_default():
            self.saver.restore(self.session, path)
