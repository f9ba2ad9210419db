# %% [markdown]
# # A tour of RMSprop
#
# What the optimizer does, how the frameworks differ, what goes wrong, and how to see it.
#
# The tour is a script, `examples/tour.py`, and a notebook made of it, `examples/tour.ipynb`. It
# runs on TensorFlow, JAX and torch (set `KERAS_BACKEND`), on a CPU, in a minute or two:
#
#     pip install -e '.[tensorflow,torch,tour]'
#
# Then open the notebook, or run `python examples/tour.py`. torch is for one section, on porting.
#
# Lines that begin with `ok` are claims that the cell has just checked. Some of the modules
# imported here are the other examples, whose functions the tour uses.

# %%
import time
from typing import Any

import _quiet  # noqa: F401 - before Keras
import centered_and_momentum
import keras
import numpy as np
import quadratics
import six_points
import spiral
import x_over_log_x
from _common import Array, descend, path_error, value_of
from _page import Page, float64
from keras import layers, ops
from matplotlib import pyplot as plt

from keras_rmsprop import Diagnostics, RMSprop, conventions, interop, plots

page = Page("A tour of RMSprop.")

# %% [markdown]
# ## The idea
#
# Gradient descent has one learning rate for all weights. Where gradients differ by powers of ten,
# it is too large for some and too small for others. Adagrad divides each weight's gradient by the
# root of the sum of its squares so far. The sum only grows, so the steps only shrink: after a time
# of large gradients Adagrad hardly moves. RMSprop replaces the sum by a running average,
#
#     s = rho * s + (1 - rho) * g**2
#     w = w - learning_rate * g / sqrt(s + epsilon)
#
# which forgets: with `rho = 0.9` a square counts for about ten steps. Below are both, for
# gradients that are large at first and then small.

# %%
figure = plots.accumulators()
(_squares, sums, averages), (adagrad, rmsprop, _rate) = (
    [np.asarray(line.get_ydata()) for line in axes.lines] for axes in figure.axes
)
page.check("Adagrad's sum never falls", bool(np.all(np.diff(sums) >= 0.0)))
page.check("RMSprop's average does", bool(averages[-1] < averages.max()))
page.check("at the end RMSprop takes the longer steps", bool(rmsprop[-1] > adagrad[-1]))
page.save(figure, "tour_accumulators.png")

# %% [markdown]
# ## One step
#
# The average starts at 0, so the first step is `learning_rate / sqrt(1 - rho)` long, about three
# learning rates, whatever the size of the gradient.

# %%
weight = keras.Variable([1.0, 1.0], name="weight")
optimizer = RMSprop(learning_rate=0.01, rho=0.9)
optimizer.apply([ops.convert_to_tensor([0.01, -500.0])], [weight])
moved = 1.0 - value_of(weight)
page.say(f"moved by {moved[0]:.5f} and {moved[1]:.5f}")
page.check_close("both moved by 0.01 / sqrt(0.1)", np.abs(moved), 0.01 / np.sqrt(0.1), 2e-4)

# %% [markdown]
# An optimizer describes itself: the equations with its options, the call of the framework that
# takes the same steps, its memory, and how its steps run.

# %%
optimizer.describe(page.say)

# %% [markdown]
# ## Three worked problems
#
# **A slope.** Minimise x / log(x) from 364. The learning rate is 0.3, and so is nearly every step,
# on the flat part and on the steep one: the size of the gradient cancels. The dots are published
# values.

# %%
count = 14 * x_over_log_x.EVERY + 1
ways = {name: x_over_log_x.walk_down(name, range(count)) for name in x_over_log_x.CONVENTIONS}
for name, way in ways.items():
    got, want = x_over_log_x.published_points(way), x_over_log_x.PUBLISHED[name]
    page.check_close(f"{name}: x as published", got, want, x_over_log_x.TOLERANCE)
x_over_log_x.draw(page, ways)

# %% [markdown]
# **Bowls.** In a round bowl RMSprop goes straight down. In a narrow valley it does the same,
# because each direction has its own average; gradient descent falls into the valley and then
# creeps. The price is on the right, for x² from 10: near the minimum gradients vanish, the average
# follows, and the effective learning rate `learning_rate / sqrt(s)` grows until the weight jumps
# about. Adagrad's only falls.

