"""Test what may be given to carry a training over, and what is said about anything else."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop import conventions, interop
from keras_rmsprop.interop import NotExactError
from yardsticks import peers


def variables() -> list[keras.Variable]:
    return [keras.Variable(np.ones(shape), name=f"v{i}") for i, shape in enumerate([(2, 3), (3,)])]


def steps(optimizer: Any, own: list[Any], count: int) -> None:
    for i in range(count):
        rng = np.random.default_rng(i)
        optimizer.apply([keras.ops.convert_to_tensor(rng.normal(size=v.shape)) for v in own], own)


# Mixed precision: compile wraps the optimizer of a model.


def wrapped(inner: Any, own: list[Any]) -> Any:
    outer = keras.optimizers.LossScaleOptimizer(inner)
    outer.build(own)
    return outer


@pytest.mark.parametrize("make", [keras.optimizers.RMSprop, keras_rmsprop.RMSprop])
def test_the_optimizer_in_a_loss_scale_optimizer_is_read(float64, make):
    own = variables()
    outer = wrapped(make(0.02, momentum=0.5), own)
    steps(outer.inner_optimizer, own, 3)
    optimizer = interop.like(outer, own)
    assert isinstance(optimizer, keras_rmsprop.RMSprop)
    assert int(optimizer.iterations) == 3
    assert optimizer.momentum == 0.5


def test_state_goes_to_and_from_optimizers_in_a_loss_scale_optimizer(float64):
    own = variables()
    theirs = wrapped(keras.optimizers.RMSprop(0.02, momentum=0.5), own)
    steps(theirs.inner_optimizer, own, 3)
    ours = wrapped(keras_rmsprop.RMSprop(0.02, momentum=0.5), own)
    interop.keras.load(ours, theirs)
    again = wrapped(keras.optimizers.RMSprop(0.02, momentum=0.5), own)
    interop.keras.assign(ours, again)
    for a, b in zip(again.inner_optimizer.variables, theirs.inner_optimizer.variables, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b), err_msg=a.path
        )
    if not peers.unavailable("torch"):
        import torch

        there = [torch.nn.Parameter(torch.ones(tuple(v.shape), dtype=torch.float64)) for v in own]
        target = torch.optim.RMSprop(there, lr=0.02, alpha=0.9, eps=1e-7, momentum=0.5)
        outer = wrapped(conventions.torch(0.02, alpha=0.9, eps=1e-7, momentum=0.5), own)
        steps(outer.inner_optimizer, own, 2)
        state = interop.torch.state_dict(outer, target, "order")["state"]
        assert float(state[0]["step"]) == 2.0
        interop.torch.load(outer, {**target.state_dict(), "state": state}, "order")


# torch's state_dict.


def torch_state(**settings: Any) -> tuple[Any, Any, list[Any]]:
    if peers.unavailable("torch"):
        pytest.skip(str(peers.unavailable("torch")))
    import torch

    parameters = [torch.nn.Parameter(torch.ones(s, dtype=torch.float64)) for s in ((2, 3), (3,))]
    groups = [{"params": parameters[:1], "lr": 0.5}, {"params": parameters[1:]}]
    optimizer = torch.optim.RMSprop(groups, lr=0.25, **settings)
    for t in range(3):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 1.0 + t)
        optimizer.step()
    return torch, optimizer, parameters


def test_a_state_dict_tells_the_settings_and_the_groups(float64):
    _, there, _ = torch_state(momentum=0.5, alpha=0.75, eps=0.125, weight_decay=0.25)
    own = variables()
    optimizer = interop.like(there.state_dict(), own, "order")
    want = interop.like(there, own, "order")
    configs = [{**o.get_config(), "name": None} for o in (optimizer, want)]
    assert configs[0] == configs[1]
    assert (optimizer.rho, optimizer.l2, optimizer.epsilon_inside_sqrt) == (0.75, 0.25, False)
    for a, b in zip(optimizer.variables, want.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))


def test_a_state_dict_that_does_not_show_its_class_needs_it(float64):
    _, there, _ = torch_state()
    state = there.state_dict()
    new = ("capturable", "foreach", "maximize", "differentiable")
    state["param_groups"] = [
        {key: value for key, value in group.items() if key not in new}
        for group in state["param_groups"]
    ]
    own = variables()
    with pytest.raises(ValueError, match=r"does not show whether .* Pass kind="):
        interop.like(state, own, "order")
    assert not interop.like(state, own, "order", kind="torch.optim.RMSprop").epsilon_inside_sqrt
    other = interop.like(state, own, "order", kind="Stable-Baselines3's RMSpropTFLike")
    assert other.epsilon_inside_sqrt
    assert other.initial_square_average == 1.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda s: {"model": {}, "optimizer": s}, "Its entry 'optimizer' is one"),
        (lambda s: {"optimizer_states": [s]}, "The first of its entry 'optimizer_states' is one"),
        (lambda _: {"weight": np.float32(0)}, "received one of builtins.dict"),
        (lambda _: "optimizer.pt", "Read the file first: with torch.load"),
    ],
)
def test_what_holds_a_state_dict_is_refused_with_what_to_do(float64, wrong, message):
    _, there, _ = torch_state()
    own = variables()
    optimizer = conventions.torch()
    optimizer.build(own)
    for call in (
        lambda: interop.torch.load(optimizer, wrong(there.state_dict()), "order"),
        lambda: interop.like(wrong(there.state_dict()), own, "order"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_state_dict_of_a_module_is_told_from_that_of_an_optimizer(float64):
    torch, _, _ = torch_state()
    with pytest.raises(ValueError, match=r"It is the state_dict of a module, which .*load_weights"):
        interop.like(torch.nn.Linear(2, 3).state_dict())


def test_names_may_be_an_iterator(float64):
    _, there, parameters = torch_state()
    own = variables()
    mapping = dict(zip(("a", "b"), own, strict=True))
    for names in (iter(["a", "b"]), iter(zip(("a", "b"), parameters, strict=True))):
        assert int(interop.like(there, own, mapping, names=names).iterations) == 3
    with pytest.raises(ValueError, match="received an iterator with one of torch"):
        interop.like(there, own, mapping, names=iter(parameters))


def test_a_list_of_pairs_needs_names(float64):
    _, there, _ = torch_state()
    own = variables()
    pairs = [interop.Pair((name,), v) for name, v in zip(("a", "b"), own, strict=True)]
    with pytest.raises(ValueError, match=r"Pass `names`, .* \(`Pairs\.replace` changes one\)"):
        interop.like(there, own, pairs)
    assert int(interop.like(there, own, pairs, names=["a", "b"]).iterations) == 3


# Messages.


def test_the_argument_that_is_wrong_is_named(float64):
    own = variables()
    optimizer = keras_rmsprop.RMSprop()
    optimizer.build(own)
    with pytest.raises(ValueError, match=r"`target` must be a keras\.optimizers\.RMSprop, rec"):
        interop.keras.assign(optimizer, "trained.keras")
    with pytest.raises(ValueError, match=r"`source` must be .* or the path of a file, received"):
        interop.keras.load(optimizer, 3)
    with pytest.raises(ValueError, match="`target` must be an RMSprop of tf_keras"):
        interop.tf_keras.assign(optimizer, 3)
    with pytest.raises(ValueError, match="`target` must be a torch optimizer"):
        interop.torch.state_dict(optimizer, 3, "order")


def test_a_model_for_variables_is_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"such as model\.trainable_variables, received one of"):
        interop.like(keras.optimizers.RMSprop(), model)


def test_a_schedule_with_the_rate_of_a_group_is_told_the_right_one(float64):
    _, there, _ = torch_state()
    own = variables()
    with pytest.raises(NotExactError, match=r"gives 0\.25 now, and must give 0\.5, the rate") as no:
        interop.like(there, own, "order", learning_rate=schedule(0.25))
    assert "Use `interop.like`" not in str(no.value)
    optimizer = interop.like(there, own, "order", learning_rate=schedule(0.5))
    assert int(optimizer.iterations) == 3


def schedule(rate: float) -> Any:
    return keras.optimizers.schedules.ExponentialDecay(rate, 1000, 1.0)


@pytest.mark.skipif(bool(peers.unavailable("tf1")), reason=str(peers.unavailable("tf1")))
def test_a_file_of_a_checkpoint_and_other_arguments_of_tf1_are_refused(tmp_path, float64):
    own = variables()
    optimizer = conventions.tf1(0.1)
    optimizer.build(own)
    names = dict(zip(("a", "b"), own, strict=True))
    path = interop.tf1.save(optimizer, tmp_path / "model.ckpt-10", names)
    for suffix in (".index", ".data-00000-of-00001"):
        with pytest.raises(ValueError, match=r"is one file of a checkpoint\. Pass .*ckpt-10'"):
            interop.tf1.load(optimizer, path + suffix, names)
    with pytest.raises(ValueError, match="`checkpoint` must be the path of a checkpoint"):
        interop.tf1.load_weights(names, path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`pairs` must be a mapping"):
        interop.tf1.load(optimizer, path, own)
    with pytest.raises(ValueError, match="`pairs` must be a mapping"):
        interop.tf1.load_weights(path, own)
