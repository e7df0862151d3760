package node_test

import (
	"bufio"
	"crypto/rand"
	"io"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/protocol"
)

// hold opens sessions of the greatest length at a node, and says nothing but
// Ping on them until the test is over. It gives how many were let in.
func hold(t *testing.T, at string, model []byte, sessions int) (in int) {
	t.Helper()
	h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	info, err := peer.AddrInfoFromString(at)
	if err == nil {
		err = h.Connect(t.Context(), *info)
	}
	if err != nil {
		t.Fatal(err)
	}
	write := func(w io.Writer, f *protocol.Frame) error {
		b, err := protocol.AppendFrame(nil, f, nil)
		if err == nil {
			_, err = w.Write(b)
		}
		return err
	}
	for range sessions {
		st, err := h.NewStream(t.Context(), info.ID, protocol.StageID)
		if err != nil {
			t.Fatal(err)
		}
		o := &protocol.Open{Session: make([]byte, 16), Model: model, To: 8, Stages: 1, Epoch: 1, MaxTokensTotal: 512, Sampling: &protocol.Sampling{PromptTokens: 1, MaxTokens: 511}}
		_, _ = rand.Read(o.Session)
		if err := write(st, &protocol.Frame{Kind: &protocol.Frame_Open{Open: o}}); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(st)
		if f, _, err := protocol.ReadFrame(r, 0); err == nil && f.GetOpened() != nil {
			in++
		}
		go func() { _, _ = io.Copy(io.Discard, r) }()
		go func() {
			for write(st, &protocol.Frame{Kind: &protocol.Frame_Ping{Ping: &protocol.Ping{}}}) == nil {
				time.Sleep(250 * time.Millisecond)
			}
		}()
	}
	return in
}

// Strangers that hold all the room of a node with sessions that they never use
// keep neither its operator's prompts from it nor another stranger's.
func TestHolders(t *testing.T) {
	n, addrs := start(t, node.Config{Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "all"}}, MaxSessions: 8, KVTokens: 1024}, true)
	c, _ := start(t, node.Config{Client: true, Bootstrap: addrs}, false)
	st, err := n.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	model, err := cid.Decode(st.Serving[0].Model)
	if err != nil {
		t.Fatal(err)
	}
	ask(t, c, request("Once", 0, 2)) // it knows the node now
	in := 0
	for range 3 {
		in += hold(t, addrs[0], model.Bytes(), 12)
	}
	t.Logf("%d sessions were let in", in)
	if in < 3 {
		t.Fatal("there is nothing to hold")
	}
	for who, from := range map[string]*node.Node{"the operator": n, "a stranger": c} {
		begin := time.Now()
		ids, _, done := ask(t, from, request("Once upon a time", 0, 20))
		if len(ids) == 0 || done == nil {
			t.Errorf("%s got nothing", who)
		}
		t.Logf("%s was answered after %s", who, time.Since(begin))
	}
}
