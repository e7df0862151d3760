package swarm

import (
	"sync/atomic"
	"testing"
	"time"

	libp2p "github.com/libp2p/go-libp2p/core/network"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// trio is a founder and two members, all connected.
func trio(t *testing.T) (anna, ben, carl *machine, home, b, c *Swarm) {
	t.Helper()
	anna, ben, carl = newMachine(t, "anna").runs(), newMachine(t, "ben").runs(), newMachine(t, "carl").runs()
	home = anna.found("lab")
	b = ben.join(code(t, home, once))
	terms := once
	terms.Roles = member.Use
	c = carl.join(code(t, home, terms))
	eventually(t, "all are connected", func() bool {
		return home.State().Connected == 2 && b.State().Connected == 2 && c.State().Connected == 2
	})
	eventually(t, "all have compared lists", func() bool {
		return !home.attached().agreeingAny() && !b.attached().agreeingAny() && !c.attached().agreeingAny()
	})
	return anna, ben, carl, home, b, c
}

func (r *running) agreeingAny() bool {
	r.agreeing.mu.Lock()
	defer r.agreeing.mu.Unlock()
	return len(r.agreeing.of) > 0
}

// A member that keeps another busy does not keep from it that it was revoked.
func TestABusyMemberHearsOfARevocation(t *testing.T) {
	_, ben, carl, home, b, c := trio(t)
	h := carl.nets[c].Host()
	for range 2 * atOnce {
		go func() {
			for t.Context().Err() == nil && len(h.Network().ConnsToPeer(b.Self())) > 0 {
				st, err := h.NewStream(libp2p.WithNoDial(t.Context(), "test"), b.Self(), protocol.MemberID)
				if err != nil { // it has as many as it may
					time.Sleep(10 * time.Millisecond)
					continue
				}
				_, _ = st.Write([]byte{200, 1}) // the beginning of a request
				_, _ = st.Read(make([]byte, 1))
				_ = st.Reset()
			}
		}()
	}
	eventually(t, "requests come", func() bool { return len(b.attached().serving) > 0 })
	if _, _, err := home.Revoke(c.Self().String()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is cut off", func() bool { return len(ben.nets[b].Host().Network().ConnsToPeer(c.Self())) == 0 })
}

// A list that a member does not take is passed on to it again, although it stays connected.
func TestAListIsPassedOnUntilItArrives(t *testing.T) {
	_, ben, _, home, b, c := trio(t)
	host, run := ben.nets[b].Host(), b.attached()
	var refused atomic.Int32
	host.SetStreamHandler(protocol.MemberID, func(st libp2p.Stream) {
		if st.Conn().RemotePeer() != home.Self() || refused.Add(1) <= 2 {
			_ = st.Reset()
			return
		}
		run.serve(st)
	})
	if _, _, err := home.Revoke(c.Self().String()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the list arrives", func() bool {
		return len(host.Network().ConnsToPeer(c.Self())) == 0 && string(b.listBytes()) == string(home.listBytes())
	})
}
