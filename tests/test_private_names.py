"""Test that steps still work, more slowly, without a private name of Keras or TensorFlow."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop._private import KERAS_PRIVATE_NAMES
from tests.conftest import BACKEND

KERAS = [
    "keras.src.backend.common.stateless_scope",
    "keras.src.utils.tracking",
    "keras.src.utils.naming",
]
TENSORFLOW = [
    "tensorflow.python.eager",
    "tensorflow.python.framework.ops",
    "tensorflow.python.framework.config",
    "tensorflow.python.ops",
    "tensorflow.python.ops.gen_resource_variable_ops",
    "_inference_function",
    "_shape_tuple",
    "_datatype_enum",
    "GraphOrParentsInXlaContext",
    "__internal__",
    "autograph_info__",
]

# Hides a module or an attribute from the package only, trains in several ways, and prints how often
# something was hidden, and the weights.
PROGRAM = """
import builtins, logging, sys
import numpy as np

missing, hidden = sys.argv[1], []
real_import, real_getattr, real_hasattr = builtins.__import__, builtins.getattr, builtins.hasattr

def from_package(frame):
    return frame.f_globals.get("__name__", "").startswith("keras_rmsprop")

def without(name, globals=None, locals=None, fromlist=(), level=0):
    if name == missing and from_package(sys._getframe(1)):
        hidden.append(name)
        raise ImportError(name)
    return real_import(name, globals, locals, fromlist, level)

def getattr_without(object, name, *default):
    if name == missing and from_package(sys._getframe(1)):
        hidden.append(name)
        name = "there is no such attribute"
    return real_getattr(object, name, *default)

def hasattr_without(object, name):
    if name == missing and from_package(sys._getframe(1)):
        hidden.append(name)
        return False
    return real_hasattr(object, name)

import keras
from keras import ops
backend = keras.backend.backend()
if backend == "tensorflow":
    import tensorflow as tf
builtins.__import__ = without
builtins.getattr, builtins.hasattr = getattr_without, hasattr_without
import keras_rmsprop

rng = np.random.default_rng(0)
START = rng.normal(size=(5, 3))
GRADIENTS = rng.normal(size=(6, 5, 3))

def train(step_of=lambda step: step, **options):
    variable = keras.Variable(START, dtype="float64")
    optimizer = keras_rmsprop.RMSprop(0.1, momentum=0.5, **options)
    optimizer.build([variable])
    step = step_of(lambda gradient: optimizer.apply([gradient], [variable]))
    for gradient in GRADIENTS:
        step(ops.convert_to_tensor(gradient))
    return keras.ops.convert_to_numpy(variable.value)

results = [train(), train(jit_compile=False)]
# A trained model with a generated name, whose state is loaded again.
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
model.compile(keras_rmsprop.RMSprop(0.1), "mse")
model.fit(START, START[:, :2], epochs=3, verbose=0)
model.optimizer.load_state_dict(model.optimizer.state_dict())
results += [ops.convert_to_numpy(v) for v in model.trainable_variables]
if backend == "jax":
    import jax
    optimizer = keras_rmsprop.RMSprop(0.1, momentum=0.5)
    variable = keras.Variable(START, dtype="float64")
    optimizer.build([variable])
    state = [v.value for v in optimizer.variables]
    weights = [variable.value]
    for gradient in GRADIENTS:
        given = [ops.convert_to_tensor(gradient)]
        weights, state = optimizer.stateless_apply(state, given, weights)
    results.append(np.array(weights[0]))
if backend == "tensorflow":
    results += [train(tf.function), train(lambda step: tf.function(step, jit_compile=True))]
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        variable = keras.Variable(START, dtype="float64")
        optimizer = keras_rmsprop.RMSprop(0.1, momentum=0.5)
        optimizer.build([variable])
    for gradient in GRADIENTS:
        strategy.run(lambda g: optimizer.apply([g], [variable]), args=(tf.constant(gradient),))
    results.append(variable.numpy())
    for lazy in (False, True):
        table = keras.Variable(START, dtype="float64")
        optimizer = keras_rmsprop.RMSprop(0.1, lazy=lazy)
        for gradient in GRADIENTS:
            rows = tf.IndexedSlices(tf.constant(gradient[:2]), tf.constant([3, 1]))
            optimizer.apply([rows], [table])
        results.append(table.numpy())
print(len(hidden))
print(" ".join(float(x).hex() for result in results for x in np.ravel(result)))
"""


def trained_without(name: str) -> tuple[int, np.ndarray]:
    """How often a name was hidden from the package, and the trained weights."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name],
        env={**os.environ, "KERAS_BACKEND": BACKEND, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    count, numbers = done.stdout.splitlines()[-2:]
    return int(count), np.array([float.fromhex(x) for x in numbers.split()])


@pytest.fixture(scope="module")
def with_all() -> np.ndarray:
    """The weights that the same program trains with nothing hidden."""
    count, trained = trained_without("nothing")
    assert count == 0
    return trained


@pytest.mark.skipif(BACKEND != "tensorflow", reason="configures TensorFlow's devices")
def test_devices_can_still_be_configured_after_importing_the_package() -> None:
    program = (
        "import tensorflow as tf, keras_rmsprop\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "two = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "tf.config.set_logical_device_configuration(cpu, two)\n"
        "assert len(tf.config.list_logical_devices('CPU')) == 2\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", KERAS + TENSORFLOW * (BACKEND == "tensorflow"))
def test_without_a_private_name_steps_give_the_same_weights(
    name: str, with_all: np.ndarray
) -> None:
    count, trained = trained_without(name)
    assert count > 0
    np.testing.assert_allclose(trained, with_all, rtol=1e-6, atol=1e-7)


def test_the_listed_private_names_exist() -> None:
    optimizer = keras.optimizers.Optimizer(0.1, use_ema=True, gradient_accumulation_steps=2)
    variables = [keras.Variable(1.0), keras.Variable([2.0, 3.0])]
    optimizer.build(variables)
    has = {name for name in KERAS_PRIVATE_NAMES if hasattr(optimizer, name)}
    of_variables = {name for name in KERAS_PRIVATE_NAMES if hasattr(variables[0], name)}
    of_tensorflow = {"_distribution_strategy"} if BACKEND != "tensorflow" else set()
    assert has | of_variables | of_tensorflow == set(KERAS_PRIVATE_NAMES)


def test_the_list_of_private_names_is_complete() -> None:
    optimizer = keras.optimizers.Optimizer(0.1, use_ema=True, gradient_accumulation_steps=2)
    optimizer.build([keras.Variable(1.0), keras.Variable([2.0, 3.0])])
    sources = Path(inspect.getfile(keras_rmsprop)).parent.rglob("*.py")
    text = "\n".join(source.read_text("utf-8") for source in sources)
    used = {*re.findall(r"\.(_[a-z]\w*)", text), *re.findall(r"def (_[a-z]\w*)\(self", text)}
    # Attributes of the package's own objects, and of TF1's optimizer, that have the same names.
    own = {"_constraint", "_name"}
    of_keras = {
        name
        for name in used - own
        if any(hasattr(x, name) for x in (optimizer, keras.Variable(0.0)))
    }
    assert of_keras <= set(KERAS_PRIVATE_NAMES)
