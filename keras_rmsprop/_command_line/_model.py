"""Read Keras models, with an optimizer of this package."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras

from keras_rmsprop import _state, interop
from keras_rmsprop._command_line._config import name_of
from keras_rmsprop._command_line._program import Failure
from keras_rmsprop._command_line._screen import framework
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop.interop import _live, _schedules


def loaded(path: Path) -> tuple[Any, RMSprop]:
    """Load a model, in Keras's safe mode, and return it with its optimizer.

    Keras's own RMSprop is replaced by one of this package with the same settings and state.

    Raises: Failure if the file holds no such model, or another optimizer.
    """
    if find_spec("tensorflow"):
        # Keras imports it to load a model, whichever backend is active.
        framework("tensorflow")
    try:
        # Not every release of Keras refuses such files.
        _state.check_no_entry_leads_out(path)
        model = keras.saving.load_model(path)
    except Exception as error:
        # A damaged file makes Keras, h5py and the backend raise many kinds of errors.
        raise Failure(f"{path} cannot be loaded as a Keras model: {error}") from error
    optimizer = _optimizer_of(model, path)
    if "\0" in optimizer.name:
        raise Failure(
            f"The optimizer in {path} has the name {optimizer.name!r}, whose NUL no file can hold; "
            "give it another name, and save the model again."
        )
    if not optimizer.built:
        if not model.trainable_variables:
            raise Failure(f"The model in {path} has no variables that its optimizer could train.")
        optimizer.build(model.trainable_variables)
    return model, optimizer


def _optimizer_of(model: Any, path: Path) -> RMSprop:
    held = getattr(model, "optimizer", None)
    # With mixed precision Keras wraps the optimizer.
    optimizer = getattr(held, "inner_optimizer", held)
    _check_rate(optimizer, path)
    if isinstance(optimizer, RMSprop):
        return optimizer
    if optimizer is held and _live.is_of(optimizer, "keras.RMSprop"):
        return _replaced(model, optimizer)
    if _live.is_of(optimizer, "keras.RMSprop"):
        raise Failure(
            f"The model in {path} was saved with Keras's RMSprop in a {type(held).__name__}, which "
            "has a state of its own. In a program, `interop.like(model.optimizer, "
            "model.trainable_variables)` makes the optimizer to compile the model with."
        )
    name = "no optimizer" if held is None else f"the optimizer {type(optimizer).__name__}"
    raise Failure(
        f"The model in {path} was saved with {name}; compile it with keras_rmsprop.RMSprop or with "
        "keras.optimizers.RMSprop, and save it again."
    )


def _check_rate(optimizer: Any, path: Path) -> None:
    """Refuse a function as learning rate: the file may name any of Keras's, such as a download."""
    rate = getattr(optimizer, "_learning_rate", None)
    name = None
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        # A schedule of a user's may have anything in it that is registered.
        others = _schedules.unknown_in(keras.saving.serialize_keras_object(rate))
        name = next(map(name_of, others), None)
    elif callable(rate):
        name = getattr(rate, "__name__", type(rate).__name__)
    if name is not None:
        raise Failure(
            f"The learning rate of the optimizer in {path} is, or has in it, {name!r}, which is "
            "not called: it must be a number or a schedule of keras.optimizers.schedules. Compile "
            "the model with one, and save it again."
        )


def _replaced(model: Any, before: Any) -> RMSprop:
    """Compile a model with this package's optimizer instead of Keras's, and nothing else new."""
    config = model.get_compile_config()
    config["optimizer"] = keras.saving.serialize_keras_object(interop.like(before))
    model.compile_from_config(config)
    optimizer: RMSprop = model.optimizer
    if before.built and optimizer.built:
        interop.keras.load(optimizer, before)
    return optimizer
