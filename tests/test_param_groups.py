"""Test that groups match the settings of single variables in torch, optax and Keras."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop, conventions
from keras_rmsprop.reference import Reference
from tests.conftest import since_keras
from tests.tools.models import WithPath
from yardsticks import peers
from yardsticks.agreement import TOLERANCE

Array = np.ndarray
STEPS = 24
SHAPES: tuple[tuple[int, ...], ...] = ((), (2, 3), (4,), (3,))
NAMES = ("body/kernel", "body/bias", "head/kernel", "other")


class Course:
    """The initial weights, and for each step the gradients and a factor of the rate."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.starts = [rng.normal(size=shape) for shape in SHAPES]
        self.gradients = [[rng.normal(0.3, 1.0, shape) for shape in SHAPES] for _ in range(STEPS)]
        self.factors = [1.0 if t < STEPS // 2 else 0.25 for t in range(STEPS)]


def followed(optimizer: Any, course: Course, rate: float | None = 0.02) -> list[list[Array]]:
    """The weights after each step of a Keras optimizer."""
    variables = [WithPath(path, w) for w, path in zip(course.starts, NAMES, strict=True)]
    weights = []
    for gradients, factor in zip(course.gradients, course.factors, strict=True):
        if rate is not None:
            optimizer.learning_rate = rate * factor
        optimizer.apply([ops.convert_to_tensor(g) for g in gradients], variables)
        weights.append([np.array(ops.convert_to_numpy(v)) for v in variables])
    return weights


def assert_same(got: list[list[Array]], want: list[list[Array]], starts: list[Array]) -> None:
    """Fail unless all weights agree after every step, relative to the distance travelled."""
    for i, start in enumerate(starts):
        mine = np.array([weights[i] for weights in got])
        theirs = np.array([start, *(weights[i] for weights in want)])
        travelled = np.cumsum(np.abs(np.diff(theirs, axis=0)), axis=0)
        steps = np.arange(1, len(want) + 1).reshape(-1, *[1] * start.ndim)
        allowed = TOLERANCE["float64"] * travelled + steps * np.spacing(np.abs(theirs[1:]))
        assert np.all(travelled[-1] > 0.0)
        assert np.all(np.abs(mine - theirs[1:]) <= allowed), f"weight {i}"


PARAM_GROUPS: list[dict[str, Any]] = [
    {"lr": 0.005, "alpha": 0.9, "eps": 1e-4, "weight_decay": 0.1, "momentum": 0.5},
    {"lr": 0.04, "alpha": 0.75, "eps": 1e-3, "momentum": 0.0, "maximize": True},
    {"weight_decay": 0.0},
]


@pytest.mark.parametrize("centered", [False, True], ids="centered={}".format)
def test_torchs_param_groups_are_groups(float64: None, centered: bool) -> None:
    reason = peers.unavailable("torch")
    if reason is not None:
        pytest.skip(reason)
    torch = pytest.importorskip("torch")

    course = Course()
    parameters = [torch.nn.Parameter(torch.tensor(w)) for w in course.starts]
    members = (parameters[:2], parameters[2:3], parameters[3:])
    groups = [{"params": own, **g} for own, g in zip(members, PARAM_GROUPS, strict=True)]
    common = {"lr": 0.02, "alpha": 0.8, "weight_decay": 0.05, "momentum": 0.3, "centered": centered}
    theirs = torch.optim.RMSprop(groups, **common)
    rates = [group["lr"] for group in theirs.param_groups]
    want = []
    for gradients, factor in zip(course.gradients, course.factors, strict=True):
        for group, rate in zip(theirs.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        theirs.step()
        want.append([p.detach().numpy().copy() for p in parameters])
    names: list[Any] = ["body/.*", ["head/kernel"], WithPath("other", np.zeros(3))]
    ours = conventions.torch(
        **common,
        params=[{"params": own, **g} for own, g in zip(names, PARAM_GROUPS, strict=True)],
    )
    assert_same(followed(ours, course), want, course.starts)


def test_a_param_group_that_cannot_be_expressed_is_refused() -> None:
    for group, words in (
        ({"params": "a", "centered": True}, "decides what the averages of an optimizer hold"),
        ({"params": "a", "nesterov": True}, "has nesterov; it can have lr, alpha"),
        ({"params": []}, "`params` of a param group must be Keras variables"),
        ({"lr": 0.1}, "`params` of a param group must be Keras variables"),
        ({"params": "a", "lr": "0.1"}, "both must be numbers and that one > 0"),
    ):
        with pytest.raises(ValueError, match=words.replace("(", "[(]")):
            conventions.torch(params=[group])
    with pytest.raises(ValueError, match="both must be numbers and that one > 0"):
        conventions.torch(lr=0.0, params=[{"params": "a", "lr": 0.1}])


def test_several_patterns_of_a_param_group_are_one() -> None:
    variable = WithPath("odd.name/kernel")
    optimizer = conventions.torch(params=[{"params": ["a/.*", variable], "foreach": True}])
    assert list(optimizer.groups) == [r"(?:a/.*)|(?:odd\.name/kernel)"]


def test_optax_multi_transform_is_groups(float64: None) -> None:
    reason = peers.unavailable("optax")
    if reason is not None:
        pytest.skip(reason)
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")

    course = Course()
    labels = ["body", "body", "head", "other"]
    own: dict[str, dict[str, Any]] = {
        "body": {"decay": 0.8, "eps": 1e-4, "momentum": 0.5},
        "head": {"decay": 0.95, "eps": 1e-3},
        "other": {},
    }
    factors = {"body": 0.25, "head": 2.0, "other": 1.0}
    make = optax.inject_hyperparams(
        lambda rate: optax.multi_transform(
            {
                label: optax.rmsprop(rate * factors[label], **arguments)
                for label, arguments in own.items()
            },
            labels,
        )
    )
    theirs = make(rate=0.02)
    parameters = [jax.numpy.asarray(w) for w in course.starts]
    state, want = theirs.init(parameters), []
    for gradients, factor in zip(course.gradients, course.factors, strict=True):
        state.hyperparams["rate"] = jax.numpy.asarray(0.02 * factor)
        updates, state = theirs.update([jax.numpy.asarray(g) for g in gradients], state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        want.append([np.asarray(p) for p in parameters])
    ours = RMSprop(
        epsilon=1e-8,
        groups={
            "body/.*": {"learning_rate": 0.25, "rho": 0.8, "epsilon": 1e-4, "momentum": 0.5},
            "head/.*": {"learning_rate": 2.0, "rho": 0.95, "epsilon": 1e-3},
        },
    )
    assert_same(followed(ours, course), want, course.starts)


def keras_parts(**clipping: Any) -> Any:
    """Keras's own equivalent: an optimizer for each pattern.

    The decay is exact in float32, to which Keras rounds it on TensorFlow.
    """
    make = keras.optimizers.RMSprop
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            make(0.02, epsilon=1e-3, **clipping),
            {
                "body/.*": make(0.005, rho=0.8, epsilon=1e-4, momentum=0.5, **clipping),
                "head/.*": make(0.04, rho=0.95, epsilon=1e-3, weight_decay=0.125, **clipping),
            },
        )
    )


OURS: dict[str, dict[str, Any]] = {
    "body/.*": {"learning_rate": 0.25, "rho": 0.8, "epsilon": 1e-4, "momentum": 0.5},
    "head/.*": {"learning_rate": 2.0, "rho": 0.95, "weight_decay": 0.125},
}


@since_keras("3.15", "has MultiOptimizer")
def test_without_a_global_norm_groups_are_keras_multi_optimizer(float64: None) -> None:
    course = Course()
    course.factors = [1.0] * STEPS
    for clipping in ({}, {"clipvalue": 0.5}):
        want = followed(keras_parts(**clipping), course, rate=None)
        got = followed(RMSprop(0.02, epsilon=1e-3, groups=OURS, **clipping), course)
        assert_same(got, want, course.starts)


@since_keras("3.15", "has MultiOptimizer")
def test_a_global_norm_is_that_of_all_groups_and_in_keras_that_of_each_part(float64: None) -> None:
    course = Course()
    course.factors = [1.0] * STEPS
    theirs = followed(keras_parts(global_clipnorm=0.5), course, rate=None)
    ours = followed(RMSprop(0.02, epsilon=1e-3, groups=OURS, global_clipnorm=0.5), course)
    own = [OURS["body/.*"]] * 2 + [OURS["head/.*"], {}]
    whole = Reference(course.starts, epsilon=1e-3, groups=own, global_clipnorm=0.5)
    want = []
    for gradients in course.gradients:
        whole.apply(gradients, 0.02)
        want.append(whole.weights)
    assert_same(ours, want, course.starts)
    off = [np.max(np.abs(a - b)) for a, b in zip(theirs[-1], want[-1], strict=True)]
    assert min(off) > 1e-3
    # Keras's optimizer has no rate that could be scheduled or read.
    with pytest.raises(AttributeError, match="Learning rate cannot be accessed"):
        keras_parts().learning_rate  # noqa: B018


def test_the_parameters_of_a_group_may_come_from_an_iterator() -> None:
    variables = [keras.Variable([1.0], name=name) for name in "ab"]
    optimizer = conventions.torch(lr=0.1, params=[{"params": iter(variables), "lr": 0.01}])
    optimizer.build(variables)
    assert optimizer._roster.members == (1, 1)
