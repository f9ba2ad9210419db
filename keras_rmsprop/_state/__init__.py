"""What is kept of an optimizer, and what becomes of it on loading.

A state is loaded in three moves, so that nothing is lost on the way: it is read into a `State`,
whatever its source; `plan_load` decides what every variable of the optimizer shall hold; only
then is anything assigned.

State follows the weights. It is paired by the variable's position, as Keras pairs weights, and
by the kind of slot; where other variables were saved than there are, `_variables._pairing` tells
which is which. What the optimizer has and the state does not starts afresh; what the state has and
the optimizer does not is dropped; both are said. Only what is damaged is refused.
"""

from keras_rmsprop._state._file import Passed, read_file, write_state
from keras_rmsprop._state._form import State
from keras_rmsprop._state._holder import Holder, array_of, own_variables, state_of
from keras_rmsprop._state._load import LoadReport, Loads, message, plan_load
from keras_rmsprop._state._names import from_dict, to_dict

__all__ = [
    "Holder",
    "LoadReport",
    "Loads",
    "Passed",
    "State",
    "array_of",
    "from_dict",
    "message",
    "own_variables",
    "plan_load",
    "read_file",
    "state_of",
    "to_dict",
    "write_state",
]
