"""Test which settings a group of variables accepts, and the errors for all others."""

import re
from typing import Any

import keras
import pytest
from keras import ops

from keras_rmsprop import RMSprop, transforms
from keras_rmsprop._settings import _groups, _validation

PATTERN = "backbone/.*"


@keras.saving.register_keras_serializable(package="tests.settings.test_groups")
def halve(gradient: Any, weight: Any) -> Any:
    del weight
    return gradient / 2.0


def refused(groups: Any, **arguments: Any) -> str:
    """The message with which the constructor refuses groups."""
    with pytest.raises(ValueError, match=r"groups?|nesterov") as error:
        RMSprop(groups=groups, **arguments)
    return str(error.value)


@pytest.mark.parametrize("name", _groups.OF_A_GROUP)
def test_a_bad_value_is_refused_in_the_words_of_the_constructor_with_the_pattern(name: str) -> None:
    words = refused({PATTERN: {name: float("nan")}})
    assert words.startswith(f"In the group {PATTERN!r}: `{name}` must be ")
    assert f"received {name}=nan." in words
    if name != "learning_rate":
        assert _validation.HYPERPARAMETERS[name].accepted in words


@pytest.mark.parametrize("value", [-0.1, float("inf"), lambda: 0.1, [0.1]], ids=range(4))
def test_a_factor_of_the_rate_is_a_number(value: Any) -> None:
    words = refused({PATTERN: {"learning_rate": value}})
    assert "a finite number >= 0, the factor by which" in words
    assert "A schedule or a callable belongs to the optimizer." in words


@pytest.mark.parametrize("name", sorted(set(_validation.HYPERPARAMETERS) - set(_groups.OF_A_GROUP)))
def test_what_one_optimizer_has_once_is_refused_by_name(name: str) -> None:
    words = refused({PATTERN: {name: None}})
    assert f"The group {PATTERN!r} cannot have `{name}`" in words
    assert f"`{name}` is the same for all variables of an optimizer" in words


@pytest.mark.parametrize(
    ("name", "hint"),
    [("lr", "It is `learning_rate` here"), ("momentun", "Did you mean `momentum`?")],
)
def test_an_unknown_setting_is_refused_with_what_may_be_meant(name: str, hint: str) -> None:
    words = refused({PATTERN: {name: 0.5}})
    assert hint in words
    assert "A group can have `learning_rate`, `rho`, " in words


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([("a", {})], "`groups` must be None or a mapping"),
        ({"a": 0.5}, "The group 'a' must be a mapping from settings"),
        ({3: {}}, "received 3: it is not a string"),
        ({"a(": {}}, "received 'a(': missing ), unterminated subpattern"),
    ],
    ids=["no mapping", "no settings", "no string", "no regular expression"],
)
def test_what_is_no_mapping_from_patterns_to_settings_is_refused(groups: Any, words: str) -> None:
    assert words in refused(groups)


@pytest.mark.parametrize(
    ("own", "arguments", "words"),
    [
        ({"lazy": True}, {"momentum": 0.9}, "the buffer goes on moving a row"),
        ({"lazy": True, "l2": 0.1}, {}, "the penalty gives every row a gradient"),
        ({"lazy": True, "transform": "centralize"}, {}, "`transform` is given a whole gradient"),
        ({"momentum": 0.9}, {"lazy": True}, "the buffer goes on moving a row"),
        ({"lazy": True}, {"use_ema": True}, "the average of the weights moves at every step"),
    ],
)
def test_settings_of_a_group_contradict_each_other_as_those_of_an_optimizer(
    own: dict[str, Any], arguments: dict[str, Any], words: str
) -> None:
    said = refused({PATTERN: own}, **arguments)
    assert f"In the group {PATTERN!r}: " in said
    assert words in said


def test_lazy_in_a_group_lifts_the_refusals_for_the_others() -> None:
    own = {"lazy": True, "momentum": 0.0, "weight_decay": 0.0, "l2": 0.0, "transform": None}
    optimizer = RMSprop(
        momentum=0.9,
        weight_decay=0.1,
        l2=0.1,
        transform="centralize",
        groups={"items/embeddings": own},
    )
    assert optimizer.groups["items/embeddings"].lazy
    assert not optimizer.lazy


def test_nesterov_looks_ahead_along_the_buffer_of_any_group() -> None:
    assert "`nesterov=True` needs `momentum` > 0" in refused({"a": {"rho": 0.5}}, nesterov=True)
    assert RMSprop(nesterov=True, groups={"a": {"momentum": 0.5}}).nesterov