# %%
with float64():
    runs = quadratics.run_all()
for title, figures in runs.figures().items():
    for name, got in figures.items():
        error = np.max(np.abs(got / quadratics.PUBLISHED[title][1][name] - 1.0))
        page.check(f"{title}: {name} as published", bool(error <= quadratics.PUBLISHED_TOLERANCE))
falls = bool(np.all(np.diff(runs.adagrad_rates[:, 0]) <= 0.0))
page.check("Adagrad's effective learning rate only falls", falls)

figure, axes = plt.subplots(1, 3, figsize=(12, 4))
quadratics.draw_map(axes[0], quadratics.BOWL, {"RMSprop": runs.bowl})
quadratics.draw_map(axes[1], quadratics.VALLEY, {"RMSprop": runs.valley, "SGD": runs.valley_by_sgd})
axes[2].semilogy(runs.parabola_rates, label="RMSprop")
axes[2].semilogy(runs.adagrad_rates, "--", label="Adagrad")
axes[2].set(title="Effective learning rate on x²", xlabel="step", ylabel="change per unit gradient")
axes[2].legend()
for axis in axes[:2]:
    axis.set_aspect("equal")
page.save(figure, "tour_quadratics.png")

# %% [markdown]
# **A line through six points.** With a constant learning rate RMSprop does not come to rest: near
# the minimum, too, each step is about a learning rate long. At last the slope goes up and down by
# 0.001 with every step. A learning rate that falls in time, such as a schedule of Keras, mends
# that.

# %%
with float64():
    line = six_points.fit(range(six_points.STEPS))
page.check("the end is a known one", six_points.distance_to_known_end(line[-1]) < 2e-6)
last = np.diff(line[-100:, 0])
page.check("the slope goes up and down in turn", bool(np.all(last[1:] * last[:-1] < 0.0)))
page.check_close("by about the learning rate", np.abs(last), six_points.LEARNING_RATE, 1e-4)
six_points.draw(page, line, np.polyfit(six_points.X, six_points.Y, 1))

# %% [markdown]
# The main example, `examples/diamonds.py`, fits the prices of 53,940 diamonds in the same way,
# beside `tf.keras.optimizers.RMSprop`.
#
# ## Which RMSprop?
#
# The frameworks mean different things by the name. Where epsilon stands, what the average starts
# from, what rho is by default: a recipe ported by name alone takes other steps.
# `keras_rmsprop.conventions` has the arguments and defaults of each.

# %%
optimizers = {
    "keras": conventions.keras(learning_rate=0.01),
    "torch": conventions.torch(lr=0.01),
    "tf1": conventions.tf1(learning_rate=0.01),
}
page.table(
    "Where they part",
    ["convention", "rho", "epsilon", "it stands", "the average starts from"],
    [
        (
            name,
            each.rho,
            f"{each.epsilon:g}",
            "under the root" if each.epsilon_inside_sqrt else "outside",
            each.initial_square_average,
        )
        for name, each in optimizers.items()
    ],
)

# %% [markdown]
# The same gradient, 0.01, ten times:

# %%
lengths = {
    name: -np.diff(descend(each, lambda _: 0.01, 0.0, range(10)))
    for name, each in optimizers.items()
}
page.table(
    "How long are the steps?",
    ["step", *lengths],
    [(i + 1, *(f"{row[i]:.5f}" for row in lengths.values())) for i in (0, 1, 4, 9)],
)
first = {name: float(row[0]) for name, row in lengths.items()}
page.check("torch's first step is three times Keras's", 3.0 < first["torch"] / first["keras"] < 3.3)
page.check("TF1's is less than a hundredth of it", first["tf1"] < 0.01 * first["keras"])

# %% [markdown]
# Where they go on Beale's function, from one start with one learning rate, beside Adagrad and
# gradient descent. Gradients are large there, so TF1's first average of 1 hardly matters; torch's
# rho does. (`plots.animate` makes a GIF of it.)

# %%
page.save(plots.trajectories("beale"), "tour_trajectories.png")

# %% [markdown]
# `describe()` goes the other way: it names the framework whose RMSprop takes the steps of a given
# configuration.

