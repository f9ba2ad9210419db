"""Test when and how variables can be excluded from weight decay."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop
from tests.tools.two_weights import two_weights, values_of


def test_variables_can_be_excluded_after_build_exactly_if_keras_allows_it() -> None:
    outcomes = []
    for optimizer in (RMSprop(weight_decay=0.1), keras.optimizers.RMSprop(weight_decay=0.1)):
        variables = two_weights()
        optimizer.build(variables)
        try:
            optimizer.exclude_from_weight_decay(var_list=variables[:1])
        except ValueError as error:
            outcomes.append(str(error))
        else:
            outcomes.append([optimizer._use_weight_decay(v) for v in variables])
    assert outcomes[0] == outcomes[1]


def test_an_invalid_pattern_is_refused_and_changes_nothing() -> None:
    a, b = keras.Variable([1.0], name="a"), keras.Variable([1.0], name="b")
    optimizer = RMSprop(0.1, weight_decay=1.0)
    optimizer.exclude_from_weight_decay([a])
    with pytest.raises(ValueError, match=r"`var_names` must be regular expressions"):
        optimizer.exclude_from_weight_decay([b], ["["])
    optimizer.apply([ops.zeros(1)] * 2, [a, b])
    np.testing.assert_allclose(values_of([a, b]), [[1.0], [0.9]], rtol=1e-6)
