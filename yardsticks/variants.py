"""The tested configurations: all combinations of the rule, and Keras's options pairwise.

Each axis lists its levels; the first is the default. A level consists of arguments, under the names
that `keras_rmsprop.RMSprop` and `keras_rmsprop.reference.Reference` share. Levels without arguments
affect how `yardsticks.agreement` runs the optimizer.
"""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

Axes = Mapping[str, Mapping[str, dict[str, Any]]]


class Variant(NamedTuple):
    """One configuration."""

    # The form and the non-default levels: "centered-lr_outside-l2".
    id: str
    # The level of each axis.
    levels: dict[str, str]
    # The arguments of all levels together.
    arguments: dict[str, Any]


RULE: Axes = {
    "form": {"plain": {}, "centered": {"centered": True}},
    "momentum": {
        "no_momentum": {},
        "lr_inside": {"momentum": 0.8},
        "lr_inside_nesterov": {"momentum": 0.8, "nesterov": True},
        "lr_outside": {"momentum": 0.8, "lr_in_momentum": False},
        "lr_outside_nesterov": {"momentum": 0.8, "lr_in_momentum": False, "nesterov": True},
    },
    # Large enough for gradients of size 1 that its position matters.
    "epsilon": {
        "eps_inside": {"epsilon": 0.01},
        "eps_outside": {"epsilon": 0.01, "epsilon_inside_sqrt": False},
    },
    "start": {
        "from_zero": {},
        "from_half": {"initial_square_average": 0.5},
        "bias_corrected": {"bias_correction": True},
    },
    "l2": {"no_l2": {}, "l2": {"l2": 0.03}},
    "direction": {"descend": {}, "ascend": {"maximize": True}},
}

KERAS: Axes = {
    "decay": {
        "no_decay": {},
        "decay": {"weight_decay": 0.3},
        "decay_but_one": {"weight_decay": 0.3},
    },
    # Limits that some gradients exceed and others do not.
    "clip": {
        "no_clip": {},
        "clipvalue": {"clipvalue": 0.7},
        "clipnorm": {"clipnorm": 1.5},
        "global_clipnorm": {"global_clipnorm": 2.5},
    },
    "ema": {
        "no_ema": {},
        "ema": {"use_ema": True, "ema_momentum": 0.7},
        "ema_overwrites": {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 4},
    },
    # Not a power of two, so that a forgotten division cannot hide in rounding.
    "scale": {"no_scale": {}, "loss_scale": {"loss_scale_factor": 3.0}},
    "accumulation": {"every_batch": {}, "accumulates": {"gradient_accumulation_steps": 3}},
    "rate": {"assigned": {}, "schedule": {}, "callable": {}},
    "constraint": {"free": {}, "constrained": {}},
}


def two_groups(variant: Variant) -> dict[int, dict[str, Any]]:
    """Return settings of the first two weights that differ from the variant's in every number.

    A momentum of 0 where the variant has one leaves a weight without a buffer.
    """
    flipped = {"maximize": not variant.arguments.get("maximize", False)}
    first = {"learning_rate": 0.5, "rho": 0.7, "epsilon": 0.03, "l2": 0.02, "weight_decay": 0.2}
    second = {"learning_rate": 2.0, "rho": 0.97, "epsilon": 0.002, "l2": 0.0, "weight_decay": 0.0}
    has_momentum = "momentum" in variant.arguments
    momentums = ({"momentum": 0.5}, {"momentum": 0.0}) if has_momentum else ({}, {})
    return {0: {**first, **momentums[0], **flipped}, 1: {**second, **momentums[1]}}


def rule_variants() -> list[Variant]:
    """Return all 240 combinations of the rule's options."""
    return [
        _variant(RULE, dict(zip(RULE, levels, strict=True)))
        for levels in itertools.product(*RULE.values())
    ]


def option_variants() -> list[Variant]:
    """Return variants in which every two levels of different axes occur together at least once."""
    axes = {**RULE, **KERAS}
    return [_variant(axes, levels) for levels in all_pairs(axes)]


def all_pairs(axes: Axes) -> list[dict[str, str]]:
    """Cover all pairs of levels with few rows, chosen greedily and deterministically."""
    missing = {
        pair
        for levels in (
            [(axis, level) for axis in chosen for level in axes[axis]]
            for chosen in itertools.combinations(axes, 2)
        )
        for pair in (frozenset(two) for two in itertools.combinations(levels, 2))
        if len({axis for axis, _ in pair}) == 2
    }
    rows: list[dict[str, str]] = []
    while missing:
        row = dict(min(sorted(pair) for pair in missing))
        for axis in axes:
            if axis not in row:
                gains = {
                    level: sum(frozenset([item, (axis, level)]) in missing for item in row.items())
                    for level in axes[axis]
                }
                row[axis] = max(gains, key=gains.__getitem__)
        missing -= {frozenset(two) for two in itertools.combinations(row.items(), 2)}
        rows.append({axis: row[axis] for axis in axes})
    return rows


def _variant(axes: Axes, levels: dict[str, str]) -> Variant:
    changed = [level for axis, level in levels.items() if level != next(iter(axes[axis]))]
    name = "-".join(dict.fromkeys([levels["form"], *changed]))
    arguments = {key: x for axis, level in levels.items() for key, x in axes[axis][level].items()}
    return Variant(name, levels, arguments)
