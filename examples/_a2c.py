"""Advantage actor-critic (A2C) on CartPole, with the settings of Stable-Baselines3, on JAX.

Two networks, of a policy and of a value V, are trained on rollouts of five steps in eight copies of
the environment. One rollout is one step of the optimizer, on the loss

    mean(-A_t * log p(a_t)) + 0.5 * mean((R_t - V(s_t))**2)

    R_t = r_t + gamma * r_{t+1} + ...       up to the end of the episode or of the rollout
    A_t = R_t - V(s_t)

R_t continues with gamma**k * V of the state reached if the rollout or the time ran out, and with 0
if the pole fell. Neither R_t nor A_t is differentiated.

Settings and initial weights are those of `A2C("MlpPolicy", ...)`: stable_baselines3 2.9.2,
`a2c/a2c.py`, `common/policies.py`, `common/on_policy_algorithm.py` and `common/buffers.py`. (When
clipping, torch adds 1e-6 to the norm and Keras does not.) The method is that of arXiv:1602.01783,
with all copies in step.

The trainings of several seeds run side by side, for speed: arrays have an axis for the seed, and
JAX's `vmap` hides it from loss and optimizer.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import _quiet  # noqa: F401 - before Keras
import gymnasium
import jax
import keras
import numpy as np
from gymnasium.vector import AutoresetMode
from jax import numpy as jnp
from numpy.typing import NDArray

ENVIRONMENTS, STEPS = 8, 5
GAMMA, GAE_LAMBDA, VALUE_WEIGHT = 0.99, 1.0, 0.5
HIDDEN, HIDDEN_GAIN, POLICY_GAIN, VALUE_GAIN = 64, 2.0**0.5, 0.01, 1.0
# Of an episode of CartPole-v1: the steps after which it is cut off, and the largest return.
TIME_LIMIT = 500
# Stable-Baselines3 reports the mean return of this many episodes.
REPORTED = 100

Array = NDArray[Any]
# A network's weights, their gradients, or an optimizer's state.
Tensors = list[Any]


class Rollout(NamedTuple):
    """What happened in some steps; each shape begins (steps, seeds, environments).

    Within `vmap` there is no axis for the seeds.
    """

    observations: Array  # (..., 4)
    actions: Array
    rewards: Array
    # What each step led to, also where the episode ended there: (..., 4).
    successors: Array
    # Whether the pole fell (or the cart left the track), so that no reward follows.
    terminated: Array
    # The same, or the time was up.
    ended: Array


class Training(NamedTuple):
    """The results of one seed."""

    # For each completed episode: the environment steps made by then, and its return.
    ends: Array
    returns: Array
    # For each step of the optimizer: the norm of the change of all weights.
    norms: Array
    # For each weight: the learning rate over the root, after the last step.
    rates: Array

    def reported(self, steps: Array) -> Array:
        """Return the mean return of the last 100 episodes completed by each of `steps`.

        It is NaN before the first episode is completed.
        """
        sums = np.concatenate([[0.0], np.cumsum(self.returns)])
        last = np.searchsorted(self.ends, steps, side="right")
        first = np.maximum(last - REPORTED, 0)
        counts = last - first
        means = (sums[last] - sums[first]) / np.maximum(counts, 1)
        return np.where(counts > 0, means, np.nan)


class CartPoles:
    """Eight copies of CartPole per seed; a new episode begins in the step that ends the last one.

    Attributes:
        observations: of the current states, shape (seeds, 8, 4).
        steps: the number of steps so far, of the eight copies together.
        ends, returns: for each seed, of the completed episodes, see `Training`.
    """

    def __init__(self, seeds: Sequence[int], time_limit: int = TIME_LIMIT) -> None:
        self._shape = (len(seeds), ENVIRONMENTS)
        # Gymnasium's default is to spend a step without action or reward on each new episode.
        self._copies = gymnasium.make_vec(
            "CartPole-v1",
            num_envs=len(seeds) * ENVIRONMENTS,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            max_episode_steps=time_limit,
        )
        # One for each copy, unlike those of any other seed.
        own = [np.random.SeedSequence(seed).generate_state(ENVIRONMENTS) for seed in seeds]
        observations, _ = self._copies.reset(seed=np.concatenate(own).tolist())
        self.observations = self._by_seed(observations)
        self.steps = 0
        self.ends: list[list[int]] = [[] for _ in seeds]
        self.returns: list[list[float]] = [[] for _ in seeds]
        self._running = np.zeros(self._shape)

    def rollout(self, choose: Callable[[Array], Array]) -> Rollout:
        """Make five steps with the actions that `choose` returns for the observations."""
        steps = [self._step(choose(self.observations)) for _ in range(STEPS)]
        return Rollout(*(np.stack(values) for values in zip(*steps, strict=True)))

    def _step(self, actions: Array) -> tuple[Array, ...]:
        before = self.observations
        *results, infos = self._copies.step(actions.ravel())
        after, rewards, terminated, truncated = map(self._by_seed, results)
        self.observations = after
        self.steps += ENVIRONMENTS
        self._running += rewards
        ended = terminated | truncated
        successors = after
        if ended.any():
            # Here `after` is the first observation of the next episode.
            successors = after.copy()
            successors[ended] = np.stack(infos["final_obs"][ended.ravel()])
            self._complete_episodes(ended)
        return before, actions, rewards.astype(np.float32), successors, terminated, ended

    def _complete_episodes(self, ended: Array) -> None:
        for seed, copy in np.argwhere(ended):
            self.ends[seed].append(self.steps)
            self.returns[seed].append(float(self._running[seed, copy]))
        self._running[ended] = 0.0

    def _by_seed(self, values: Array) -> Array:
        return values.reshape(self._shape + values.shape[1:])


def advantages(
    rewards: Any, values: Any, next_values: Any, terminated: Any, ended: Any
) -> list[Any]:
    """Return the advantage of each step of a rollout, A_t.

        d_t = r_t + gamma * V(successor) * (1 - terminated_t) - V(s_t)
        A_t = d_t + gamma * lambda * (1 - ended_t) * A_{t+1}                A_5 = 0

    with lambda = 1, so that A_t + V(s_t) is the R_t above. The successor of an episode's last step
    is the state in which it was cut off, not the first of the next episode.

    Args:
        rewards: r_t, shape (5, n), float32.
        values: V(s_t), the same.
        next_values: V of each step's successor, the same.
        terminated: whether the pole fell, shape (5, n).
        ended: the same, or the time was up.
    """
    following: Any = 0.0
    backwards = []
    for t in reversed(range(STEPS)):
        # `1 - ...` of a boolean would be float64 where JAX has that switched on.
        alive, goes_on = (1.0 - mask[t].astype(rewards.dtype) for mask in (terminated, ended))
        difference = rewards[t] + GAMMA * next_values[t] * alive - values[t]
        following = difference + GAMMA * GAE_LAMBDA * goes_on * following
        backwards.append(following)
    return backwards[::-1]


def new_network(seed: int) -> keras.Model:
    """Return both networks as one model, from observations to [logits, values]."""
    keras.utils.set_random_seed(seed)
    observations = keras.Input((4,))
    return keras.Model(
        observations, [_tower(observations, 2, POLICY_GAIN), _tower(observations, 1, VALUE_GAIN)]
    )


def _tower(x: Any, outputs: int, gain: float) -> Any:
    for _ in range(2):
        x = _dense(HIDDEN, HIDDEN_GAIN, "tanh")(x)
    return _dense(outputs, gain)(x)


def _dense(units: int, gain: float, activation: str | None = None) -> keras.layers.Dense:
    orthogonal = keras.initializers.Orthogonal(gain)
    return keras.layers.Dense(units, activation, kernel_initializer=orthogonal)


class Learner:
    """A2C with an optimizer, as compiled functions of weights and the optimizer's state.

    All arguments and results have an axis for the seed: the first one, the second in rollouts.

    Attributes:
        chance: (weights, observations) -> the probability of action 1, to push to the right.
        gradients: (weights, rollout) -> the gradients of the loss.
        apply: (weights, state, gradients) -> (weights, state, norm of the change of all weights).
        update: (weights, state, rollout) -> the same.
    """

    def __init__(self, optimizer: Any) -> None:
        self._network = new_network(seed=0)
        self._optimizer = optimizer
        optimizer.build(self._network.trainable_variables)
        self._fresh = [variable.value for variable in optimizer.variables]
        self.chance = jax.jit(jax.vmap(self._chance))
        self.gradients = jax.jit(jax.vmap(jax.grad(self._loss), in_axes=(0, 1)))
        self.apply = jax.jit(jax.vmap(self._apply))
        self.update = jax.jit(jax.vmap(self._update, in_axes=(0, 0, 1)))

    def start(self, seeds: Sequence[int]) -> tuple[Tensors, Tensors]:
        """Return the initial weights of the seeds, and the state of a new optimizer for each."""
        each = [new_network(seed).trainable_variables for seed in seeds]
        weights = [jnp.stack([weight.value for weight in same]) for same in zip(*each, strict=True)]
        return weights, [jnp.stack([value] * len(seeds)) for value in self._fresh]

    def rates(self, state: Tensors) -> Array:
        """Return the learning rate over the root, for each seed and weight."""
        rows = []
        for of_seed in zip(*state, strict=True):
            for variable, value in zip(self._optimizer.variables, of_seed, strict=True):
                variable.assign(value)
            rates = map(self._optimizer.effective_learning_rate, self._network.trainable_variables)
            rows.append(
                np.concatenate([np.ravel(keras.ops.convert_to_numpy(rate)) for rate in rates])
            )
        return np.array(rows)

    def _outputs(self, weights: Tensors, observations: Any) -> tuple[Any, Any]:
        """Return logits and values, each with the leading axes of `observations`."""
        flat = jnp.reshape(observations, (-1, observations.shape[-1]))
        (logits, values), _ = self._network.stateless_call(weights, [], flat)
        leading = observations.shape[:-1]
        return jnp.reshape(logits, (*leading, -1)), jnp.reshape(values, leading)

    def _chance(self, weights: Tensors, observations: Any) -> Any:
        return jax.nn.softmax(self._outputs(weights, observations)[0])[..., 1]

    def _loss(self, weights: Tensors, rollout: Rollout) -> Any:
        logits, values = self._outputs(weights, rollout.observations)
        _, next_values = self._outputs(weights, rollout.successors)
        known = jax.lax.stop_gradient(values)
        advantage = jnp.stack(
            advantages(
                rollout.rewards,
                known,
                jax.lax.stop_gradient(next_values),
                rollout.terminated,
                rollout.ended,
            )
        )
        log_chances = jax.nn.log_softmax(logits)
        chosen = jnp.take_along_axis(log_chances, rollout.actions[..., None], axis=-1)[..., 0]
        policy_loss = -jnp.mean(advantage * chosen)
        value_loss = jnp.mean(jnp.square(advantage + known - values))
        # Stable-Baselines3's coefficient of the entropy is 0.
        return policy_loss + VALUE_WEIGHT * value_loss

    def _apply(
        self, weights: Tensors, state: Tensors, gradients: Tensors
    ) -> tuple[Tensors, Tensors, Any]:
        moved, state = self._optimizer.stateless_apply(state, gradients, weights)
        squares = [jnp.sum(jnp.square(a - b)) for a, b in zip(moved, weights, strict=True)]
        return moved, state, jnp.sqrt(sum(squares))

    def _update(
        self, weights: Tensors, state: Tensors, rollout: Rollout
    ) -> tuple[Tensors, Tensors, Any]:
        return self._apply(weights, state, jax.grad(self._loss)(weights, rollout))


class Actor:
    """Chooses actions at random, with the probabilities of a learner's policies.

    Attributes:
        weights: those of the policies, which may be assigned.
    """

    def __init__(self, learner: Learner, weights: Tensors, seeds: Sequence[int]) -> None:
        self.weights = weights
        self._chance = learner.chance
        self._generators = [np.random.default_rng(seed) for seed in seeds]

    def __call__(self, observations: Array) -> Array:
        """Return an action for each observation."""
        chance = np.asarray(self._chance(self.weights, observations))
        draws = np.stack([generator.random(ENVIRONMENTS) for generator in self._generators])
        return (draws < chance).astype(np.int32)


def train(
    learner: Learner, seeds: Sequence[int], updates: int, tick: Callable[[], None]
) -> list[Training]:
    """Train from scratch, calling `tick` after each step of the optimizer.

    A seed gives the initial weights, the initial states and the random numbers of the actions, so
    that learners with different optimizers begin alike. The seeds do not depend on one another.
    """
    weights, state = learner.start(seeds)
    copies, actor = CartPoles(seeds), Actor(learner, weights, seeds)
    norms = []
    for _ in range(updates):
        actor.weights, state, norm = learner.update(actor.weights, state, copies.rollout(actor))
        norms.append(np.asarray(norm))
        tick()
    return [
        Training(np.array(ends), np.array(returns), norms_of_seed, rates)
        for ends, returns, norms_of_seed, rates in zip(
            copies.ends, copies.returns, np.array(norms).T, learner.rates(state), strict=True
        )
    ]
