package node_test

import (
	"context"
	"errors"
	"testing"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/lend"
)

// Ready waits for as long as a chain is incomplete, and no longer than the node runs.
func TestReady(t *testing.T) {
	run := func(cfg node.Config) (n *node.Node, stop func() error) {
		cfg.Home, cfg.NoMDNS, cfg.Threads, cfg.Lend = t.TempDir(), true, 1, lend.Rules{OnBattery: true}
		cfg.Engine = engineFor(t, cfg)
		cfg.ListenAddrs = []string{"/ip4/127.0.0.1/udp/0/quic-v1"}
		n, err := node.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx) }()
		return n, func() error { cancel(); return <-ended }
	}
	loaded := make(chan struct{}, 1)
	half, stopHalf := run(node.Config{
		Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "0-4"}},
		Events: func(e node.Event) {
			if e.Event == "loaded" {
				loaded <- struct{}{}
			}
		},
	})
	<-loaded // and waiting for the other half
	gone, leave := context.WithCancel(t.Context())
	waits := make(chan error, 1)
	go func() { waits <- half.Ready(gone) }()
	select {
	case err := <-waits:
		t.Fatalf("half a model was ready: %v", err)
	default:
	}
	leave()
	if err := <-waits; !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that left got %v", err)
	}
	st, err := half.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rest, stopRest := run(node.Config{Bootstrap: st.Addrs, Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "4-8"}}})
	for _, n := range []*node.Node{half, rest} {
		if err := n.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		if st, err := n.Client().Status(t.Context()); err != nil || len(st.Serving) == 0 || !st.Serving[0].Ready {
			t.Errorf("ready with %+v, %v", st, err)
		}
	}
	if err := errors.Join(stopRest(), stopHalf()); err != nil {
		t.Error(err)
	}
	if err := half.Ready(t.Context()); err == nil {
		t.Error("a node that has stopped is ready")
	}
}
