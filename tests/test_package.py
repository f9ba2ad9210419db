"""Test the package as a whole: its documentation, types and imports."""

import ast
import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import keras_rmsprop
from tests.conftest import BACKEND

ROOT = Path(inspect.getfile(keras_rmsprop)).parent
FRAMEWORKS = {"tensorflow", "tf_keras", "torch", "jax", "optax"}
# The folders whose files may name a backend.
BACKEND_CODE = ("_execution", "interop", "_command_line")
# Of these, those that may do so only inside a function, once a framework is asked for.
ON_DEMAND = ("interop", "_command_line")
# The folder whose files may import what only the command line needs.
COMMAND_LINE = "_command_line"


def public_modules() -> list[ModuleType]:
    """The package and the modules that it publishes."""
    published = [getattr(keras_rmsprop, name) for name in keras_rmsprop.__all__]
    return [keras_rmsprop, *(member for member in published if inspect.ismodule(member))]


def public_callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function, class and method of the package, with its full name."""
    for module in public_modules():
        names = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
        for name in names:
            member = getattr(module, name)
            if not getattr(member, "__module__", "").startswith("keras_rmsprop"):
                continue
            full_name = f"{module.__name__}.{name}".removeprefix("keras_rmsprop.")
            if inspect.isfunction(member):
                yield full_name, member
            elif inspect.isclass(member):
                yield full_name, member
                for own, method in vars(member).items():
                    if inspect.isroutine(method) and not own.startswith("_"):
                        yield f"{full_name}.{own}", getattr(member, own)


PUBLIC = dict(public_callables())


def documented_arguments(function: Callable[..., Any]) -> list[str]:
    """The names in the `Args` section of the docstring, in its order."""
    lines = inspect.cleandoc(inspect.getdoc(function) or "").splitlines()
    if "Args:" not in lines:
        return []
    names: list[str] = []
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith("    "):
            break
        if entry := re.match(r"    (\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \(.*?\))?:", line):
            names += entry[1].replace("*", "").split(", ")
    return names


def accepted_arguments(function: Callable[..., Any]) -> list[str]:
    """The names in the signature, in its order."""
    names = list(inspect.signature(function).parameters)
    return [name for name in names if name not in ("self", "cls")]


# Documentation.


def test_the_search_for_public_callables_finds_them() -> None:
    assert {"RMSprop", "RMSprop.apply", "RMSprop.describe", "reference.Reference"} <= set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_callable_is_documented(name: str) -> None:
    own = PUBLIC[name].__doc__
    assert own, name
    first = own.strip().splitlines()[0]
    assert first.endswith((".", ":", "?")), first


@pytest.mark.parametrize("name", [name for name in PUBLIC if documented_arguments(PUBLIC[name])])
def test_the_documented_arguments_match_the_signature(name: str) -> None:
    assert documented_arguments(PUBLIC[name]) == accepted_arguments(PUBLIC[name])


def test_the_optimizer_documents_its_arguments() -> None:
    assert len(documented_arguments(keras_rmsprop.RMSprop)) > 20


def test_every_name_that_is_published_exists() -> None:
    for module in public_modules():
        for name in getattr(module, "__all__", []):
            assert hasattr(module, name), f"{module.__name__}.{name}"


def test_the_public_names_are_sorted() -> None:
    assert sorted(keras_rmsprop.__all__) == list(keras_rmsprop.__all__)


# The package as it is installed.


def test_the_types_are_published() -> None:
    assert (ROOT / "py.typed").is_file()


def test_the_version_is_that_of_the_installed_package() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", keras_rmsprop.__version__)
    assert importlib.metadata.version("keras_rmsprop") == keras_rmsprop.__version__


# Imports.


def imported_by(source: Path, nested: bool = True) -> set[str]:
    """The top-level packages that a file imports, anywhere in it or when it is imported itself."""
    names = set()
    module = ast.parse(source.read_text("utf-8"))
    for node in ast.walk(module) if nested else module.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


FILES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(BACKEND_CODE)])
def test_a_backend_is_named_only_where_steps_are_run(name: str) -> None:
    assert not imported_by(FILES[name]) & FRAMEWORKS
    backend_check = r"environ.*KERAS_BACKEND|backend\(\) *(==|!=|in |not in )|match .*backend\(\)"
    assert re.search(backend_check, FILES[name].read_text("utf-8")) is None


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(ON_DEMAND)])
def test_other_frameworks_are_imported_on_demand(name: str) -> None:
    assert not imported_by(FILES[name], nested=False) & FRAMEWORKS


# The files that draw, with what they may import to do so, in the function that does.
DRAWING = {
    "_diagnostics/_tables.py": {"rich"},
    "_diagnostics/_page.py": {"plotly"},
    "_diagnostics/_events.py": {"tensorboard"},
    **{
        name: {"matplotlib"}
        for name in ("_drawing.py", *(name for name in FILES if name.startswith("plots")))
    },
}


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(COMMAND_LINE)])
def test_no_file_imports_a_plotting_or_data_library(name: str) -> None:
    libraries = {"matplotlib", "seaborn", "pandas", "sklearn", "rich", "plotly", "tensorboard"}
    assert not imported_by(FILES[name], nested=False) & libraries
    assert not imported_by(FILES[name]) & libraries - DRAWING.get(name, set())


@pytest.mark.parametrize("name", FILES)
def test_only_the_command_line_imports_click(name: str) -> None:
    assert "click" not in imported_by(FILES[name]) or name.startswith(COMMAND_LINE)


def test_the_reference_imports_nothing_else_of_the_package() -> None:
    standard = {name for name in imported_by(FILES["reference.py"]) if name != "numpy"}
    assert standard <= sys.stdlib_module_names


IMPORTS = """
import json, sys
import keras
before = set(sys.modules)
import keras_rmsprop
added = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps([sorted(added), sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.fixture(scope="module")
def imports() -> tuple[set[str], set[str]]:
    """The packages a new process imports: those this package adds to Keras's, and all."""
    output = subprocess.run(
        [sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True
    ).stdout
    added, everything = json.loads(output.splitlines()[-1])
    return set(added), set(everything)


def test_importing_adds_no_framework_to_those_of_keras(
    imports: tuple[set[str], set[str]],
) -> None:
    added, _ = imports
    assert "keras_rmsprop" in added
    assert not added & FRAMEWORKS
    assert not added & {"click", "matplotlib", "seaborn", "pandas", "sklearn", "rich", "scipy"}
    assert not added & {"plotly", "tensorboard"}


def test_the_active_backend_is_imported_and_the_others_are_not(
    imports: tuple[set[str], set[str]],
) -> None:
    _, everything = imports
    assert BACKEND in everything
    # Keras itself imports jax where it is installed, whichever backend is active.
    assert not everything & ({"tensorflow", "torch", "tf_keras", "optax"} - {BACKEND})


def test_without_a_backend_the_import_error_names_what_to_install() -> None:
    program = f"import sys\nsys.modules[{BACKEND!r}] = None\nimport keras_rmsprop\n"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "KERAS_BACKEND": BACKEND},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert 'pip install "keras_rmsprop[tensorflow]"' in done.stderr.splitlines()[-1]
