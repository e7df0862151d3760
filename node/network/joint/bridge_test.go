package joint_test

import (
	"crypto/sha256"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/network/joint"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// lends is a record by which the members of swarm b use a.
func lends(t *testing.T, number uint64, roles member.Roles, models ...cid.Cid) *member.BridgeRecord {
	t.Helper()
	r, err := member.SignBridge(rootOf("a"), member.BridgeRecord{
		Guest: member.PublicKey(rootOf("b")), Number: number, Roles: roles, Models: models, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// across opens the network of a bridge for a member of a swarm.
func across(t *testing.T, swarm string, r *member.BridgeRecord, boot ...*network.Network) *network.Network {
	t.Helper()
	load := func() (cfg network.Config) {
		key, err := network.LoadKey(filepath.Join(t.TempDir(), "key"))
		if err != nil {
			t.Fatal(err)
		}
		return network.Config{Key: key, ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}, Version: "test"}
	}
	cfg, own, root := load(), load().Key, rootOf(swarm)
	id, err := peer.IDFromPrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	k, err := member.KeyOf(id)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := member.Issuer{Root: member.PublicKey(root), Key: root}.Issue(k, member.Use|member.Serve, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Swarm = &network.Swarm{Root: member.PublicKey(root), View: member.View(sha256.Sum256([]byte("view"))), Certificate: cert, Bridge: &network.Bridge{Record: r, Member: own}}
	for _, b := range boot {
		cfg.Bootstrap = append(cfg.Bootstrap, b.FullAddrs()...)
	}
	n, err := network.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func held(models ...cid.Cid) *protocol.OfferBody {
	b := serves(models...)
	for _, m := range models {
		b.Shards = append(b.Shards, &protocol.HeldShards{Model: m.Bytes(), Bitmap: []byte{255, 255}})
		b.Takes = append(b.Takes, m.Bytes())
	}
	return b
}

// Over a bridge a node offers what the record of now names, and a guest nothing. What guests
// say there is no offer for the lender's own prompts.
func TestOffersOverABridge(t *testing.T) {
	t.Parallel()
	record := lends(t, 1, member.Use|member.Serve, model)
	lender := joint.New(joint.Config{}, start(t, "a"))
	t.Cleanup(func() { lender.Close() })
	there := across(t, "a", record)
	if err := errors.Join(lender.SetOffers(held(model, other), nil), lender.Add(there)); err != nil {
		t.Fatal(err)
	}
	guest := joint.New(joint.Config{}, start(t, "b"))
	t.Cleanup(func() { guest.Close() })
	here := across(t, "b", record, there)
	if err := guest.Add(here); err != nil {
		t.Fatal(err)
	}
	await(t, "the guest knows what is lent", func() bool { return len(here.Known(model)) == 1 })
	got := guest.Known(model)
	if len(got) != 1 || got[0].From != there.Self() || got[0].Swarm != record.Network().String() || len(got[0].Models()) != 1 || len(guest.Known(other)) != 0 {
		t.Errorf("the guest knows of %v", got)
	}
	if bits := got[0].Held(model).Bitmap; !slices.Equal(bits, []byte{255, 255}) || len(got[0].Takes) != 1 {
		t.Errorf("a guest that serves is offered the shards %v", bits)
	}
	if err := guest.SetOffers(held(model, other), nil); err != nil {
		t.Fatal(err)
	}
	await(t, "the guest that serves has offered that model alone", func() bool {
		offers := there.Known(model)
		return len(offers) == 2 && len(there.Known(other)) == 0
	})
	if len(lender.Known(model)) != 1 {
		t.Error("what guests offer is an offer for the lender's own prompts")
	}
	if lender.Guest(there.Swarm(), here.Self()) == nil || lender.Guest(there.Swarm(), there.Self()) != nil || guest.Guest(here.Swarm(), there.Self()) != nil || lender.Guest(idOf("a"), here.Self()) != nil {
		t.Error("guests are not told from others")
	}
	if !guest.Borrowed(here.Swarm()) || lender.Borrowed(there.Swarm()) || guest.Borrowed(idOf("b")) {
		t.Error("what is borrowed is not told from what is not")
	}

	// Another record: guests only use, and another model.
	next := lends(t, 2, member.Use, other)
	if err := errors.Join(there.SetBridge(next), lender.Reoffer(there.Swarm())); err != nil {
		t.Fatal(err)
	}
	await(t, "the guest hears of it", func() bool { return len(here.Known(other)) == 1 && len(here.Known(model)) <= 1 })
	if bits := here.Known(other)[0].Held(other).Bitmap; !slices.Equal(bits, []byte{1, 0}) || len(here.Known(other)[0].Takes) != 0 {
		t.Errorf("a guest is offered the shards %v", bits)
	}
	if lender.May(there.Swarm(), model) || !lender.May(there.Swarm(), other) || !lender.May(idOf("a"), model) || lender.May("nowhere", model) {
		t.Error("other models may be used than are lent")
	}
	if err := lender.Reoffer(idOf("b")); !errors.Is(err, joint.ErrUnknown) {
		t.Errorf("offered where the node is not: %v", err)
	}
}

// The network that names this node still does so after it was left and entered again, with
// another swarm and a bridge there meanwhile.
func TestFirstStays(t *testing.T) {
	t.Parallel()
	first := start(t, "a")
	j := joint.New(joint.Config{}, first)
	t.Cleanup(func() { j.Close() })
	bridge := across(t, "a", lends(t, 1, member.Use))
	if err := errors.Join(j.Add(bridge), j.Add(start(t, "c")), j.Remove(first.Swarm())); err != nil {
		t.Fatal(err)
	}
	if j.Self() == bridge.Self() {
		t.Error("the network of a bridge names the node, although it is in a swarm")
	}
	again := start(t, "a")
	if err := j.Add(again); err != nil {
		t.Fatal(err)
	}
	if all := j.All(); j.Self() != again.Self() || len(all) != 3 || all[2] != bridge {
		t.Error("another network names this node now")
	}
}

func TestNoNetworkAfterClose(t *testing.T) {
	t.Parallel()
	j := joint.New(joint.Config{}, start(t, "a"))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Add(alone(t, "b")); !errors.Is(err, joint.ErrClosed) {
		t.Errorf("a network is added to a node that has left: %v", err)
	}
}
