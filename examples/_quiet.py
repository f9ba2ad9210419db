"""Import Keras without the start-up noise of TensorFlow: every example imports this first.

TF_CPP_MIN_LOG_LEVEL, 3 unless it is set, silences TensorFlow's native code once it is initialised.
The lines that it writes during the import ignore that variable, so file descriptor 2 is redirected
meanwhile. At level 0 everything is shown.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec


@contextmanager
def native_stderr_held_back() -> Iterator[None]:
    """Discard what the block writes to file descriptor 2; if the block fails, show it.

    `contextlib.redirect_stderr` does not reach native code, which writes to the descriptor.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)


if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "0":
    with native_stderr_held_back():
        import keras  # noqa: F401 - imports the backend, too

        # If TensorFlow is installed, Keras's trainer imports it on the other backends as well.
        if find_spec("tensorflow"):
            import tensorflow  # noqa: F401
