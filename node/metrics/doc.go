// Package metrics counts what a node does, for Prometheus, in a registry that is
// the node's own.
package metrics
