"""Import Keras without the start-up noise of TensorFlow: every example imports this first.

What a reader sees is then the example's own words. TF_CPP_MIN_LOG_LEVEL, at 3 unless it is set,
silences TensorFlow's native code once that is initialised. The lines that it writes before, while
it is imported, heed no variable: there file descriptor 2 is redirected. At level 0 all is shown.
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
        import keras  # noqa: F401 - the backend comes with it

        # Keras trains with TensorFlow's help on the other backends too, where it is installed.
        if find_spec("tensorflow"):
            import tensorflow  # noqa: F401