# %%
ours = RMSprop(0.01, rho=0.99, epsilon=1e-8, epsilon_inside_sqrt=False, l2=1e-4)
described: list[str] = []
ours.describe(described.append)
(convention,) = (row for row in "\n".join(described).splitlines() if row.startswith("Convention"))
page.say(convention)

# %% [markdown]
# ## What goes wrong elsewhere
#
# Some faults of `keras.optimizers.RMSprop`, shown live. `both` holds its class and this one.

# %%
both = {"Keras": keras.optimizers.RMSprop, "keras_rmsprop": RMSprop}

# %% [markdown]
# **Centered averages become NaN.** With `centered=True` one divides by the root of the variance.
# As E[g²] - E[g]², the difference of two rounded numbers, it falls below zero when the gradient is
# nearly constant. Here it is a sum of squares.

# %%
noise = np.random.default_rng(0).normal(size=(300, 256))
steady = (5.0 * (1.0 + 1e-4 * noise)).astype("float32")
for name, make in both.items():
    way = centered_and_momentum.path_by_keras(
        make(centered=True), steady, np.zeros(256), np.full(300, 1e-4)
    )
    finite = np.isfinite(way).all(axis=1)
    page.say(f"{name}: finite up to step {int(np.sum(np.logical_and.accumulate(finite))) - 1}")
    survives = make is RMSprop
    page.check(f"{name}: {'finite' if survives else 'NaN'}", bool(finite.all()) == survives)

# %% [markdown]
# **One bad batch.** A NaN enters the average and never leaves it. That is the rule, so it is the
# same here; with `skip_nonfinite=True` such a step is not made.

# %%
given = np.array([1.0, np.nan, 1.0, 1.0])
skipping = RMSprop(0.1, skip_nonfinite=True)
ends = {}
for name, each in (("Keras", both["Keras"](0.1)), ("as is", RMSprop(0.1)), ("skipping", skipping)):
    way = centered_and_momentum.path_by_keras(each, given, np.zeros(()), np.full(4, 0.1))
    ends[name] = float(way[-1])
    page.say(f"{name:9}" + " ".join(f"{x:7.4f}" for x in way))
page.check("a NaN stays in the weights", bool(np.isnan([ends["Keras"], ends["as is"]]).all()))
page.check("unless it is skipped", np.isfinite(ends["skipping"]) and skipping.skipped_steps == 1)

# %% [markdown]
# **Half precision.** Keras keeps the averages of float16 weights in float16, where the squares of
# small gradients have no digits left. Here averages have at least float32.

# %%
small = np.random.default_rng(0).normal(0.0, 1e-3, (300, 1000)).astype("float16")
exact = np.zeros(1000)
for gradient in small:
    exact = 0.99 * exact + 0.01 * gradient.astype("float64") ** 2
errors = {}
for name, make in both.items():
    weight = keras.Variable(np.zeros(1000), dtype="float16", name="weight")
    optimizer = make(0.001, rho=0.99)
    optimizer.build([weight])
    for gradient in small:
        optimizer.apply([ops.convert_to_tensor(gradient)], [weight])
    (slot,) = (v for v in optimizer.variables if v.path.endswith(("velocity", "square_average")))
    errors[name] = float(np.max(np.abs(value_of(slot).astype("float64") / exact - 1.0)))
    page.say(f"{name}: {slot.dtype}, largest error of an average {errors[name]:.1e}")
page.check("float16 averages are off by a tenth or more", errors["Keras"] > 0.1)
page.check("these are exact to five digits", errors["keras_rmsprop"] < 1e-5)

# %% [markdown]
# **Repeated ids** (TensorFlow only). An embedding's gradient has a row for each id of the batch.
# Keras squares the rows before it sums them, so an id that occurs four times moves twice as far as
# one that occurs once; a sum of gradients should move no farther in a first step.

# %%
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    for name, make in both.items():
        table = keras.Variable(np.zeros((2, 1)), name="table")
        optimizer = make(0.1)
        optimizer.build([table])
        rows = tf.IndexedSlices(tf.ones((5, 1)), tf.constant([0, 1, 1, 1, 1]), (2, 1))
        optimizer.apply([rows], [table])
        once, four_times = -value_of(table)[:, 0]
        page.say(f"{name}: id seen once {once:.4f}, four times {four_times:.4f}")
        factor = 1.0 if make is RMSprop else 2.0
        page.check(f"that is {factor:g} times as far", abs(four_times / once - factor) < 1e-4)
