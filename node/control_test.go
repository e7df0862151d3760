package node_test

import (
	"context"
	"errors"
	"testing"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
)

// A node that was started without a model serves one when it is told to, and stops.
func TestServeAtRunTime(t *testing.T) {
	t.Parallel()
	needEngine(t)
	n, _ := start(t, node.Config{}, true)
	c := n.Client()
	serving := func() []api.Serving {
		st, err := c.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st.Serving
	}
	for _, bad := range []struct {
		req  api.ServeRequest
		kind api.Kind
	}{
		{api.ServeRequest{Model: "nobody-knows-this"}, api.UnknownModel},
		{api.ServeRequest{Model: tinymodel.Name, Span: "5-2"}, api.BadInput},
		{api.ServeRequest{Model: tinymodel.Name, Span: "0-99"}, api.BadInput},
		{api.ServeRequest{Model: "http://127.0.0.1:1/x.gguf"}, api.BadInput},
	} {
		if _, err := c.Serve(t.Context(), bad.req, nil); !errors.Is(err, &api.Error{Kind: bad.kind}) {
			t.Errorf("%+v: %v", bad.req, err)
		}
	}
	if left := serving(); len(left) != 0 {
		t.Fatalf("left half started: %+v", left)
	}
	if err := c.Stop(t.Context(), tinymodel.Name); !errors.Is(err, &api.Error{Kind: api.UnknownModel}) {
		t.Errorf("stopping nothing: %v", err)
	}
	for range 2 { // the second time it is there already
		v, err := c.Serve(t.Context(), api.ServeRequest{Model: tinymodel.Name}, nil)
		if err != nil || v.From != 0 || v.To != 8 || v.Waiting != "" {
			t.Fatalf("%+v, %v", v, err)
		}
	}
	if list := serving(); len(list) != 1 || !list[0].Ready {
		t.Fatalf("served: %+v", list)
	}
	if ids, _, _ := ask(t, n, request("Once upon a time", 0, 5)); len(ids) != 5 {
		t.Error("no answer")
	}
	if err := c.Stop(t.Context(), tinymodel.Name); err != nil {
		t.Error(err)
	}
	if left := serving(); len(left) != 0 {
		t.Errorf("stopped: %+v", left)
	}

	// A part that nobody has the rest of is served, too, and says so.
	v, err := c.Serve(t.Context(), api.ServeRequest{Model: tinymodel.Name, Span: "0-3"}, nil)
	if err != nil || v.To != 3 || v.Waiting == "" {
		t.Fatalf("a part: %+v, %v", v, err)
	}
	if err := c.Stop(t.Context(), v.Model); err != nil {
		t.Error(err)
	}
	// A caller that goes away leaves nothing behind.
	ctx, cancel := context.WithCancel(t.Context())
	if _, err = c.Serve(ctx, api.ServeRequest{Model: tinymodel.Name}, func(api.Progress) { cancel() }); err == nil {
		t.Error("the caller went away, and it was served before")
	}
	until(t, "nothing is served", func() bool { return len(serving()) == 0 })
}
