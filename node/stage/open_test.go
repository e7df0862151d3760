package stage

import (
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/protocol"
)

// idle is an engine that nothing is asked of.
type idle struct{}

func (idle) Run(context.Context, *engine.Batch) (*engine.Result, error) {
	return nil, errors.New("no pass was due")
}
func (idle) Remove(int, int32) error          { return nil }
func (idle) CopyPrefix(int, int, int32) error { return nil }

// nobody is where no peer can be reached.
type nobody struct{}

func (nobody) OpenStage(context.Context, string, peer.ID, []byte) (Stream, error) {
	return nil, errors.New("nobody is there")
}

// sink is a client's stream that takes all and says nothing.
type sink struct{ from peer.ID }

func (sink) Read([]byte) (int, error)      { return 0, io.EOF }
func (sink) Write(b []byte) (int, error)   { return len(b), nil }
func (sink) Close() error                  { return nil }
func (sink) Reset() error                  { return nil }
func (sink) SetDeadline(t time.Time) error { return nil }
func (s sink) Relayed() bool               { return false }
func (s sink) Better() <-chan struct{}     { return nil }
func (s sink) Peer() peer.ID               { return s.from }
func (sink) Protocol() string              { return protocol.StageID }
func (sink) Swarm() string                 { return "" }

func open(tokens int, id byte) *protocol.Open {
	return &protocol.Open{
		Session: append(make([]byte, 15), id), From: 0, To: 4, Stages: 1, MaxTokensTotal: uint32(tokens),
		Sampling: &protocol.Sampling{Temperature: 0.7, PromptTokens: 3, MaxTokens: 5},
	}
}

func newStage(t *testing.T) *Stage {
	s := New(Config{
		Model: protocol.ModelKey(cid.Undef), Span: protocol.Span{From: 0, To: 4}, Blocks: 4, Width: 8, Vocab: 100,
		KVTokens: 1000, MaxSeqs: 3, MaxBatch: 128, MaxContext: 600, Silence: time.Minute, Dir: t.TempDir(),
	}, idle{}, nobody{})
	t.Cleanup(func() { s.Close(errors.New("the test is over")) })
	return s
}

