package network

import (
	"errors"
	"strings"
	"syscall"
)

// Explain returns an error of dialling a peer in a few words for people: that
// another node answers there, that nothing listens, that there was no answer in
// time, that the peer takes no connection, or that it lets in members only.
func Explain(err error) error { return tidy(err) }

// ErrNobody means that no program listens at a peer's address.
var ErrNobody = errors.New("nothing listens there: the node is not running, or has another port")

// isNobody reports whether a dial failed at every address because nothing
// listens there. QUIC cannot tell, and only times out.
func isNobody(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || strings.Contains(err.Error(), "connection refused")
}
