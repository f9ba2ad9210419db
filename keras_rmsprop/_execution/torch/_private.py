"""All private names of torch that the package uses, except those of tensors.

They compile a graph of operations without TorchDynamo, whose guards take longer at each call than a
step of many small tensors. If a release lacks one, the package works and `jit_compile=True` is
refused with the reason. (`torch.compile`, the public way, loses the update of a 0-d float64 tensor
in such a graph with torch 2.13.) They are imported with the first compilation, because that takes
seconds. tests/execution/torch/test_compiled.py removes each in turn.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

__all__ = ["compiled", "traced"]


def traced(function: Callable[..., Any], arguments: Sequence[torch.Tensor]) -> torch.fx.GraphModule:
    """Return the operations of a function on tensors like `arguments`, without running them.

    Raises: ImportError if torch lacks the private name; whatever the function raises.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.fx.experimental.proxy_tensor import make_fx
    graph: torch.fx.GraphModule = make_fx(function, tracing_mode="fake")(*arguments)
    return graph


def compiled(
    graph: torch.fx.GraphModule, arguments: Sequence[torch.Tensor], options: Mapping[str, Any]
) -> Callable[..., Any]:
    """Return a function compiled from a graph, for tensors like `arguments`.

    It does not check its arguments. Options that this release lacks are ignored.

    Raises: ImportError or AttributeError if torch lacks the private name; whatever torch raises.
    """
    # Torch uses names that it deprecates itself, and a user may have made warnings errors.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch import _inductor

        names: list[str] = getattr(_inductor, "list_options", list)()
        known = {name: value for name, value in options.items() if name in names}
        function: Callable[..., Any] = _inductor.compile(graph, list(arguments), options=known)
        return function
