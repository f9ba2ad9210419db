"""`convert`: the state of an optimizer from another framework's file to Keras's, and back."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import click
from keras import ops

from keras_rmsprop import interop
from keras_rmsprop._command_line import _checkpoint, _map, _model, _npz, _torch_file
from keras_rmsprop._command_line._form import Form, Options, replacing
from keras_rmsprop._command_line._map import Entry
from keras_rmsprop._command_line._program import PROGRAM, Failure, File, debug_option, is_ours
from keras_rmsprop._command_line._screen import progress, shortened, show, table
from keras_rmsprop._diagnostics._format import printable
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop.interop import _carry

Entries: TypeAlias = Mapping[str, Entry]
Now: TypeAlias = Callable[[str], None]

KERAS, WEIGHTS, TF1 = ".keras", ".weights.h5", "TF1"

_FORMS = {
    ".pt": Form(_torch_file.read, _torch_file.write),
    ".pth": Form(_torch_file.read, _torch_file.write),
    ".npz": Form(_npz.read, _npz.write),
    TF1: Form(_checkpoint.read, _checkpoint.write),
}


@click.command(
    epilog=f"""\b
Examples:
  {PROGRAM} convert state.pt trained.keras --model model.keras --map map.json
  {PROGRAM} convert run/model.ckpt-1000 trained.keras --model model.keras
  {PROGRAM} convert trained.keras state.pt --map map.json

\b
map.json, for torch:
  {{
    "fc1.weight": {{"variable": "dense/kernel", "transform": "transpose"}},
    "fc1.bias": "dense/bias"
  }}
Transforms: transpose (Linear, LSTM), conv, depthwise, gru, lstm (both biases
of an LSTM, mapped to one variable), none.

\b
state.npz is written, and read back, by JAX like this:
  leaves, tree = jax.tree_util.tree_flatten_with_path(opt_state)
  key = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  np.savez("state.npz", **{{key(path): np.asarray(leaf) for path, leaf in leaves}})"""
)
@click.argument("source", type=File(dir_okay=True))
@click.argument("target", type=File())
@click.option(
    "--model",
    "model_file",
    type=File(exists=True),
    help="A .keras file with the weights and the optimizer's settings, for a TARGET of Keras. "
    "Default: SOURCE, if that is one.",
)
@click.option(
    "--map",
    "map_file",
    type=File(exists=True),
    help="JSON from the other framework's names to paths of Keras variables. Default: the names "
    "are the same. A torch file without param_names has no names: then the map must have them in "
    "the order of the optimizer's parameters.",
)
@click.option(
    "--name",
    default=Options().name,
    show_default=True,
    help="The name of the TF1 optimizer, which its slots have.",
)
@click.option(
    "--kind",
    type=click.Choice(list(_torch_file.KINDS)),
    help="Whose RMSprop a torch file is of. Default: torch, or timm if the file shows it.",
)
@click.option(
    "--inexact",
    is_flag=True,
    help="Carry the averages over even where the further steps would be others.",
)
@click.option("--force", is_flag=True, help="Replace TARGET if it exists.")
@debug_option
def convert(
    source: Path,
    target: Path,
    model_file: Path | None,
    map_file: Path | None,
    name: str,
    kind: str | None,
    inexact: bool,
    force: bool,
) -> None:
    """Carry the state of an RMSprop from SOURCE to TARGET, into Keras or back.

    \b
    .pt, .pth     torch: an optimizer's state_dict(), or a dict with it under
                  "optimizer", "optimizer_state_dict" or "optimizer_states";
                  as SOURCE also with another ending, such as Lightning's .ckpt
    .npz          optax: a state as arrays by their paths, "0/nu/dense/kernel"
    PREFIX        a TF1 checkpoint, PREFIX.index and PREFIX.data-*; as SOURCE
                  also its folder, for the latest
    .keras        Keras; .weights.h5 only as SOURCE

    One of the two is a .keras file, or both. Nothing in SOURCE is run: no pickled object is made
    but tensors and plain values, and a function as learning rate is refused. Keras itself loads
    models, in its safe mode. TARGET is written whole or not at all.
    """  # noqa: D301 - "\b" tells Click to keep lines as they are
    source = _prefix_of(source)
    _check_paths(source, target, force)
    options = Options(not inexact, name, kind)
    entries = None if map_file is None else _map.read(map_file)
    carry = _into_keras if target.suffix == KERAS else _from_keras
    with progress() as now, _in_terms_of_options():
        summary = carry(source, target, model_file, entries, options, now)
    show(f"{summary}\nwritten to {target}")


def _into_keras(
    source: Path,
    target: Path,
    model_file: Path | None,
    entries: Entries | None,
    options: Options,
    now: Now,
) -> str:
    form = _form_of_source(source)
    if model_file is None and form != KERAS:
        raise Failure("A TARGET of Keras needs --model, the .keras file that has its weights.")
    if entries is not None and form in (KERAS, WEIGHTS):
        raise Failure("--map is of no use here: files of Keras hold no names of variables.")
    now(f"Reading {source}")
    load = None if form in (KERAS, WEIGHTS) else _FORMS[form].read(source, options)
    now(f"Loading {model_file or source}")
    model, optimizer = _model.loaded(model_file or source)
    now("Converting")
    if load is None:
        interop.keras.load(optimizer, source, exact=options.exact)
    else:
        load(optimizer, entries)
    now(f"Writing {target}")
    with replacing(target) as temporary:
        model.save(temporary)
    report = optimizer.load_report
    assert report is not None
    rows = [
        ("restored", report.restored),
        ("started afresh", report.initialized),
        ("dropped", report.dropped),
    ]
    return _summary(rows, [f"Note: {note}." for note in report.notes], optimizer)


def _from_keras(
    source: Path,
    target: Path,
    model_file: Path | None,
    entries: Entries | None,
    options: Options,
    now: Now,
) -> str:
    form = _form_of(target)
    if form == WEIGHTS:
        raise Failure("A .weights.h5 file would have no settings; name a TARGET in .keras.")
    if _form_of_source(source) != KERAS:
        raise Failure(
            f"One of SOURCE and TARGET must be a .keras file, received {source} and {target}."
        )
    if model_file is not None:
        raise Failure(f"--model is for a TARGET of Keras; here the model is {source} itself.")
    now(f"Loading {source}")
    _, optimizer = _model.loaded(source)
    now(f"Writing {target}")
    written = _FORMS[form].write(optimizer, target, entries, options)
    return _summary([("written", written.names)], written.remarks, optimizer)


def _summary(
    rows: Sequence[tuple[str, Sequence[str]]], remarks: Sequence[str], optimizer: RMSprop
) -> str:
    """Lay out what became of the state, with the step count and the rate."""
    lines = table([(what, len(names), shortened(names)) for what, names in rows])
    rate = float(ops.convert_to_numpy(optimizer.learning_rate))
    steps = _carry.steps_of(optimizer)
    made = f"{steps} step{'' if steps == 1 else 's'} made"
    return "\n".join([lines, *map(printable, remarks), f"{made}, learning rate {rate:.7g}"])


def _prefix_of(path: Path) -> Path:
    """Return a checkpoint's prefix, also of its index, as a shell completes it, or its folder."""
    if path.is_dir():
        latest = _checkpoint.latest_in(path)
        if latest is None:
            raise Failure(f"{path} is a folder without a TF1 checkpoint; name a file.")
        return latest
    return path.with_suffix("") if path.suffix == ".index" else path