// TestOpenRefused: whatever an Open gets wrong is refused with a code and a
// reason, and takes nothing.
func TestOpenRefused(t *testing.T) {
	nan := float32(math.NaN())
	s := newStage(t)
	for name, c := range map[string]struct {
		change func(*protocol.Open)
		code   protocol.Code
		says   string
	}{
		"short ID":        {func(o *protocol.Open) { o.Session = o.Session[1:] }, protocol.Code_CODE_BAD_REQUEST, "16 bytes"},
		"no stages":       {func(o *protocol.Open) { o.Stages = 0 }, protocol.Code_CODE_BAD_REQUEST, "0 stages"},
		"many stages":     {func(o *protocol.Open) { o.Stages = protocol.MaxStages + 1 }, protocol.Code_CODE_BAD_REQUEST, "stages"},
		"other blocks":    {func(o *protocol.Open) { o.To = 3 }, protocol.Code_CODE_NOT_SERVING, "0-3"},
		"no tokens":       {func(o *protocol.Open) { o.MaxTokensTotal = 0 }, protocol.Code_CODE_BAD_REQUEST, "no tokens"},
		"too long":        {func(o *protocol.Open) { o.MaxTokensTotal = 601 }, protocol.Code_CODE_TOO_LONG, "601"},
		"absurdly long":   {func(o *protocol.Open) { o.MaxTokensTotal = math.MaxUint32 }, protocol.Code_CODE_TOO_LONG, "tokens"},
		"no successor":    {func(o *protocol.Open) { o.Stages = 2 }, protocol.Code_CODE_BAD_REQUEST, "successor"},
		"unknown codec":   {func(o *protocol.Open) { o.Codec = 99 }, protocol.Code_CODE_BAD_REQUEST, "codec 99"},
		"prompt's codec":  {func(o *protocol.Open) { o.PromptCodec = 99 }, protocol.Code_CODE_BAD_REQUEST, "codec 99"},
		"prompt too long": {func(o *protocol.Open) { o.PromptRows = 101 }, protocol.Code_CODE_BAD_REQUEST, "101 rows"},
		"halves of Q8_0":  {func(o *protocol.Open) { o.Codec = protocol.TensorCodec_TENSOR_CODEC_Q8_0 }, protocol.Code_CODE_BAD_REQUEST, "32 numbers"},
		"in the prompt":   {func(o *protocol.Open) { o.PromptCodec = protocol.TensorCodec_TENSOR_CODEC_Q8_0 }, protocol.Code_CODE_BAD_REQUEST, "32 numbers"},
		"long prefix":     {func(o *protocol.Open) { o.Prefix = make([]uint64, 1000) }, protocol.Code_CODE_BAD_REQUEST, "prefix"},
		"no sampling":     {func(o *protocol.Open) { o.Sampling = nil }, protocol.Code_CODE_BAD_REQUEST, "sample"},
		"NaN":             {func(o *protocol.Open) { o.Sampling.Temperature = nan }, protocol.Code_CODE_BAD_REQUEST, "temperature"},
		"negative":        {func(o *protocol.Open) { o.Sampling.TopP = -1 }, protocol.Code_CODE_BAD_REQUEST, "top_p"},
		"infinite":        {func(o *protocol.Open) { o.Sampling.PresencePenalty = float32(math.Inf(1)) }, protocol.Code_CODE_BAD_REQUEST, "presence_penalty"},
		"alternatives":    {func(o *protocol.Open) { o.Sampling.TopLogprobs = 65 }, protocol.Code_CODE_BAD_REQUEST, "top_logprobs"},
		"foreign history": {func(o *protocol.Open) { o.Sampling.History = []int32{100} }, protocol.Code_CODE_BAD_REQUEST, "vocabulary"},
		"foreign answer":  {func(o *protocol.Open) { o.Sampling.Sampled = []int32{-1} }, protocol.Code_CODE_BAD_REQUEST, "vocabulary"},
		"short tag key":   {func(o *protocol.Open) { o.TagKey = make([]byte, 15) }, protocol.Code_CODE_BAD_REQUEST, "tag_key"},
		"a format":        {func(o *protocol.Open) { o.Sampling.Format = []*protocol.Piece{{}} }, protocol.Code_CODE_NOT_SERVING, "format"},
		"stop tokens":     {func(o *protocol.Open) { o.Sampling.StopIds = make([]int32, 1025) }, protocol.Code_CODE_BAD_REQUEST, "stop"},
	} {
		t.Run(name, func(t *testing.T) {
			o := open(100, 1)
			c.change(o)
			_, _, refused := s.admit(o, sink{"a"})
			if refused == nil || refused.Code != c.code || !strings.Contains(refused.Message, c.says) {
				t.Errorf("%v, want code %v that says %q", refused, c.code, c.says)
			}
			if st := s.Status(); st.Sessions != 0 || st.KVFree != 1000 {
				t.Errorf("something was taken: %+v", st)
			}
		})
	}
}

// formats takes what is text, and goes on from nothing but it.
type formats struct{}

func (formats) Compile(format []*protocol.Piece, _ []int32) (Format, error) {
	if format[0].GetText() == "" {
		return nil, errors.New("no text")
	}
	return formats{}, nil
}

func (formats) Allowed(sampled []int32) ([]uint64, error) {
	if len(sampled) > 0 {
		return nil, errors.New("does not follow")
	}
	return []uint64{1}, nil
}

