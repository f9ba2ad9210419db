"""Make an optimizer from the config in a file, without running code that the file names."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_rmsprop._command_line._program import Failure
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop.interop import _schedules

Config = Mapping[str, Any]

# Of the optimizers with a `rho`, only RMSprops can be centered.
_OF_AN_RMSPROP = {"rho", "epsilon", "centered", "momentum"}


def optimizer_in(path: Path) -> RMSprop:
    """Return an optimizer with the settings in a JSON file or a `.keras` file; it is not built.

    Raises: Failure if there are none of an RMSprop.
    """
    found = _in_model(path) if path.suffix == ".keras" else _in_json(path)
    settings = _settings(found, path)
    _check_schedules(settings, path)
    try:
        # Keras's own config is accepted as well.
        return RMSprop.from_config(dict(settings))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise Failure(f"The optimizer in {path} cannot be made: {error}") from error


def _in_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Failure(
            f"{path} is neither a .keras file nor JSON with the config of an optimizer: {error}."
        ) from error


def _in_model(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
        compiled = config.get("compile_config") or {}
        found = compiled.get("optimizer")
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError, AttributeError) as error:
        raise Failure(f"{path} is not a model that Keras saved as .keras.") from error
    if found is None:
        raise Failure(f"The model in {path} was saved without an optimizer.")
    return found


def _settings(found: Any, path: Path) -> Config:
    """Return the arguments of an RMSprop from any of the forms in which its config is written."""
    if found in ("rmsprop", "RMSprop", "keras_rmsprop>RMSprop"):
        # `compile` was given the name, so everything is as by default.
        return RMSprop().get_config()
    if isinstance(found, Mapping) and isinstance(found.get("config"), Mapping):
        if _class_of(found) == "keras LossScaleOptimizer":
            return _settings(found["config"].get("inner_optimizer"), path)
        if _class_of(found) not in ("keras RMSprop", "keras_rmsprop>RMSprop"):
            raise Failure(
                f"The optimizer in {path} is of the class {_class_of(found)!r}; this describes "
                "keras_rmsprop.RMSprop and keras.optimizers.RMSprop."
            )
        found = found["config"]
    if not isinstance(found, Mapping) or not found.keys() >= _OF_AN_RMSPROP:
        raise Failure(
            f"{path} holds no config of an RMSprop, which would have "
            f"{', '.join(sorted(_OF_AN_RMSPROP))}."
        )
    return found


def _class_of(serialized: Config) -> str:
    """Return a class's registered name, or for Keras's own "keras" and its name."""
    registered, module = serialized.get("registered_name"), str(serialized.get("module"))
    name = str(serialized.get("class_name"))
    if module.partition(".")[0] == "keras" and registered in (None, name):
        return f"keras {name}"
    return str(registered or name)


def _check_schedules(settings: Config, path: Path) -> None:
    """Refuse objects that are no schedules, before Keras looks for them, or calls them."""
    for each in _schedules.unknown_in(settings):
        raise Failure(
            f"The config in {path} names {name_of(each)!r} of the module "
            f"{each.get('module')!r:.60}, which is not called: a config may hold no objects but "
            "learning rate schedules, of keras.optimizers.schedules or registered with "
            "keras.saving.register_keras_serializable."
        )


def name_of(serialized: Config) -> str:
    """Return the name of an object in a config, for messages."""
    name = serialized["class_name"]
    return str(serialized.get("config") if name == "function" else name)[:60]
