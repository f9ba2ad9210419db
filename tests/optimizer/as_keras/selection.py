"""The Keras tests that are run, and those of them that cannot pass with another class."""

import fnmatch
import importlib.util
import inspect
import re
from typing import Any, NamedTuple

import keras
import pytest

MODULES = (
    "backend/common/remat_test.py",
    "backend/jax/core_test.py",
    "backend/jax/distribution_lib_test.py",
    "backend/jax/trainer_test.py",
    "backend/tensorflow/distribute_test.py",
    "backend/tensorflow/optimizer_distribute_test.py",
    "callbacks/backup_and_restore_test.py",
    "callbacks/callback_test.py",
    "callbacks/csv_logger_test.py",
    "callbacks/early_stopping_test.py",
    "callbacks/lambda_callback_test.py",
    "callbacks/learning_rate_scheduler_test.py",
    "callbacks/model_checkpoint_test.py",
    "callbacks/monitor_callback_test.py",
    "callbacks/orbax_checkpoint_test.py",
    "callbacks/reduce_lr_on_plateau_test.py",
    "callbacks/swap_ema_weights_test.py",
    "callbacks/terminate_on_nan_test.py",
    "layers/core/dense_test.py",
    "layers/core/embedding_test.py",
    "layers/normalization/batch_normalization_test.py",
    "legacy/saving/legacy_h5_format_test.py",
    "models/cloning_test.py",
    "models/model_test.py",
    "models/sequential_test.py",
    "models/variable_mapping_test.py",
    "optimizers/adam_test.py",
    "optimizers/adamw_test.py",
    "optimizers/loss_scale_optimizer_test.py",
    "optimizers/multi_optimizer_test.py",
    "optimizers/optimizer_sparse_test.py",
    "optimizers/optimizer_test.py",
    "optimizers/rmsprop_test.py",
    "optimizers/schedules/learning_rate_schedule_test.py",
    "optimizers/sgd_test.py",
    "saving/file_editor_test.py",
    "saving/saving_api_test.py",
    "saving/saving_lib_test.py",
    "trainers/compile_utils_test.py",
    "trainers/trainer_test.py",
    "utils/summary_utils_test.py",
    "utils/torch_utils_test.py",
)
ALL = ("tensorflow", "jax", "torch")


class Row(NamedTuple):
    """Tests that match a pattern, and why they fail with our class and pass with Keras's."""

    pattern: str
    reason: str
    backends: tuple[str, ...] = ALL


# A row whose tests pass makes the suite fail, so that this table stays true.
CANNOT_PASS = (
    Row(
        "callbacks/*::*test_throws_when_optimizer_has_schedule",
        "checks Keras's message for a number in place of a schedule; ours is another, the error "
        "is the same TypeError",
    ),
    Row(
        "backend/tensorflow/optimizer_distribute_test.py::*test_gradient_accumulation",
        "reads the accumulators, which hold a replica's own gradients in Keras and the sum over "
        "all replicas here; the weights are the same",
        ("tensorflow",),
    ),
    Row("optimizers/adam_test.py::*test_correctness_with_golden", "checks Adam's numbers"),
    Row("optimizers/adamw_test.py::*test_correctness_with_golden", "checks AdamW's numbers"),
    Row(
        "optimizers/adamw_test.py::*test_weight_decay_is_none",
        "checks that AdamW demands a decay, as no other optimizer does",
    ),
    Row(
        "optimizers/schedules/*::*test_fit_lr_correctness",
        "checks the losses of a training with Adam",
    ),
    Row(
        "optimizers/sgd_test.py::*test_invalid_momentum",
        "checks SGD's message for a momentum out of range; ours is another",
    ),
    Row(
        "saving/file_editor_test.py::*test_scalar_weight",
        "counts the arrays in a file with Adam's state; our files hold a description as well",
    ),
    Row("optimizers/sgd_test.py::*test_single_step", "checks that SGD has no slots"),
)

# Should be empty. When the tests of a row pass, the suite fails until the row is removed.
KNOWN_BUGS: tuple[Row, ...] = ()

# At least as many tests pass with our class; fewer would mean that the replacement failed.
LEAST_PASSED = 150

# Tests that are slow, about other optimizers, or need packages that are not installed.
LEFT_OUT = (
    # With Adagrad.
    "*test_fit_with_data_adapter_*",
    "*_unknown_data*",
    "*test_steps_per_execution_steps_count*",
    "*test_steps_per_execution_steps_per_epoch_*",
    "backend/common/remat_test.py::*test_remat_basic_call*",
    "layers/core/*lora_integration_int[48]*",
    "optimizers/optimizer_sparse_test.py::*_ada[dgfm][erax]*",
    # It records with mocks which of Keras's methods a step assigns with.
    "optimizers/optimizer_sparse_test.py::*test_sparse_gradients_*",
    "optimizers/optimizer_sparse_test.py::*_ftrl",
    "optimizers/optimizer_sparse_test.py::*_lion",
    "optimizers/optimizer_sparse_test.py::*_nadam",
    "optimizers/optimizer_sparse_test.py::*_scatter_update",
    # The positions of adam, sgd, adamw and rmsprop in their list are 0, 1, 2 and 4.
    "optimizers/optimizer_test.py::*weigth_decay[!0124]*",
    "optimizers/optimizer_test.py::*weigth_decay1[0-9]",
    "optimizers/optimizer_test.py::*pickleable_optimizers[!0124]*",
    "optimizers/optimizer_test.py::*pickleable_optimizers1[0-9]",
)
# Tests in which torch compiles with its own compiler, which needs C++.
LEFT_OUT_ON_TORCH = ("*_jit", "callbacks/swap_ema_weights_test.py::*")


# Words in tests that make an optimizer. `compile` without one makes Keras's RMSprop.
_MAKES_ONE = re.compile(r"\b(SGD|Adam|AdamW|RMSprop|optimizer\w*|compile)\b")
_CALLED = re.compile(r"\b(\w+)\(")


def modules() -> list[str]:
    """The modules that concern this backend and whose requirements are installed."""
    others = {"tensorflow", "jax", "torch"} - {keras.backend.backend()}
    left = [f"backend/{other}/*" for other in others] + [f"utils/{other}_*" for other in others]
    if importlib.util.find_spec("orbax") is None:
        left.append("callbacks/orbax_*")
    return [m for m in MODULES if not any(matches(m, pattern) for pattern in left)]


def matches(test: str, pattern: str) -> bool:
    """Return whether a test's id matches this pattern."""
    return fnmatch.fnmatchcase(test, pattern)


def selects(item: pytest.Item) -> bool:
    """Return whether one of Keras's tests seems to make an optimizer and is to be run."""
    on_torch = LEFT_OUT_ON_TORCH if keras.backend.backend() == "torch" else ()
    if any(matches(item.nodeid, pattern) for pattern in (*LEFT_OUT, *on_torch)):
        return False
    return _makes_one(item.function, [item.cls, item.module], set())


def _makes_one(function: Any, homes: list[Any], seen: set[str]) -> bool:
    """Search the source of a function, and of those that it calls in its own module."""
    source = inspect.getsource(function)
    if _MAKES_ONE.search(source):
        return True
    for name in set(_CALLED.findall(source)) - seen:
        seen.add(name)
        for home in homes:
            called = inspect.unwrap(getattr(home, name, _makes_one))
            own = getattr(called, "__module__", None) == homes[-1].__name__
            if own and inspect.isfunction(called) and _makes_one(called, homes, seen):
                return True
    return False
