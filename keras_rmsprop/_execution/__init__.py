"""How a whole step is run on the active backend.

Each engine reads the variables, runs `_step.step` and writes the results back. They share one
interface; only the active backend's is imported:

    run(optimizer, gradients)        make one step; `gradients` has one entry per built variable
    read(variable)                   the variable's current value as a tensor
    write(pairs)                     assign each (variable, value)
    copy(value)                      a value that may be given to a second variable
    shape_of(gradient)               the shape of a gradient, dense or sparse
    is_rows(gradient)                whether it is the rows of a table and their ids
    dense(gradient, variable)        the gradient as one value per weight
    as_written(function)             the function, kept from being rewritten when traced
    GIVES_ROWS                       whether gradients can come as rows
    let_averages_be_swapped(opt.)    have Keras's callback swap weights with wider averages
    STEPS_IN_GRAPHS                  whether a graph changes variables while Python is elsewhere
    is_recorded()                    whether Python is being recorded, which takes no locks
    outside_trace()                  a context in which things are done now, not traced
"""

import keras

match keras.backend.backend():
    case "tensorflow":
        from keras_rmsprop._execution import tensorflow as engine
    case "jax":
        from keras_rmsprop._execution import jax as engine  # type: ignore[no-redef]
    case "torch":
        from keras_rmsprop._execution import torch as engine  # type: ignore[no-redef]
    case other:
        raise ImportError(
            f"keras_rmsprop runs on the tensorflow, jax and torch backends of Keras, received "
            f"KERAS_BACKEND={other!r}, which cannot train. Set KERAS_BACKEND to one of the three."
        )

__all__ = ["engine"]
