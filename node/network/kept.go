package network

import "errors"

// NewKept is New on the port in a file, which was drawn at an earlier start, if
// Config names none and it is still free. The port that is drawn otherwise is kept there:
// a router's mapping and the addresses that peers remember survive a restart. It is for
// networks that serve; a light client needs no port of its own.
func NewKept(cfg Config, file string) (*Network, error) {
	draws := cfg.ListenPort == 0 && !cfg.Client
	if draws {
		cfg.ListenPort = KeptPort(file)
	}
	n, err := New(cfg)
	if err != nil && draws && cfg.ListenPort != 0 && !errors.Is(err, ErrAddress) { // another program has the port now
		cfg.ListenPort = 0
		n, err = New(cfg)
	}
	if err != nil || !draws {
		return n, err
	}
	if err := KeepPort(file, n.Port()); err != nil {
		n.log.Warn("the port cannot be kept for the next start", "error", err)
	}
	return n, nil
}