// TestFormatRefused: so is a format that cannot be read, or that the answer so
// far does not follow.
func TestFormatRefused(t *testing.T) {
	s := newStage(t)
	s.cfg.Formats = formats{}
	text := func(n int) []*protocol.Piece {
		return []*protocol.Piece{{Kind: &protocol.Piece_Text{Text: strings.Repeat("x", n)}}}
	}
	for says, change := range map[string]func(*protocol.Sampling){
		"no text":         func(p *protocol.Sampling) { p.Format = text(0) },
		"128 are":         func(p *protocol.Sampling) { p.Format = text(protocol.MaxFormat) },
		"end the answer":  func(p *protocol.Sampling) { p.Format, p.StopIds = text(1), nil },
		"does not follow": func(p *protocol.Sampling) { p.Format, p.Sampled = text(1), []int32{3} },
	} {
		o := open(100, 1)
		o.Sampling.StopIds = []int32{1}
		change(o.Sampling)
		if _, _, refused := s.admit(o, sink{"a"}); refused == nil || refused.Code != protocol.Code_CODE_BAD_REQUEST || !strings.Contains(refused.Message, says) {
			t.Errorf("%v, want %q", refused, says)
		}
	}
	if st := s.Status(); st.Sessions != 0 {
		t.Errorf("something was taken: %+v", st)
	}
	o := open(100, 1)
	o.Sampling.StopIds, o.Sampling.Format = []int32{1}, text(1)
	if sess, _, refused := s.admit(o, sink{"a"}); refused != nil || sess.format == nil {
		t.Errorf("%v", refused)
	}
}

// TestAdmission: KV tokens and slots are what a session costs, by what it will
// probably use, and come back when it ends; who finds no room is told when to
// come again.
func TestAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		admit := func(tokens, begun int, id byte) (*session, *protocol.Error) {
			o := open(tokens, id)
			o.Prefix = make([]uint64, begun/protocol.PrefixBlock)
			sess, _, refused := s.admit(o, sink{"a"})
			return sess, refused
		}
		first, refused := admit(600, 0, 1) // its first block, and half of the rest
		if refused != nil || s.Status().KVFree != 1000-32-284 {
			t.Fatal(refused, s.Status())
		}
		if _, refused = admit(600, 512, 2); refused != nil || s.Status().KVFree != 1000-32-284-544-28 {
			t.Fatal(refused, s.Status())
		}
		if _, refused = admit(300, 0, 3); refused == nil || refused.Code != protocol.Code_CODE_BUSY || refused.RetryAfter <= 0 {
			t.Errorf("166 tokens where 112 are free: %v", refused)
		}
		if _, refused = admit(10, 0, 1); refused == nil || refused.Code != protocol.Code_CODE_BAD_REQUEST {
			t.Errorf("a session that is open already: %v", refused)
		}
		if _, refused = admit(10, 0, 4); refused != nil {
			t.Fatal(refused)
		}
		if _, refused = admit(10, 0, 5); refused == nil || refused.Code != protocol.Code_CODE_BUSY {
			t.Errorf("a fourth session where three have slots: %v", refused)
		}
		first.end(nil)
		<-first.gone
		if st := s.Status(); st.Sessions != 2 || st.KVFree != 1000-544-28-10 {
			t.Errorf("after one has ended: %+v", st)
		}
		if _, refused = admit(300, 0, 6); refused != nil {
			t.Errorf("what came free is not given: %v", refused)
		}
		s.Drain(true)
		if _, refused = admit(10, 0, 7); refused == nil || refused.Code != protocol.Code_CODE_DRAINING {
			t.Errorf("a node that drains: %v", refused)
		}
	})
}

