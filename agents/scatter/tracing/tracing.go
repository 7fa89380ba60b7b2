// Package tracing sends spans of requests to a collector by OTLP, where the environment
// asks for it with the variables of OpenTelemetry: OTEL_EXPORTER_OTLP_ENDPOINT or
// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, and with them OTEL_TRACES_SAMPLER,
// OTEL_EXPORTER_OTLP_HEADERS and so on.
//
// A request has a span, and each request to a leaf one below it. Spans that cannot be sent
// are dropped: they never hold a request up.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
)

// closeTimeout bounds the sending of the last spans.
const closeTimeout = 3 * time.Second

// Tracer makes spans.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	context  propagation.TraceContext
}

// FromEnv makes a Tracer if the environment names a collector; otherwise it is nil, whose
// Start makes nothing. Errors while sending go to the log.
func FromEnv(ctx context.Context, version, id string, log hclog.Logger) (*Tracer, error) {
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return nil, nil //nolint:nilnil // no tracer is one that does nothing
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("send traces: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("send traces", "error", err) }))
	about := resource.NewSchemaless(
		attribute.String("service.name", "scatter"), attribute.String("service.version", version), attribute.String("service.instance.id", id),
	)
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(about))
	return &Tracer{provider: provider, tracer: provider.Tracer("github.com/nomad-patterns/nomad-patterns/agents/scatter")}, nil
}

// Close sends the spans that there still are.
func (t *Tracer) Close() error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return t.provider.Shutdown(ctx)
}

// Span is that of a request. Nil does nothing.
type Span struct {
	t    *Tracer
	ctx  context.Context
	span trace.Span
}

// Start begins the span of a request. Nil: it is not recorded.
func (t *Tracer) Start(r *http.Request, route string) *Span {
	if t == nil {
		return nil
	}
	ctx := t.context.Extract(context.WithoutCancel(r.Context()), propagation.HeaderCarrier(r.Header))
	ctx, span := t.tracer.Start(ctx, r.Method+" "+route, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("http.request.method", r.Method), attribute.String("url.path", r.URL.Path), attribute.String("scatter.route", route),
	))
	return &Span{t, ctx, span}
}

// Leaf begins the span of a request to a leaf, and writes it into the header. The function
// that it returns ends it.
func (s *Span) Leaf(l gather.Leaf, attempt int, h http.Header) func(gather.Reason, string) {
	ctx, span := s.t.tracer.Start(s.ctx, "leaf "+l.Shard, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("scatter.shard", l.Shard), attribute.String("scatter.leaf", l.ID), attribute.String("server.address", l.Address), attribute.Int("scatter.attempt", attempt),
	))
	s.t.context.Inject(ctx, propagation.HeaderCarrier(h))
	return func(reason gather.Reason, detail string) {
		if reason != "" {
			span.SetAttributes(attribute.String("scatter.reason", string(reason)))
			if reason != gather.Skipped {
				span.SetStatus(codes.Error, detail)
			}
		}
		span.End()
	}
}

// End ends the span of a request.
func (s *Span) End(c gather.Coverage, err error) {
	if s == nil {
		return
	}
	s.span.SetAttributes(attribute.Int("scatter.ok", c.OK), attribute.Int("scatter.total", c.Total))
	if err != nil && !errors.Is(err, context.Canceled) {
		s.span.SetStatus(codes.Error, err.Error())
	}
	s.span.End()
}
