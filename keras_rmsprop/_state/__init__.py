"""Save and load the optimizer's state.

Loading has three stages, so that a failure changes nothing: any source is read into a `State`;
`plan_load` decides the new value of every variable; only then are the values assigned.

State follows the weights. It is matched by the variable's position, as in Keras, and by the kind of
slot; if the saved variables differ from the optimizer's, `_variables._pairing` matches them. What
is missing from the state starts fresh, what the optimizer does not need is dropped, and both are
reported. Only damaged state is refused.
"""

from keras_rmsprop._state._file import SkippedFile, read_file, write_state
from keras_rmsprop._state._form import State
from keras_rmsprop._state._hdf5 import check_no_entry_leads_out, opened_hdf5
from keras_rmsprop._state._load import LastLoad, LoadReport, message, plan_load
from keras_rmsprop._state._names import from_dict, to_dict
from keras_rmsprop._state._read import (
    OptimizerParts,
    array_of,
    slots_of,
    state_of,
    subclass_variables,
)
from keras_rmsprop._state._sanity import why_impossible

__all__ = [
    "LastLoad",
    "LoadReport",
    "OptimizerParts",
    "SkippedFile",
    "State",
    "array_of",
    "check_no_entry_leads_out",
    "from_dict",
    "message",
    "opened_hdf5",
    "plan_load",
    "read_file",
    "slots_of",
    "state_of",
    "subclass_variables",
    "to_dict",
    "why_impossible",
    "write_state",
]
