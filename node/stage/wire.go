package stage

import (
	"math"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// How rows are encoded on the link to the successor (doc.go, "Number formats").

const (
	rateFor   = 10 * time.Minute // after which the measured rate of a link is forgotten
	mostRates = 64               // links of which a stage keeps the rate
	q8Block   = 32               // numbers that share a scale in Q8_0
	rateFades = 7.0 / 8          // what a measurement leaves of those before it
)

// linkRate is how fast a link takes what is sent on it, while it is what limits.
type linkRate struct {
	bytes, seconds float64 // of the last chunks, older ones fading
	at             time.Time
}

// wroteChunk records how long writing a chunk to a successor took, which counts only
// while chunks follow each other without a pause: else the time is that of a buffer, or of
// a connection that has yet to gain speed.
func (s *Stage) wroteChunk(next peer.ID, bytes int, took time.Duration) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rates[next]
	if now.Sub(r.at) > rateFor {
		r = linkRate{}
	}
	if r.at.IsZero() && len(s.rates) >= mostRates {
		s.forgetRate()
	}
	s.rates[next] = linkRate{bytes: r.bytes*rateFades + float64(bytes), seconds: r.seconds*rateFades + took.Seconds(), at: now}
}

// forgetRate drops the rate that was measured longest ago. Called with mu held.
func (s *Stage) forgetRate() {
	var oldest peer.ID
	for p, r := range s.rates {
		if o, ok := s.rates[oldest]; !ok || r.at.Before(o.at) {
			oldest = p
		}
	}
	delete(s.rates, oldest)
}

// promptCodec returns the codec in which a new session's prompt is sent on: the most
// exact one of which a row is sent in the time that the route's slowest stage takes to
// compute one. A link that never was what limits is fast enough for all. Called with mu
// held.
func (s *Stage) promptCodec(o *protocol.Open, now time.Time) protocol.TensorCodec {
	switch {
	case o.PromptRows == 0:
		return o.Codec
	case o.SlowestUs == 0 || s.cfg.last() || o.Next == nil:
		return o.PromptCodec
	}
	r := s.rates[peer.ID(o.Next.Peer)]
	if r.bytes == 0 || now.Sub(r.at) > rateFor {
		return protocol.TensorCodec_TENSOR_CODEC_F32
	}
	for _, c := range []protocol.TensorCodec{protocol.TensorCodec_TENSOR_CODEC_F32, protocol.TensorCodec_TENSOR_CODEC_F16} {
		if float64(protocol.TensorSize(c, s.cfg.Width))*r.seconds/r.bytes <= float64(o.SlowestUs)/1e6 {
			return c
		}
	}
	if s.cfg.Width%q8Block != 0 {
		return protocol.TensorCodec_TENSOR_CODEC_F16
	}
	return protocol.TensorCodec_TENSOR_CODEC_Q8_0
}

// promptSentIn returns the codec of a session's prompt, for Opened.
func (sess *session) promptSentIn() protocol.TensorCodec {
	if sess.stage.cfg.last() {
		return protocol.TensorCodec_TENSOR_CODEC_F32
	}
	return sess.promptIn
}

// codecAt returns the codec of the row of a position, and the position up to which rows
// have it.
func (sess *session) codecAt(at int) (c protocol.TensorCodec, end int) {
	if n := int(sess.open.PromptRows); at < n {
		return sess.promptIn, n
	}
	return sess.open.Codec, math.MaxInt
}

// rowsOut are consecutive rows, encoded for the successor.
type rowsOut struct {
	base, end int // positions
	codec     protocol.TensorCodec
	row       int // bytes
	bytes     []byte
}

// part returns the bytes of some of the rows.
func (r rowsOut) part(from, to int) []byte { return r.bytes[(from-r.base)*r.row : (to-r.base)*r.row] }

// encode encodes the rows from a position on, each in its codec.
func (sess *session) encode(base int, x []float32) (out []rowsOut) {
	width := sess.stage.cfg.Width
	for len(x) > 0 {
		c, end := sess.codecAt(base)
		end = min(end, base+len(x)/width)
		n := (end - base) * width
		out = append(out, rowsOut{
			base: base, end: end, codec: c, row: protocol.TensorSize(c, width),
			bytes: protocol.AppendTensor(make([]byte, 0, protocol.TensorSize(c, n)), c, x[:n]),
		})
		x, base = x[n:], end
	}
	return out
}

// rounding is what a session's client has rows rounded to on links: only sessions with the
// same share prefixes.
type rounding struct {
	codec  protocol.TensorCodec
	prompt bool // the prompt's rows have a codec of their own
}

func roundingOf(o *protocol.Open) rounding { return rounding{o.Codec, o.PromptRows > 0} }

// roundings are all that there are.
func roundings() (all []rounding) {
	for c := range protocol.TensorCodec_name {
		all = append(all, rounding{protocol.TensorCodec(c), false}, rounding{protocol.TensorCodec(c), true})
	}
	return all
}
