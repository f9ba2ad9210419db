"""Test that recipes make the steps of their sources: the reference's, and torch's own."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest

from keras_rmsprop import recipes
from keras_rmsprop.reference import Reference
from tests.conftest import BACKEND
from tests.tools import models

SHAPES = {
    "convolution/kernel": (3, 3, 1, 2),
    "normalization/gamma": (2,),
    "normalization/beta": (2,),
    "dense/kernel": (4, 2),
    "dense/bias": (2,),
}
STEPS = 30


def starts() -> list[models.Array]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in SHAPES.values()]


def gradients() -> Iterator[list[models.Array]]:
    """Gradients for each step, whose sizes span two decades."""
    rng = np.random.default_rng(1)
    sizes = [10.0 ** rng.uniform(-1.5, 0.5, shape) for shape in SHAPES.values()]
    for _ in range(STEPS):
        yield [size * rng.normal(0.3, 1.0, size.shape) for size in sizes]


def follow(optimizer: Any) -> list[models.Array]:
    """The weights after all steps, then their averages, if there are any."""
    variables = [models.WithPath(path, start) for path, start in zip(SHAPES, starts(), strict=True)]
    for gradient in gradients():
        optimizer.apply(models.tensors(gradient), variables)
    averages = optimizer._model_variables_moving_average if optimizer.use_ema else []
    return models.values([*variables, *averages])


def efficientnet(step: int) -> float:
    """The rate for batches of 256 and 2 steps per epoch: 10 steps of warm-up, periods of 4.8."""
    return 0.016 * step / 10 if step < 10 else 0.016 * 0.97 ** (10 * step // 48)


@pytest.mark.parametrize("jit_compile", ["auto", False], ids="jit_compile={}".format)
def test_mnasnet_makes_the_steps_of_the_reference(float64: None, jit_compile: Any) -> None:
    optimizer = recipes.get("mnasnet", batch_size=256, steps_per_epoch=2)
    optimizer.jit_compile = jit_compile
    decaying = [{} if "normalization" in path else {"l2": 1e-5} for path in SHAPES]
    reference = Reference(
        starts(),
        rho=0.9,
        momentum=0.9,
        epsilon=0.001,
        initial_square_average=1.0,
        use_ema=True,
        ema_momentum=0.9999,
        groups=decaying,
    )
    for step, gradient in enumerate(gradients()):
        reference.apply(gradient, efficientnet(step))
    averages = [parameter.average for parameter in reference.parameters]
    models.assert_same(
        follow(optimizer), [*reference.weights, *averages], [*starts(), *starts()], steps=STEPS
    )


def test_dqn_of_nature_and_of_the_zoo_differ_by_the_sum_over_the_batch_only() -> None:
    weights = []
    for name, factor in (("dqn_nature", 32.0), ("dqn_zoo", 1.0)):
        optimizer, variable = recipes.get(name), keras.Variable(starts()[3].astype("float32"))
        for gradient in gradients():
            mean = gradient[3].astype("float32")
            optimizer.apply(models.tensors([mean * factor]), [variable])
        weights.extend(models.values([variable]))
    # 32 is a power of two, so that not even the rounding differs.
    models.assert_identical([weights[0]], [weights[1]])
    assert np.all(weights[0] != starts()[3].astype("float32"))


def test_char_rnn_clips_elements_and_a2c_the_global_norm() -> None:
    def first_step(name: str, gradient: list[float]) -> models.Array:
        optimizer, variable = recipes.get(name, **sizes), keras.Variable([0.0, 0.0])
        optimizer.apply(models.tensors([np.array(gradient, "float32")]), [variable])
        return models.values(optimizer._square_averages)[0]

    sizes = {"steps_per_epoch": 10}
    np.testing.assert_allclose(first_step("char_rnn", [100.0, 1.0]), [0.05 * 25, 0.05], rtol=1e-6)
    np.testing.assert_allclose(
        first_step("a2c_sb3", [3.0, 4.0]), [0.01 * 0.09, 0.01 * 0.16], rtol=1e-6
    )


def by_value(gradients: list[Any]) -> list[Any]:
    return [g.clamp(-5.0, 5.0) for g in gradients]


def by_global_norm(limit: float) -> Callable[[list[Any]], list[Any]]:
    def clip(gradients: list[Any]) -> list[Any]:
        # torch's clip_grad_norm_ adds 1e-6 to the norm.
        norm = float(sum((g**2).sum() for g in gradients)) ** 0.5
        return [g * min(1.0, limit / norm) for g in gradients]

    return clip


def linear(step: int) -> float:
    return 1.0 - min(step, 40) / 40


# What the sources do: the arguments of torch.optim.RMSprop, the factor of the rate in each step,
# and the clipping; with 2 steps per epoch and 40 in total.
SOURCES: dict[str, tuple[dict[str, float], Callable[[int], float], Any]] = {
    "mobilenet_v3_torchvision": (
        {"lr": 0.064, "alpha": 0.9, "eps": 0.0316, "momentum": 0.9, "weight_decay": 1e-5},
        lambda step: 0.973 ** (step // 4),
        list,
    ),
    "impala_torchbeast": (
        {"lr": 0.00048, "alpha": 0.99, "eps": 0.01, "momentum": 0},
        linear,
        by_global_norm(40.0),
    ),
    "a2c_sb3": ({"lr": 7e-4, "alpha": 0.99, "eps": 1e-5}, lambda _: 1.0, by_global_norm(0.5)),
    "pymarl": ({"lr": 0.0005, "alpha": 0.99, "eps": 1e-5}, lambda _: 1.0, by_global_norm(10.0)),
    "wgan": ({"lr": 0.00005}, lambda _: 1.0, list),
    "char_rnn": (
        {"lr": 2e-3, "alpha": 0.95},
        lambda step: 0.97 ** max(0, step // 2 - 9),
        by_value,
    ),
}


def test_every_recipe_of_torch_has_a_source_here() -> None:
    found = {name for name in recipes.names() if recipes.about(name).convention == "torch"}
    assert found == set(SOURCES)


@pytest.mark.skipif(BACKEND != "torch", reason="the sources are programs of torch")
@pytest.mark.parametrize("name", SOURCES)
def test_a_recipe_of_torch_makes_the_steps_of_torch(float64: None, name: str) -> None:
    import torch

    arguments, factor, clip = SOURCES[name]
    parameters = [torch.nn.Parameter(torch.tensor(start)) for start in starts()]
    theirs = torch.optim.RMSprop(parameters, **arguments)
    schedule = torch.optim.lr_scheduler.LambdaLR(theirs, factor)
    for gradient in gradients():
        clipped = clip([torch.tensor(g) for g in gradient])
        for parameter, g in zip(parameters, clipped, strict=True):
            parameter.grad = g
        theirs.step()
        schedule.step()
    want = [parameter.detach().numpy() for parameter in parameters]

    needed = recipes.about(name).needs
    sizes = {"steps_per_epoch": 2, "total_steps": 40}
    got = follow(recipes.get(name, **{size: sizes[size] for size in needed}))
    models.assert_same(got, want, starts(), steps=STEPS)
