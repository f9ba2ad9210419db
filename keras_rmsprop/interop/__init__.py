"""Bring a half-finished training from another framework to Keras, and take it back.

    import keras_rmsprop
    from keras_rmsprop import interop

    pairs = interop.torch.pairs(network, model)
    interop.torch.load_weights(network, pairs)
    optimizer = interop.like(torch_optimizer, model.trainable_variables, pairs)
    model.compile(optimizer, loss)

`like` returns the optimizer that takes the steps of a given one, with its settings, groups and
state. The modules are named after the frameworks: `torch` (also timm and Stable-Baselines3),
`optax`, `tf1`, `tf_keras` (new and legacy) and `keras`. Each has a `load`, which brings a state
into a built `RMSprop`, and a way back: `torch.state_dict`, `optax.state`, `tf1.save`,
`tf_keras.assign` and `keras.assign`.

Averages are converted to what they mean here (see `RMSprop`), in float64. Ten steps there and ten
here are the same as twenty there, to 1e-13 of the distance travelled in float64. By default
whatever would make them differ is refused, and nothing is assigned before everything fits.

No framework is imported before it is used.
"""

from keras_rmsprop.interop import keras, optax, tf1, tf_keras, torch
from keras_rmsprop.interop._like import like
from keras_rmsprop.interop._pairs import Pair
from keras_rmsprop.interop._source import NotExactError

__all__ = ["NotExactError", "Pair", "keras", "like", "optax", "tf1", "tf_keras", "torch"]
