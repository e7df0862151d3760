package stage

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/protocol"
)

// A stage sleeps only when no session has used it for long enough, probes aside. An Open
// wakes it, and waits for a short load; of a long one it is told when to come again.
func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		takes, wakes := time.Second, 0
		var s *Stage
		waken := func() (<-chan struct{}, time.Duration) {
			wakes++
			over := make(chan struct{})
			time.AfterFunc(takes, func() { s.Wake(); close(over) })
			return over, takes
		}
		s = New(Config{
			Model: protocol.ModelKey(cid.Undef), Span: protocol.Span{From: 0, To: 4}, Blocks: 4, Width: 8, Vocab: 100,
			KVTokens: 1000, MaxSeqs: 3, MaxBatch: 128, MaxContext: 600, Silence: time.Hour, Dir: t.TempDir(), Waken: waken,
		}, idle{}, nobody{})
		defer s.Close(errors.New("the test is over"))
		used := func(tokens int, id byte) {
			sess, _, refused := s.admit(open(tokens, id), sink{"a"})
			if refused != nil {
				t.Fatal(refused)
			}
			if s.Sleep(0) {
				t.Fatal("it sleeps beside a session")
			}
			sess.end(nil)
			<-sess.gone
		}
		time.Sleep(time.Minute)
		used(100, 1)
		if s.Sleep(time.Second) {
			t.Error("it sleeps at once after a session")
		}
		time.Sleep(time.Minute)
		used(probeTokens, 2)
		if !s.Sleep(time.Minute) {
			t.Fatal("a probe keeps it awake")
		}
		if e := s.awaken(open(0, 3), "a"); e == nil || wakes != 0 {
			t.Errorf("a session that would be refused wakes it: %v", e)
		}
		if e := s.awaken(open(100, 3), "a"); e != nil || wakes != 1 {
			t.Errorf("a short load: %v", e)
		}
		used(100, 4)
		time.Sleep(time.Minute)
		if takes = time.Minute; !s.Sleep(time.Second) {
			t.Fatal("it does not sleep again")
		}
		if e := s.awaken(open(100, 5), "a"); e == nil || !e.Loading || e.Code != protocol.Code_CODE_BUSY || e.RetryAfter != takes {
			t.Errorf("a long load: %+v", e)
		}
		time.Sleep(takes)
		used(100, 6)
		time.Sleep(time.Minute)
		if takes = time.Second; !s.Sleep(time.Second) {
			t.Fatal("it does not sleep a third time")
		}
		among := open(100, 7)
		among.Stages, among.Next = 2, &protocol.Hop{}
		if e := s.awaken(among, "a"); e == nil || !e.Loading {
			t.Errorf("other stages wait for a second: %v", e)
		}
	})
}

// Prefixes that nobody comes back for are given up.
func TestPrefixesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.mu.Lock()
		s.free = s.free[1:]
		s.kept, s.kvKept = []*kept{{since: time.Now(), tokens: 64, seq: 2}}, 64
		s.mu.Unlock()
		time.Sleep(keptMost - time.Minute)
		if st := s.Status(); st.KVKept != 64 {
			t.Errorf("soon after: %d cells are kept", st.KVKept)
		}
		time.Sleep(2 * time.Minute)
		if st := s.Status(); st.KVKept != 0 {
			t.Errorf("%d cells are still kept", st.KVKept)
		}
		s.Close(errors.New("the test is over"))
	})
}
