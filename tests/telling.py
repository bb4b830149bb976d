"""What netstorage tells OpenTelemetry, kept for tests by its SDK."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from netstorage import telemetry


class Told:
    """A tracer and a meter of their own, in the place of the process's, until ``stop()``.

    Args:
        readers: Who reads the metrics beside this.
    """

    def __init__(self, *readers: MetricReader) -> None:
        self._exporter = InMemorySpanExporter()
        self._spans = TracerProvider(shutdown_on_exit=False)
        self._spans.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self._metrics = MeterProvider([self._reader, *readers], shutdown_on_exit=False)
        self.tracer = self._spans.get_tracer("netstorage")
        self.opentelemetry = telemetry._OpenTelemetry(
            self.tracer, self._metrics.get_meter("netstorage")
        )

    def stop(self) -> None:
        self._spans.shutdown()
        self._metrics.shutdown()

    def spans(self) -> list[ReadableSpan]:
        """The spans that ended since this was last asked for."""
        spans = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return spans

    def span(self) -> ReadableSpan:
        """The only one."""
        (span,) = self.spans()
        return span

    def names(self) -> set[str]:
        """The names of all metrics there are now, behind "netstorage.client."."""
        return {metric.name.removeprefix("netstorage.client.") for metric in self.metrics()}

    def metrics(self) -> list[Any]:
        """All metrics there are now."""
        data = self._reader.get_metrics_data()
        return [
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]

    def points(self, name: str, **wanted: Any) -> list[Any]:
        """What there is now of a metric, where the ends of its attributes' names have these values.

        Args:
            name: The metric's name, behind "netstorage.client.".
            wanted: Values; ``pool_name`` stands for ".pool.name".
        """
        return [
            point
            for metric in self.metrics()
            if metric.name == f"netstorage.client.{name}"
            for point in metric.data.data_points
            if all(
                any(key.endswith(end.replace("_", ".")) and value == is_
                    for key, is_ in point.attributes.items())
                for end, value in wanted.items()
            )
        ]  # fmt: skip

    def value(self, name: str, **wanted: Any) -> Any:
        """The value of the only one of them."""
        (point,) = self.points(name, **wanted)
        return point.value


def numbers(span: ReadableSpan) -> dict[str, Any]:
    """What of a span is a count."""
    return {
        name.removeprefix("netstorage."): value
        for name, value in span.attributes.items()
        if name.removeprefix("netstorage.")
        in {"bytes_sent", "bytes_received", "round_trips", "reconnects"}
    }
