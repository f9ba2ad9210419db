"""Whether a pattern of names or paths can be searched for."""

import re
from typing import Any


def problem_of(pattern: Any) -> str | None:
    """Return why `pattern` is not a valid regular expression, None if it is one."""
    try:
        re.compile(pattern)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        return str(error)
    return None
