"""The environment of processes that tests start."""

import os


def as_of_a_user(*unset: str) -> dict[str, str]:
    """Return the environment in which TensorFlow logs as by default.

    Args:
        *unset: further variables that a user does not have.
    """
    return {k: v for k, v in os.environ.items() if k not in {"TF_CPP_MIN_LOG_LEVEL", *unset}}