def _form_of_source(path: Path) -> str:
    """Return the form of a file that may exist, whose content tells what its name does not."""
    if path.suffix in (KERAS, *_FORMS) or path.name.endswith(WEIGHTS):
        return _form_of(path)
    # A .ckpt of Lightning is a file of torch, one of TF1 a prefix.
    is_torch = path.is_file() and not _file_of(path, TF1).is_file() and _torch_file.is_one(path)
    return ".pt" if is_torch else _form_of(path)


def _form_of(path: Path) -> str:
    """Return the form of a file by its name, which for TF1 is a prefix."""
    if path.name.endswith(WEIGHTS):
        return WEIGHTS
    if path.suffix in (KERAS, *_FORMS):
        return path.suffix
    if not path.suffix or ".ckpt" in path.name or _file_of(path, TF1).is_file():
        return TF1
    raise Failure(
        f"The name of {path} tells no form: it must end in .keras, .weights.h5, .pt, .pth or .npz, "
        "or be the prefix of a TF1 checkpoint, such as model.ckpt-1000."
    )


def _file_of(path: Path, form: str) -> Path:
    """Return the file that is there if a file, or a checkpoint, is."""
    return path.with_name(f"{path.name}.index") if form == TF1 else path


def _check_paths(source: Path, target: Path, force: bool) -> None:
    """Refuse a source that does not exist, and a target that must not be replaced."""
    here, there = _file_of(source, _form_of_source(source)), _file_of(target, _form_of(target))
    if not here.is_file():
        other = "" if not source.is_file() else f", and {source} is no file of torch"
        raise Failure(f"There is no file {here}{other}.")
    if not there.parent.is_dir():
        raise Failure(f"There is no folder {there.parent} to write {there.name} into.")
    if there.exists() and there.samefile(here):
        raise Failure(f"SOURCE and TARGET are the same file, {source}; name another TARGET.")
    if there.exists() and not force:
        raise Failure(f"{there} exists already; pass --force to replace it.")


# What the messages of `keras_rmsprop.interop` tell a caller in Python, and a user of options.
_OPTIONS = {
    "Use `interop.like`, which makes an optimizer that takes the same steps, ": "Compile the "
    "model with an optimizer that takes the same steps, such as one of keras_rmsprop.conventions, ",
    "exact=False": "--inexact",
    "`pairs`": "--map",
    'Pass --map, or pairs="order".': "Pass --map.",
    "`name`": "--name",
    "`kind`": "--kind",
    "`names`": "--map",
}


@contextlib.contextmanager
def _in_terms_of_options() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if not is_ours(error):
            raise
        words = str(error)
        for argument, option in _OPTIONS.items():
            words = words.replace(argument, option)
        raise Failure(words) from error
