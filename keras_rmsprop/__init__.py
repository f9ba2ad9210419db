"""RMSprop for Keras 3: drop-in, exact, in any framework's convention."""

from keras_rmsprop import conventions, reference
from keras_rmsprop._optimizer import RMSprop

__version__ = "0.1.0"

__all__ = ["RMSprop", "conventions", "reference"]
