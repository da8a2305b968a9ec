"""What /metrics tells, in Prometheus' format."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Telemetry:
    """Counters of one server."""

    def __init__(self):
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter("mm_requests", "Requests that were answered.", ["route", "status"], registry=own)
        self.seconds = Histogram(
            "mm_request_seconds", "From request to answer.", ["route"], buckets=_SECONDS, registry=own
        )
        self.batches = Histogram("mm_batch_size", "Requests in a batch.", ["model"], buckets=_SIZES, registry=own)
        self.cache = Counter("mm_pictures", "Pictures looked for in the cache.", ["model", "found"], registry=own)
        self.queue = Gauge("mm_queue", "Requests that wait for the model.", ["model"], registry=own)
        self.waiting: dict[str, list[Callable[[], int]]] = {}
        self.now = Gauge("mm_requests_in_progress", "Requests that are being answered.", registry=own)

    def of_batches(self, model: str) -> Callable[[int], None]:
        return self.batches.labels(model).observe

    def of_cache(self, model: str) -> Callable[[bool], None]:
        found, new = self.cache.labels(model, "yes"), self.cache.labels(model, "no")
        return lambda hit: (found if hit else new).inc()

    def watch_queue(self, model: str, waiting: Callable[[], int]) -> None:
        """Adds the queue of a head of the model."""
        queues = self.waiting.setdefault(model, [])
        queues.append(waiting)
        self.queue.labels(model).set_function(lambda: sum(queue() for queue in queues))

    def text(self) -> bytes:
        return generate_latest(self.registry)