else:
    page.say("Gradients of embeddings are dense on this backend.")

# %% [markdown]
# **Nonsense is accepted.** Keras takes `rho=1.5`; here an argument out of range is refused by
# name.

# %%
keras.optimizers.RMSprop(rho=1.5)
try:
    RMSprop(rho=1.5)
except ValueError as refusal:
    page.say(str(refusal))

# %% [markdown]
# ## Groups
#
# Settings for single variables, by a pattern that matches their path: here a tenth of the learning
# rate for the backbone, and no weight decay for biases. There is still one optimizer, with one
# counter, one schedule and one global norm.

# %%
model = keras.Sequential(
    [keras.Input((4,)), layers.Dense(8, name="backbone"), layers.Dense(1, name="head")]
)
optimizer = RMSprop(
    0.01,
    weight_decay=0.004,
    groups={"backbone/kernel": {"learning_rate": 0.1}, ".*/bias": {"weight_decay": 0.0}},
)
variables = model.trainable_variables
optimizer.build(variables)
before = [value_of(v) for v in variables]
optimizer.apply([ops.ones(v.shape) for v in variables], variables)
travelled = {
    v.path: float(np.mean(was - value_of(v))) for v, was in zip(variables, before, strict=True)
}
page.table("One step", ["variable", "mean step"], [(p, f"{d:.5f}") for p, d in travelled.items()])
backbone, _, head, _ = travelled.values()
page.check("the backbone's kernel takes a tenth of the step", 0.08 < backbone / head < 0.12)

# %% [markdown]
# ## Speed
#
# From the second step on, an eager step is one compiled call on TensorFlow and JAX, and a few
# multi-tensor operations on torch, where Keras works op by op on the first two. Inside `fit` on
# TensorFlow and JAX, which is compiled as a whole, both cost about the same.
#
# The cell times 40 small tensors, the two classes in turn. It is one small measurement on whatever
# machine this runs on, and says nothing of other sizes or devices; `python -m benchmarks` measures
# properly, and the README has its tables, including those where this package loses.

# %%
tensors = [keras.Variable(np.zeros((32, 32)), name=f"w{i}") for i in range(40)]
gradients = [ops.ones((32, 32)) for _ in tensors]
racing = {name: make(0.001) for name, make in both.items()}
seconds: dict[str, list[float]] = {name: [] for name in both}
for turn in range(7):
    for name, optimizer in racing.items():
        begin = time.perf_counter()
        for _ in range(5):
            optimizer.apply(gradients, tensors)
        value_of(tensors[-1])
        # The first turn compiles.
        if turn:
            seconds[name].append((time.perf_counter() - begin) / 5)
page.table(
    f"A step of 40 tensors on {keras.backend.backend()}",
    ["", "median, ms", "fastest", "slowest"],
    [
        (name, *(f"{1e3 * f(times):.2f}" for f in (np.median, min, max)))
        for name, times in seconds.items()
    ],
)

# %% [markdown]
# ## Porting
#
# A training that was begun elsewhere goes on here with its state: averages, momentum, groups. In
# ten lines, from torch to Keras, on any backend; ten steps there and ten here are twenty there.

# %%
import torch

network = torch.nn.Linear(3, 2)
there = torch.optim.RMSprop(network.parameters(), lr=0.01, momentum=0.9)
random = np.random.default_rng(0)
batches = random.normal(size=(20, 16, 5)).astype("float32")


def step_in_torch(batch: Array) -> None:
    """Make one step with torch."""
    x, y = torch.from_numpy(batch[:, :3]), torch.from_numpy(batch[:, 3:])
    there.zero_grad()
    torch.nn.functional.mse_loss(network(x), y).backward()
    there.step()


for batch in batches[:10]:
    step_in_torch(batch)

# %%
model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
pairs = interop.torch.pairs(network, model)
interop.torch.load_weights(network, pairs)
model.compile(interop.like(there, model.trainable_variables, pairs), loss="mse")
start = value_of(model.trainable_variables[0])
for batch in batches[10:]:
    model.train_on_batch(batch[:, :3], batch[:, 3:])

