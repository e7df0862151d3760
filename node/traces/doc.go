// Package traces exports a node's spans to its operator's collector by OTLP over
// HTTP, and joins those of several nodes by W3C Trace Context.
//
// It is off unless an endpoint is given; the tracer then makes nothing. Of a
// prompt it takes numbers, a model's name and a route: no text, ever, and
// errors by their kind only, since the text of an error may quote.
//
// Nothing here is global: no provider, propagator or error handler of
// OpenTelemetry's own is set, so several nodes of one process trace apart.
package traces