// TestGather: decodes go before prefill, one chunk goes along with them, and who
// has waited longest is first.
func TestGather(t *testing.T) {
	s := newStage(t)
	s.cancel(errors.New("the loop is this test")) // so that nobody else gathers
	<-s.done
	var sessions []*session
	s.mu.Lock()
	for i, rows := range []int{64, 1, 64, 1} {
		o := open(200, byte(i))
		sess := newSession(s, key{[16]byte(o.Session), 0}, o, sink{"a"}, i)
		s.sessions[sess.key] = sess
		sessions = append(sessions, sess)
		s.turn++
		sess.pending = []*step{{rows: rows, turn: s.turn}}
		sess.decoding = rows == 1
	}
	s.mu.Unlock()
	order := func() (out []int) {
		batch, _, _, _ := s.gather()
		at := 0
		for _, w := range batch {
			if w.at != at {
				t.Errorf("a step begins at row %d, not %d", w.at, at)
			}
			at += w.step.rows
			for i, sess := range sessions {
				if sess == w.sess {
					out = append(out, i)
				}
			}
		}
		return out
	}
	if got := order(); len(got) != 3 || got[0] != 1 || got[1] != 3 || got[2] != 0 {
		t.Errorf("the first pass takes %v, want decodes 1 and 3, and the chunk of 0", got)
	}
	if got := order(); len(got) != 1 || got[0] != 2 {
		t.Errorf("the second pass takes %v, want the chunk of 2", got)
	}
	if got := order(); len(got) != 0 {
		t.Errorf("a third pass takes %v, where nothing is left", got)
	}
}

// TestOvertaken: a Halt or Resume that a later Halt has overtaken is dropped, and
// does not end the session.
func TestOvertaken(t *testing.T) {
	s := newStage(t)
	o := open(100, 1)
	o.Wait, o.Epoch = true, 3
	sess, _, refused := s.admit(o, sink{"a"})
	if refused != nil {
		t.Fatal(refused)
	}
	if err := sess.takeHalt(&protocol.Halt{Epoch: 5}); err != nil {
		t.Fatal(err)
	}
	for epoch := uint64(1); epoch < 5; epoch++ {
		if err := errors.Join(sess.resume(&protocol.Resume{Epoch: epoch, Stages: 1}), sess.takeHalt(&protocol.Halt{Epoch: epoch})); err != nil {
			t.Errorf("epoch %d after 5: %v", epoch, err)
		}
	}
	if !sess.halted || sess.epoch != 5 {
		t.Errorf("halted %v, in epoch %d", sess.halted, sess.epoch)
	}
	if sess.resume(&protocol.Resume{Epoch: 6, Stages: 1}) == nil {
		t.Error("an epoch that has not begun is resumed")
	}
	if err := sess.resume(&protocol.Resume{Epoch: 5, Stages: 1}); err != nil || sess.halted {
		t.Errorf("epoch 5 is not resumed: %v", err)
	}
	if sess.resume(&protocol.Resume{Epoch: 5, Stages: 1}) == nil {
		t.Error("what runs is resumed")
	}
}

// TestLinkLostLate: a link that ends after it was replaced is not reported as if
// the new one had ended.
func TestLinkLostLate(t *testing.T) {
	s := newStage(t)
	o := open(100, 1)
	o.Wait, o.Epoch = true, 3
	sess, _, refused := s.admit(o, sink{"a"})
	if refused != nil {
		t.Fatal(refused)
	}
	reported := func() (n int) {
		sess.client.mu.Lock()
		defer sess.client.mu.Unlock()
		for _, f := range sess.client.queue {
			if f.kind == lostPredecessor || f.kind == lostSuccessor {
				n++
			}
		}
		return n
	}
	sess.client = newSender(nil, func(error) {}, func() {}, sess.sent)
	if err := errors.Join(sess.takeHalt(&protocol.Halt{Epoch: 5}), sess.resume(&protocol.Resume{Epoch: 5, Stages: 1})); err != nil {
		t.Fatal(err)
	}
	for _, successor := range []bool{false, true} {
		sess.linkLost(3, successor, io.EOF)
		if n := reported(); n != 0 {
			t.Errorf("successor %v: the loss of a link of an earlier epoch is reported", successor)
		}
	}
	for i, successor := range []bool{false, true} {
		sess.linkLost(5, successor, io.EOF)
		if n := reported(); n != i+1 {
			t.Errorf("successor %v: %d losses of links are reported, want %d", successor, n, i+1)
		}
	}
}