for batch in batches[10:]:
    step_in_torch(batch)
here, in_torch = value_of(model.trainable_variables[0]), network.weight.detach().numpy().T
apart = path_error(np.stack([start, here]), np.stack([start, in_torch]))
page.check("Keras ends at torch's weights", apart < 1e-4, f"{apart:.0e} of the distance")

# %% [markdown]
# `docs/migration.md` has the same for optax, TF1, tf_keras and Keras.
#
# ## Seeing
#
# Callbacks never see gradients or step sizes; the optimizer does. `diagnostics` samples a step
# from time to time, and does not change the weights by a bit. A small network learns to tell two
# spirals apart; a tenth of the points have the wrong label, so that there is always something to
# learn.

# %%
points, arms = spiral.spirals()
random = np.random.default_rng(0)
labels = np.where(random.random(len(arms)) < 0.1, 1.0 - arms, arms)[:, None]
samples = [random.choice(len(arms), 64, replace=False) for _ in range(400)]


def train(optimizer: RMSprop) -> tuple[list[float], list[Any]]:
    """Return the loss of each batch, and the diagnostics after every tenth."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(16, activation="tanh", name="first"),
            layers.Dense(16, activation="tanh", name="second"),
            layers.Dense(1, activation="sigmoid", name="last"),
        ]
    )
    model.compile(optimizer, "binary_crossentropy")
    losses, history = [], []
    for i, rows in enumerate(samples):
        # Keras averages the loss until it is reset.
        model.reset_metrics()
        losses.append(float(model.train_on_batch(points[rows], labels[rows])))
        if i % 10 == 0:
            history.append(optimizer.diagnostics())
    return losses, history


healthy = RMSprop(0.002, diagnostics=Diagnostics(every=5))
healthy_losses, healthy_history = train(healthy)
ended = float(np.mean(healthy_losses[-40:]))
page.say(f"loss {healthy_losses[0]:.3f} at first, {ended:.3f} on average at last")
page.check("the loss falls", ended < healthy_losses[0])

# %% [markdown]
# What the optimizer holds, as a table. The report also has plain numbers, in `variables` by the
# path of each, and in `total`.

# %%
page.show(healthy.diagnostics())

# %% [markdown]
# The effective learning rate of each variable: bright where a weight moves far per unit of its
# gradient, because its gradients are small.

# %%
page.save(plots.learning_rates(healthy_history), "tour_learning_rates.png")

# %% [markdown]
# The size of each update relative to its weights. The guide is 1e-3: far above it weights are
# driven to and fro, far below it they hardly move. Biases begin at 0, so that their updates are
# large beside them; look at the kernels.

# %%
page.save(plots.update_ratios(healthy_history), "tour_update_ratios.png")

# %% [markdown]
# The same network, with a learning rate that is far too large:

# %%
sick = RMSprop(0.5, diagnostics=Diagnostics(every=5))
sick_losses, sick_history = train(sick)
ended_sick = float(np.mean(sick_losses[-40:]))
page.say(f"loss {sick_losses[0]:.3f} at first, {ended_sick:.3f} on average at last")
page.check("this loss ends higher", ended_sick > ended)
largest = sick_history[0].total.update_ratio
page.check("the first update exceeds a tenth of the weights", largest > 0.1, f"{largest:.2g}")
page.save(plots.update_ratios(sick_history), "tour_update_ratios_sick.png")

# %% [markdown]
# `explain()` says it in words: what goes on, what is wrong, the number that shows it, and what to
# do.

# %%
page.show(healthy.explain())
page.check("no warning", not healthy.explain().warnings)

# %%
page.show(sick.explain())
ailments = [finding.ailment for finding in sick.explain()]
page.check("too large updates are among them", "too large updates" in ailments)

# %% [markdown]
# In `fit`, `keras_rmsprop.callbacks.OptimizerDiagnostics` writes all this to TensorBoard, to CSV,
# to any logger, or to one HTML page, while the training runs.
#
# ## Where to go next
#
# - `README.md`: what differs from Keras, what is promised, what it costs.
# - `docs/recipes.md`: published recipes that use RMSprop, as data.
# - `examples/`: each of the problems above in full, with published figures to compare with.

# %%
page.end()
