"""What has been served, in Prometheus' text format."""

from collections import Counter
from collections.abc import Iterable, Mapping
from threading import Lock

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of a histogram's buckets, in seconds."""


class Histogram:
    """Seconds by bucket."""

    def __init__(self) -> None:
        self._buckets, self._sum, self._count = [0] * len(BOUNDS), 0.0, 0

    def add(self, seconds: float) -> None:
        """One more."""
        self._sum, self._count = self._sum + seconds, self._count + 1
        for number, bound in enumerate(BOUNDS):
            self._buckets[number] += seconds <= bound

    def lines(self, name: str) -> Iterable[str]:
        """As Prometheus reads it."""
        yield f"# TYPE {name} histogram"
        for bound, count in zip(BOUNDS, self._buckets, strict=True):
            yield f'{name}_bucket{{le="{bound:g}"}} {count}'
        yield f'{name}_bucket{{le="+Inf"}} {self._count}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {self._count}"


class ServedCounts:
    """Requests and tokens by model, answers by how they ended, and times."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.prompt_tokens: Counter[str] = Counter()
        self.new_tokens: Counter[str] = Counter()
        self.refused: Counter[int] = Counter()
        self.first_token, self.between_tokens = Histogram(), Histogram()
        self._lock = Lock()

    def page(self, gauges: Mapping[str, float]) -> str:
        """All of it."""
        with self._lock:
            lines = [
                *_counter("loralab_requests_total", "model", self.requests),
                *_counter("loralab_prompt_tokens_total", "model", self.prompt_tokens),
                *_counter("loralab_generated_tokens_total", "model", self.new_tokens),
                *_counter("loralab_refused_total", "status", self.refused),
                *self.first_token.lines("loralab_time_to_first_token_seconds"),
                *self.between_tokens.lines("loralab_time_between_tokens_seconds"),
            ]
        for name, value in gauges.items():
            lines += [f"# TYPE loralab_{name} gauge", f"loralab_{name} {value:g}"]
        return "\n".join(lines) + "\n"


def _counter(name: str, label: str, values: Counter[str] | Counter[int]) -> Iterable[str]:
    yield f"# TYPE {name} counter"
    for key, value in sorted(values.items()):
        yield f'{name}{{{label}="{key}"}} {value}'
