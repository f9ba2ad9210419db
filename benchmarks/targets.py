"""How many times faster than a peer ours has to be, at least; a losing row stays in the table.

The targets hold on 2 CPU cores. Figures for other machines are shown against the same ones.
"""

from benchmarks import limit

# (backend, mode, config) -> peer -> case -> ratio
_STEPS: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {
    ("tensorflow", "eager", "plain"): {
        "keras": {"scalar": 10, "mlp": 18, "conv160": 18, "matrix": 3.5},
        # Of the bandwidth that the loop reaches, or the triad.
        limit.NAME: {"matrix": 0.6},
        limit.TRIAD: {"matrix": 0.6},
    },
    ("tensorflow", "eager", "clipnorm+decay"): {
        "keras": {"scalar": 12, "mlp": 18, "conv160": 18, "matrix": 2},
    },
    ("tensorflow", "eager", "global_clipnorm+ema"): {
        "keras": {"scalar": 12, "mlp": 18, "conv160": 18, "matrix": 2},
    },
    ("tensorflow", "graph", "plain"): {"keras": {"conv160": 1.8, "matrix": 2.5}},
    ("jax", "eager", "plain"): {"keras": {"conv160": 8}},
    ("torch", "eager", "plain"): {
        "keras": {"conv160": 2, "matrix": 2},
        "torch foreach": {"conv160": 0.95, "matrix": 0.95},
    },
}

# Where Keras's own step is compiled as a whole already.
NO_SLOWER = 0.97

# Where a loop is not quiet and regular, in time and in memory that is not given back.
NO_CLIFF = 1.0
MIB_MORE = 60.0
# What happens once in a process; the first batch may come 1.2 times as late.
ALONE = {"search": 1.0, "first 30 steps": 0.8, "first batch": 1 / 1.2}

# First calls: after how many steps at most a compiled step has earned its compilation.
BREAK_EVEN = {"conv160": 20.0}


def of_step(backend: str, mode: str, config: str, case: str) -> dict[str, float]:
    """Return the targets of a row of steps by peer."""
    if mode in ("xla", "jit"):
        return {"keras": NO_SLOWER}
    peers = _STEPS.get((backend, mode, config), {})
    return {peer: cases[case] for peer, cases in peers.items() if case in cases}