def test_a_group_has_the_settings_of_the_optimizer_where_it_has_none_of_its_own() -> None:
    optimizer = RMSprop(rho=0.8, momentum=0.5, groups={PATTERN: {"rho": 0.99, "epsilon": 1e-3}})
    group = optimizer.groups[PATTERN]
    assert (group.learning_rate, group.rho, group.momentum, group.epsilon) == (1.0, 0.99, 0.5, 1e-3)
    optimizer.momentum = 0.25
    optimizer.rho = 0.7
    assert (group.rho, group.momentum) == (0.99, 0.25)
    assert repr(optimizer.groups) == (
        "Groups({Group('backbone/.*': learning_rate=1.0, rho=0.99, epsilon=0.001)})"
    )


def test_groups_are_read_like_a_mapping() -> None:
    optimizer = RMSprop(groups={"a": {}, "b": {"rho": 0.5}})
    assert list(optimizer.groups) == ["a", "b"]
    assert len(optimizer.groups) == 2
    assert "c" not in optimizer.groups
    with pytest.raises(KeyError, match="no group 'c'; there is 'a', 'b'"):
        optimizer.groups["c"]
    assert len(RMSprop().groups) == 0


def test_groups_cannot_be_replaced() -> None:
    optimizer = RMSprop(groups={PATTERN: {}})
    with pytest.raises(AttributeError, match="Assign to a setting of a group"):
        optimizer.groups = {}
    with pytest.raises(TypeError, match="Assign to its settings one by one"):
        optimizer.groups[PATTERN] = {"rho": 0.5}  # type: ignore[index]
    assert list(optimizer.groups) == [PATTERN]


@pytest.mark.parametrize("name", _groups.OF_A_GROUP)
def test_a_refused_assignment_leaves_the_old_value(name: str) -> None:
    optimizer = RMSprop(groups={PATTERN: {}})
    group = optimizer.groups[PATTERN]
    before = getattr(group, name)
    with pytest.raises(ValueError, match=f"In the group {PATTERN!r}: `{name}` must be"):
        setattr(group, name, float("nan"))
    assert getattr(group, name) == before
    assert optimizer.get_config()["groups"] == {PATTERN: {}}


@pytest.mark.parametrize(
    ("name", "words"),
    [("clipnorm", "the same for all variables"), ("lr", "It is `learning_rate` here")],
)
def test_what_a_group_cannot_have_cannot_be_assigned(name: str, words: str) -> None:
    group = RMSprop(groups={PATTERN: {}}).groups[PATTERN]
    with pytest.raises(ValueError, match=re.escape(words)):
        setattr(group, name, 1.0)
    with pytest.raises(AttributeError, match="has no `nonsense`; it has learning_rate, rho,"):
        group.nonsense  # noqa: B018


def test_a_contradiction_can_be_assigned_neither_to_a_group_nor_to_the_optimizer() -> None:
    optimizer = RMSprop(groups={"table": {"lazy": True}, "rest": {"momentum": 0.5}})
    with pytest.raises(ValueError, match="In the group 'table': `lazy=True` leaves rows"):
        optimizer.groups["table"].l2 = 0.1
    with pytest.raises(ValueError, match="In the group 'table': `lazy=True` leaves rows"):
        optimizer.momentum = 0.5
    assert (optimizer.groups["table"].l2, optimizer.momentum) == (0.0, 0.0)


# Transforms.


def test_a_transform_is_a_registered_function_or_its_name() -> None:
    assert RMSprop(transform=halve).transform is halve
    assert RMSprop(transform="tests.settings.test_groups>halve").transform is halve
    for name in ("centralize", "keras_rmsprop>centralize"):
        assert RMSprop(transform=name).transform is transforms.centralize


@pytest.mark.parametrize(
    "value",
    [lambda g, _: g, ops.square, "no such", "keras_rmsprop>RMSprop", RMSprop, 3, "Dense"],
    ids=["lambda", "keras.ops", "unknown", "class by name", "class", "number", "layer"],
)
def test_what_a_saved_model_would_not_find_again_is_no_transform(value: Any) -> None:
    with pytest.raises(ValueError, match="`transform` must be None, a function of") as error:
        RMSprop(transform=value)
    assert "register_keras_serializable" in str(error.value)


def test_a_config_holds_groups_and_transforms_by_their_names() -> None:
    groups = {"a": {"learning_rate": 0.1, "transform": halve}, "b": {"weight_decay": None}}
    optimizer = RMSprop(transform=transforms.normalize, groups=groups)
    config = optimizer.get_config()
    assert config["transform"] == "keras_rmsprop>normalize"
    assert config["groups"] == {
        "a": {"learning_rate": 0.1, "transform": "tests.settings.test_groups>halve"},
        "b": {"weight_decay": None},
    }
    again = RMSprop.from_config(config)
    assert again.get_config() == config
    assert again.groups["a"].transform is halve
    assert again.transform is transforms.normalize
    assert RMSprop().get_config()["groups"] is None
