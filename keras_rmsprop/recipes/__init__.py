"""Published ways to train with RMSprop: MnasNet, EfficientNet, DQN, A2C, IMPALA, WGAN and others.

A recipe is the optimizer of a publication with its schedule, weight decay, average of the weights
and clipping. `list()` prints all of them, `print(about(name))` all about one, with its source, and
`get(name, ...)` returns its optimizer:

>>> import keras
>>> from keras_rmsprop import recipes
>>> model = keras.Sequential(  # or keras.applications.EfficientNetB0(weights=None)
...     [keras.Input((32, 32, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
... )
>>> optimizer = recipes.get("efficientnet", batch_size=2048, steps_per_epoch=625)
>>> loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
>>> model.compile(optimizer, loss)

The optimizers are `keras_rmsprop.RMSprop`, made by `keras_rmsprop.conventions`, and are saved and
loaded with the model. Programs and papers differ, so they have recipes of their own: "efficientnet"
is what the authors' program does, "efficientnet_paper" what the paper says.

No recipe invents what its source does not publish: `get` asks for it, with the reason.

>>> recipes.get("efficientnet_paper", steps_per_epoch=625, weight_decay_form="coupled")
Traceback (most recent call last):
    ...
ValueError: The recipe 'efficientnet_paper' needs `epsilon`: the paper does not give it, ...

An optimizer is not all of a training. What it cannot do, such as clipping the errors of Q-learning
or the weights of a critic, is in the `remarks` of a recipe.

The schedules that Keras lacks, or has in float32 only, can be used on their own: `StaircaseDecay`,
`LinearDecay`, `WarmUp`, `ColdStart`, `PerEpoch` and `AtLeast`.
"""

import difflib
from collections.abc import Callable
from typing import Any

from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop._settings._validation import shown
from keras_rmsprop.recipes import _text
from keras_rmsprop.recipes._recipe import Recipe
from keras_rmsprop.recipes._schedules import (
    AtLeast,
    ColdStart,
    LinearDecay,
    PerEpoch,
    StaircaseDecay,
    WarmUp,
)
from keras_rmsprop.recipes._table import RECIPES

__all__ = [
    "AtLeast",
    "ColdStart",
    "LinearDecay",
    "PerEpoch",
    "Recipe",
    "StaircaseDecay",
    "WarmUp",
    "about",
    "get",
    "list",
    "names",
]


def get(
    name: str,
    *,
    batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    total_steps: int | None = None,
    **unpublished: Any,
) -> RMSprop:
    """Return the optimizer of a recipe, as `model.compile` needs it.

    What the source publishes is not an argument. To depart from it, change the optimizer before its
    first step: `optimizer.epsilon = 0.01`, `optimizer.use_ema = False`.

    Args:
        name: the recipe, one of `recipes.names()`.
        batch_size: the number of samples in a step, of all devices together, a positive integer.
            Rates that are published in proportion to it are scaled by it. Like the next two, it
            must be given if the recipe uses it (`recipes.about(name).needs`), and is accepted
            anyway.
        steps_per_epoch: the number of steps in an epoch, a positive integer: that of batches, as
            `len(dataset)`. Schedules count steps; with `gradient_accumulation_steps` they count
            batches, as everywhere in Keras.
        total_steps: the number of steps of the whole training, a positive integer.
        **unpublished: what the source does not publish, such as `epsilon=0.001`; the names, with
            the reasons, are in `recipes.about(name).unpublished`. All of them must be given.

    Returns:
        A `keras_rmsprop.RMSprop`. Weight decay that some variables are exempt from is in a group of
        the others (`optimizer.groups`), chosen by the names that Keras's layers give to their
        variables; so it does not matter whether a model has any that are exempt. If a model has
        none that decay, the first step raises an error.

    Raises:
        ValueError: if there is no such recipe; if a size is not a positive integer; if an argument
            is missing, published or unknown. The message says what to do.

    Example:
    >>> from keras_rmsprop import recipes
    >>> optimizer = recipes.get("mnasnet", batch_size=4096, steps_per_epoch=312)
    >>> optimizer.rho, optimizer.momentum, optimizer.epsilon, optimizer.initial_square_average
    (0.9, 0.9, 0.001, 1.0)
    >>> optimizer.groups
    Groups({Group('(?:.*/)?(?!(?:gamma|beta)$)[^/]+': learning_rate=1.0, l2=1e-05)})
    >>> rate = recipes.about("mnasnet").rate(batch_size=4096, steps_per_epoch=312)
    >>> [round(float(rate(epoch * 312)), 4) for epoch in (0, 1, 2, 3, 4, 5, 8, 100)]
    [0.0, 0.0512, 0.1024, 0.1536, 0.2048, 0.2409, 0.2336, 0.0734]
    """
    return about(name).optimizer(
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        **unpublished,
    )


def names() -> tuple[str, ...]:
    """Return the names of all recipes.

    Example:
    >>> from keras_rmsprop import recipes
    >>> [name for name in recipes.names() if "efficientnet" in name]
    ['efficientnet_paper', 'efficientnet', 'efficientnet_v2_paper', 'efficientnet_b0_timm',
     'efficientnet_b2_timm', 'efficientnet_es_timm']
    """
    return tuple(RECIPES)


def about(name: str) -> Recipe:
    """Return all that is recorded of a recipe.

    Args:
        name: one of `recipes.names()`.

    Returns: the record; `print` shows it as text.
    Raises: ValueError if there is no such recipe, with similar names.

    Example:
    >>> from keras_rmsprop import recipes
    >>> print(recipes.about("a2c_sb3"))
    a2c_sb3: A2C, the default of Stable-Baselines3
        convention     conventions.torch
        learning rate  0.0007, constant
        rho            0.99
        momentum       0
        epsilon        1e-5
        centered       no
        weight decay   none
        average        none
        clipping       global_clipnorm 0.5
        source         github.com/DLR-RM/stable-baselines3, stable_baselines3/a2c/a2c.py
      Remarks:
        Its `RMSpropTFLike`, which one must ask for, starts the average of squares from 1 and has
          epsilon inside the root.
    """
    if name not in RECIPES:
        text = str(name).lower()
        near = difflib.get_close_matches(text, RECIPES, n=3, cutoff=0.5)
        near += [known for known in RECIPES if text and text in known and known not in near]
        hint = f" Did you mean {' or '.join(map(repr, near[:5]))}?" if near else ""
        raise ValueError(
            f"There is no recipe {shown(name)}.{hint} `recipes.names()` returns the names of all."
        )
    return RECIPES[name]


def list(print_fn: Callable[[str], Any] = print) -> None:  # noqa: A001 - reads well after `recipes.`
    """Print a table of all recipes.

    Args:
        print_fn: called once with the whole text. Default `print`.
    """
    print_fn(_text.overview(RECIPES.values()))
