"""Find what the parameters of a torch module are: which names are one, and which are computed."""

from collections.abc import Iterable
from itertools import chain
from typing import Any


def first_names(module: Any) -> dict[str, str]:
    """Return for each name of a parameter or buffer the first name of the same one.

    It is the name that `named_parameters()` gives, and so the one that optimizers have.
    """
    named = chain(
        module.named_parameters(remove_duplicate=False),
        module.named_buffers(remove_duplicate=False),
    )
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def check_plain(modules: Iterable[tuple[str, Any]]) -> None:
    """Refuse modules that compute a parameter from others, or whose parameters have no shape yet.

    Args:
        modules: names and modules.

    Raises: ValueError that names the module, the parameter, and what to do.
    """
    for name, module in modules:
        kind = type(module).__name__
        label = repr(name or kind)
        if getattr(module, "has_uninitialized_params", bool)():
            raise ValueError(
                f"{label} is a {kind}, whose parameters have no shape before its first call. Call "
                "the network with a batch, and create its optimizer after that."
            )
        for parameter, parts, remedy in _computed(module):
            raise ValueError(
                f"{label} computes its {parameter} from {' and '.join(map(repr, parts))}, which "
                f"Keras's layers do not. {remedy} makes it a parameter again, with the weights of "
                "now, but a training goes on otherwise then."
            )


def _computed(module: Any) -> Iterable[tuple[str, list[str], str]]:
    """Yield the parameters that a module computes, from which of its own, and how to end it."""
    for parameter, steps in getattr(module, "parametrizations", {}).items():
        parts = [f"parametrizations.{parameter}.{name}" for name, _ in steps.named_parameters()]
        remedy = f'`torch.nn.utils.parametrize.remove_parametrizations(module, "{parameter}")`'
        yield parameter, parts, remedy
    own = [name for name, _ in module.named_parameters(recurse=False)]
    own += [name for name, _ in module.named_buffers(recurse=False)]
    for ends, function in _REMEDIES.items():
        for name in own:
            parameter = name.removesuffix(ends[0])
            parts = [parameter + end for end in ends]
            if parameter != name and set(parts) <= {*own}:
                yield parameter, parts, f'`torch.nn.utils.{function}(module, "{parameter}")`'


# How torch's older reparametrizations name what they compute a parameter from, and what ends them.
_REMEDIES = {
    ("_g", "_v"): "remove_weight_norm",
    ("_orig", "_mask"): "prune.remove",
    ("_orig", "_u"): "remove_spectral_norm",
}
