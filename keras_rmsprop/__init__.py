"""RMSprop for Keras 3: drop-in, exact, in any framework's convention."""

from keras_rmsprop import _startup

with _startup.imports():
    try:
        import keras as _keras
    except ModuleNotFoundError as error:
        # If jaxlib is missing, JAX's error does not name a module.
        _missing = (error.name or ("jaxlib" if "jaxlib" in str(error) else "")).partition(".")[0]
        if _missing not in ("tensorflow", "jax", "jaxlib", "torch"):
            raise
        raise ImportError(
            f"Keras runs on a backend that is not installed here: there is no module "
            f"{_missing!r}. Install one with the package, such as "
            f'pip install "keras_rmsprop[tensorflow]" (or [jax], or [torch]), and set '
            f"KERAS_BACKEND to its name where it is not tensorflow."
        ) from error

    from keras_rmsprop import (
        callbacks,
        conventions,
        interop,
        plots,
        recipes,
        reference,
        transforms,
    )
    from keras_rmsprop._optimizer import RMSprop
    from keras_rmsprop._settings._sampling import Diagnostics

__version__ = "0.1.0"

__all__ = [
    "Diagnostics",
    "RMSprop",
    "callbacks",
    "conventions",
    "interop",
    "plots",
    "recipes",
    "reference",
    "transforms",
]

del _keras
