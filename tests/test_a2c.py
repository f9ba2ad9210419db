"""Test the actor-critic of examples/a2c_cartpole.py: rollouts, advantages, gradients, steps."""

import importlib
import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from keras_rmsprop.reference import Reference
from tests.conftest import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="the example is written for JAX")

EXAMPLES = Path(__file__).parents[1] / "examples"
GAMMA = 0.99


@pytest.fixture
def a2c(monkeypatch: pytest.MonkeyPatch):
    """The module of the algorithm."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("_a2c")


@pytest.fixture
def cartpole(a2c):
    """The example's script as a module; matplotlib's settings are restored afterwards."""
    with mpl.rc_context():
        yield importlib.import_module("a2c_cartpole")


@pytest.fixture(scope="module")
def compiled():
    """The learners that tests have compiled so far, by the name of their optimizer."""
    return {}


@pytest.fixture
def learner(a2c, cartpole, compiled):
    """A function that returns the learner with an optimizer, given its name."""

    def of(name: str):
        if name not in compiled:
            compiled[name] = a2c.Learner(cartpole.new_optimizer(name))
        return compiled[name]

    return of


def push_right(observations):
    """Make the pole fall within a dozen steps."""
    return np.ones(observations.shape[:-1], np.int32)


def alternate():
    """Return a choice of actions that keeps the pole up for a few steps."""
    sign = iter(range(1_000))
    return lambda observations: np.full(observations.shape[:-1], next(sign) % 2, np.int32)


def masks(*steps):
    """Return masks of five steps of three environments, true at the (step, environment) given."""
    mask = np.zeros((5, 3), bool)
    for step in steps:
        mask[step] = True
    return mask


def test_advantages_agree_with_returns_added_up_by_hand(a2c) -> None:
    values = np.arange(1.0, 16.0).reshape(5, 3)
    rewards = np.array([[2.0, 3.0, 5.0]]).repeat(5, axis=0) + np.arange(5.0)[:, None]
    # In an episode that goes on, the next value is that of the next state.
    next_values = np.concatenate([values[1:], [[50.0, 60.0, 70.0]]])
    # Environment 0: the pole falls in step 1, in a state whose value must not count. Environment 1:
    # cut off in step 2, in a state of value 40; a new episode begins in step 3, with value 11.
    next_values[1, 0], next_values[2, 1] = 1e6, 40.0
    got = a2c.advantages(
        rewards, values, next_values, terminated=masks((1, 0)), ended=masks((1, 0), (2, 1))
    )
    returns = np.array(got) + values
    g = GAMMA
    fell = [
        2 + 3 * g,
        3,
        4 + 5 * g + 6 * g**2 + 50 * g**3,
        5 + 6 * g + 50 * g**2,
        6 + 50 * g,
    ]
    cut = [
        3 + 4 * g + 5 * g**2 + 40 * g**3,
        4 + 5 * g + 40 * g**2,
        5 + 40 * g,
        6 + 7 * g + 60 * g**2,
        7 + 60 * g,
    ]
    whole = [
        5 + 6 * g + 7 * g**2 + 8 * g**3 + 9 * g**4 + 70 * g**5,
        6 + 7 * g + 8 * g**2 + 9 * g**3 + 70 * g**4,
        7 + 8 * g + 9 * g**2 + 70 * g**3,
        8 + 9 * g + 70 * g**2,
        9 + 70 * g,
    ]
    np.testing.assert_allclose(returns.T, [fell, cut, whole], rtol=1e-12)


@pytest.mark.parametrize("step", [0, 4])
def test_an_end_in_the_first_or_last_step_of_a_rollout_is_no_special_case(a2c, step: int) -> None:
    values = np.full((5, 3), 10.0)
    rewards = np.ones((5, 3))
    terminated, ended = masks((step, 0)), masks((step, 0), (step, 1))
    returns = np.array(a2c.advantages(rewards, values, values, terminated, ended))[step] + 10.0
    after = 1 + GAMMA * 10 if step == 4 else sum(GAMMA**k for k in range(5)) + GAMMA**5 * 10
    np.testing.assert_allclose(returns, [1, 1 + GAMMA * 10, after], rtol=1e-12)


def test_the_step_in_which_the_pole_falls_leads_to_the_fallen_state(a2c) -> None:
    copies = a2c.CartPoles([0])
    rollouts = [copies.rollout(push_right) for _ in range(6)]
    observations, _, rewards, successors, terminated, ended = (
        np.concatenate(values)[:, 0] for values in zip(*rollouts, strict=True)
    )
    assert terminated.sum(axis=0).min() >= 2
    np.testing.assert_array_equal(terminated, ended)
    # 12 degrees is the limit of the angle.
    fallen = np.abs(successors[..., 2]) > 12 * 2 * np.pi / 360
    np.testing.assert_array_equal(fallen, terminated)
    # An episode begins with the next step, within 0.05 of the middle.
    begins = ended[:-1]
    assert np.abs(observations[1:][begins]).max() <= 0.05
    np.testing.assert_array_equal(successors[:-1][~begins], observations[1:][~begins])
    # Every step of every copy earns a reward, so that none is spent on beginning an episode.
    np.testing.assert_array_equal(rewards, 1.0)
    np.testing.assert_array_equal(np.sort(copies.returns[0]), np.sort(lengths(ended)))
    np.testing.assert_array_equal(copies.ends[0], 8 * (1 + np.nonzero(ended)[0]))


def lengths(ended):
    """Return the lengths of all completed episodes."""
    each = [np.diff(np.nonzero(copy)[0], prepend=-1) for copy in ended.T]
    return np.concatenate(each)


def test_an_episode_cut_off_by_the_time_limit_has_ended_but_not_terminated(a2c) -> None:
    copies = a2c.CartPoles([0, 1], time_limit=7)
    choose = alternate()
    first, second = copies.rollout(choose), copies.rollout(choose)
    assert not first.ended.any()
    assert not second.terminated.any()
    in_step = np.arange(5)[:, None, None]
    np.testing.assert_array_equal(second.ended, np.broadcast_to(in_step == 1, (5, 2, 8)))
    # The pole has swung further than any initial state, and the next episode starts from one.
    assert np.abs(second.successors[1]).max(axis=-1).min() > 0.05
    assert np.abs(second.observations[2]).max() <= 0.05
    assert copies.returns == [[7.0] * 8] * 2
    assert copies.ends == [[7 * 8] * 8] * 2


def test_the_time_limit_is_that_of_cartpole_v1(a2c) -> None:
    gymnasium = importlib.import_module("gymnasium")
    spec = gymnasium.spec("CartPole-v1")
    assert (spec.max_episode_steps, spec.reward_threshold) == (a2c.TIME_LIMIT, 475.0)


def test_the_copies_of_two_seeds_share_no_initial_state(a2c) -> None:
    starts = a2c.CartPoles(range(3)).observations
    assert starts.shape == (3, 8, 4)
    assert len(np.unique(starts[..., 0])) == 24


def test_the_network_begins_with_orthogonal_kernels_and_a_nearly_uniform_policy(a2c) -> None:
    network = a2c.new_network(seed=0)
    assert network.count_params() == 4610 + 4545
    gains = {64: 2.0**0.5, 2: 0.01, 1: 1.0}
    kernels = [w for w in map(np.asarray, network.get_weights()) if w.ndim == 2]
    assert len(kernels) == 6
    for kernel in kernels:
        short = kernel if kernel.shape[0] <= kernel.shape[1] else kernel.T
        want = gains[kernel.shape[1]] ** 2 * np.eye(len(short))
        np.testing.assert_allclose(short @ short.T, want, atol=1e-5)
    assert all(not w.any() for w in map(np.asarray, network.get_weights()) if w.ndim == 1)


def test_the_biases_of_the_heads_get_the_gradient_of_the_loss_by_hand(a2c, learner) -> None:
    torch = learner("torch")
    weights, _ = torch.start([3])
    network = a2c.new_network(seed=3)
    copies = a2c.CartPoles([3])
    copies.rollout(push_right)
    rollout = copies.rollout(push_right)
    assert rollout.terminated.any()
    got = {
        weight.path: np.asarray(gradient)[0]
        for weight, gradient in zip(
            network.trainable_variables, torch.gradients(weights, rollout), strict=True
        )
    }
    rollout = a2c.Rollout(*(values[:, 0] for values in rollout))
    policy_bias = next(g for g in got.values() if g.shape == (2,))
    value_bias = next(g for g in got.values() if g.shape == (1,))

    def outputs(observations):
        logits, values = network(observations.reshape(-1, 4))
        return np.asarray(logits, np.float64), np.asarray(values, np.float64).reshape(5, 8)

    logits, values = outputs(rollout.observations)
    _, next_values = outputs(rollout.successors)
    advantage = np.array(
        a2c.advantages(
            rollout.rewards.astype(np.float64),
            values,
            next_values,
            rollout.terminated,
            rollout.ended,
        )
    )
    # d/dV of 0.5 * mean((R - V)**2), with R = A + V, and d/dlogits of mean(-A * log p).
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    taken = np.eye(2)[rollout.actions.ravel()]
    want_policy = np.mean(-advantage.ravel()[:, None] * (taken - chances), axis=0)
    np.testing.assert_allclose(value_bias, [-advantage.mean()], rtol=1e-4)
    np.testing.assert_allclose(policy_bias, want_policy, rtol=1e-4)


def test_all_optimizers_get_the_same_first_gradient(learner, cartpole) -> None:
    learners = map(learner, cartpole.OPTIMIZERS)
    first, *others = [cartpole.untrained_gradients(each, 1)[0] for each in learners]
    assert len(others) == 3
    assert any(np.asarray(gradient).any() for gradient in first)
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("torch", {"epsilon_inside_sqrt": False}),
        ("tf1", {"initial_square_average": 1.0}),
        (
            "torch, average from 1",
            {"epsilon_inside_sqrt": False, "initial_square_average": 1.0},
        ),
        ("torch, epsilon under the root", {}),
    ],
)
def test_the_optimizers_differ_in_what_their_names_say(learner, cartpole, name, settings) -> None:
    of_name = learner(name)
    tensors = cartpole.untrained_gradients(of_name, 3)
    gradients = [[np.asarray(each, np.float64)[0] for each in gradient] for gradient in tensors]
    norms = [np.sqrt(sum(np.sum(each**2) for each in gradient)) for gradient in gradients]
    assert min(norms) > 0.5  # Otherwise this would not see the clip.
    start = [np.asarray(weight, np.float64)[0] for weight in of_name.start([0])[0]]
    reference = Reference(start, rho=0.99, epsilon=1e-5, **settings)
    path = [start]
    for gradient, norm in zip(gradients, norms, strict=True):
        reference.apply([each * 0.5 / norm for each in gradient], 7e-4)
        path.append(list(reference.weights))
    want = [
        np.sqrt(sum(np.sum((b - a) ** 2) for a, b in zip(before, after, strict=True)))
        for before, after in itertools.pairwise(path)
    ]
    got = cartpole.norms_of_steps(of_name, tensors)
    np.testing.assert_allclose(got, want, rtol=1e-3)


def test_a_training_depends_on_its_seed_and_its_optimizer_alone(a2c, learner) -> None:
    ticks = []
    first, second = a2c.train(learner("tf1"), [1, 2], 30, lambda: ticks.append(1))
    _, again = a2c.train(learner("tf1"), [3, 1], 30, lambda: ticks.append(1))
    _, other = a2c.train(learner("torch"), [2, 1], 30, lambda: None)
    assert len(ticks) == 60
    assert not np.array_equal(first.norms, second.norms)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.norms.shape == (30,)
    assert first.rates.shape == (4610 + 4545,)
    assert not np.array_equal(first.norms, other.norms)


def test_the_rates_are_the_learning_rate_over_the_root(learner, cartpole) -> None:
    tf1 = learner("tf1")
    gradients = cartpole.untrained_gradients(tf1, 1)[0]
    _, state, _ = tf1.apply(*tf1.start([0]), gradients)
    flat = np.concatenate([np.ravel(each).astype(np.float64) for each in gradients])
    flat *= 0.5 / np.linalg.norm(flat)
    want = 7e-4 / np.sqrt(0.99 + 0.01 * flat**2 + 1e-5)
    np.testing.assert_allclose(tf1.rates(state), [want], rtol=1e-5)


def test_the_reported_return_is_the_mean_of_the_last_100_episodes(a2c) -> None:
    ends = 10 * np.arange(1, 151)
    returns = np.arange(1.0, 151.0)
    training = a2c.Training(ends, returns, norms=np.zeros(1), rates=np.zeros(1))
    got = training.reported(np.array([9, 10, 25, 1_000, 1_500]))
    np.testing.assert_allclose(got, [np.nan, 1.0, 1.5, 50.5, 100.5], rtol=1e-12)


def test_the_interval_of_a_mean_is_that_of_the_bootstrap(cartpole) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(100.0, 10.0, (400, 2))
    mean, low, high = cartpole.over_seeds(values)
    np.testing.assert_allclose(mean, values.mean(axis=0))
    # For many values, the normal interval.
    half = 1.96 * values.std(axis=0) / 20.0
    np.testing.assert_allclose(mean - low, half, rtol=0.1)
    np.testing.assert_allclose(high - mean, half, rtol=0.1)
    assert cartpole.verdict(cartpole.Mean(1.0, 0.1, 2.0)) == "higher"
    assert cartpole.verdict(cartpole.Mean(-1.0, -2.0, -0.1)) == "lower"
    assert cartpole.verdict(cartpole.Mean(1.0, -0.1, 2.0)) == "undecided"
