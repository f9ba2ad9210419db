"""Running a whole step on the active backend.

Start with `_interface`, the contract between optimizer and engine. `_op_by_op` is the path
that all engines share. Only the active backend's engine is imported.
"""

import keras

from keras_rmsprop._execution._interface import Engine


def _engine() -> Engine:
    match keras.backend.backend():
        case "tensorflow":
            from keras_rmsprop._execution import tensorflow

            return tensorflow
        case "jax":
            from keras_rmsprop._execution import jax

            return jax
        case "torch":
            from keras_rmsprop._execution import torch

            return torch
        case other:
            raise ImportError(
                f"keras_rmsprop runs on the tensorflow, jax and torch backends of Keras, received "
                f"KERAS_BACKEND={other!r}, which cannot train. Set KERAS_BACKEND to one of the "
                "three."
            )


engine = _engine()
engine.install()

__all__ = ["engine"]
