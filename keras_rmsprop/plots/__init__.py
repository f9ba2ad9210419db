"""Pictures of what an optimizer does: its rates, its updates, its ways over test functions.

All need matplotlib, which `pip install "keras_rmsprop[plots]"` adds; it is imported when a function
is called. They return a `matplotlib.figure.Figure` or write a file, and leave `matplotlib.pyplot`
and its settings alone: `figure.savefig("rates.png")` works without a screen, and a notebook shows
the figure that a cell ends with after `%matplotlib inline`. Lines are in colours that colour-blind
readers can tell apart and differ in their dashes as well; maps are in viridis or cividis.

Of a training, whose diagnostics were read from time to time:

    history = []
    for step, (x, y) in enumerate(data):
        ...
        if step % 100 == 0:
            history.append(optimizer.diagnostics())
    plots.learning_rates(history).savefig("rates.png")
    plots.update_ratios(history).savefig("ratios.png")

Of optimizers, without a training:

>>> from keras_rmsprop import plots
>>> figure = plots.trajectories("himmelblau", steps=5)
>>> figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()
('x', 'y')
>>> figure = plots.accumulators()
"""

from keras_rmsprop.plots._accumulators import accumulators
from keras_rmsprop.plots._animation import animate
from keras_rmsprop.plots._layers import learning_rates, update_ratios
from keras_rmsprop.plots._trajectories import trajectories

__all__ = ["accumulators", "animate", "learning_rates", "trajectories", "update_ratios"]
