"""What a measurement leaves behind, free of any framework so that the report can read it."""

import dataclasses
import statistics
from collections.abc import Sequence

# The contender that all others are compared with.
OURS = "keras_rmsprop"

# What a comparison counts.
FASTER = "times as fast"
SMALLER = "times less memory"
BREAK_EVEN = "steps to break even"
MORE = "MiB more"
# Of these, less is better.
AT_MOST = (BREAK_EVEN, MORE)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """Summarise measured values; a single one is its own quartiles."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One contender's figure in a row, or the reason why there is none."""

    figure: Figure | None = None
    failure: str | None = None
    # Largest deviation from the expected weights, as a fraction of the distance travelled.
    deviation: float | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Ours against one peer in a row."""

    peer: str
    figure: Figure
    quantity: str = FASTER
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without a target."""
        if self.target is None:
            return None
        if self.quantity in AT_MOST:
            return self.figure.median <= self.target
        return self.figure.median >= self.target


@dataclasses.dataclass(frozen=True)
class Result:
    """All that one row gave."""

    unit: str
    entries: dict[str, Entry]
    comparisons: list[Comparison]

    @classmethod
    def failed(cls, reason: str) -> "Result":
        """The result of a row that gave no figure."""
        return cls("", {OURS: Entry(failure=reason)}, [])


@dataclasses.dataclass(frozen=True)
class Record:
    """A row's name and its result: a line of the JSON output."""

    backend: str
    suite: str
    mode: str
    config: str
    case: str
    # The number that the row varies, where it belongs to a curve.
    size: float | None
    result: Result

    @classmethod
    def from_json(cls, data: dict[str, object]) -> "Record":
        """Read what `dataclasses.asdict` wrote."""
        fields = dict(data)
        result = fields.pop("result")
        assert isinstance(result, dict)
        entries = {
            name: Entry(_figure(entry["figure"]), entry["failure"], entry["deviation"])
            for name, entry in result["entries"].items()
        }
        comparisons = [
            Comparison(c["peer"], Figure(**c["figure"]), c["quantity"], c["target"])
            for c in result["comparisons"]
        ]
        return cls(**fields, result=Result(result["unit"], entries, comparisons))  # type: ignore[arg-type]


def _figure(data: dict[str, float] | None) -> Figure | None:
    return None if data is None else Figure(**data)
