package protocol

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The protocols between nodes, as libp2p names them.
const (
	DHTPrefix = "/shoal"           // the Kademlia DHT and bitswap live under it
	OffersID  = "/shoal/offers/1"  // ask for signed offers
	StatusID  = "/shoal/status/1"  // ask for load, now
	StageID   = "/shoal/stage/2"   // sessions
	StageID1  = "/shoal/stage/1"   // the same, of links without credits
	LeavesID  = "/shoal/leaves/1"  // leaves in bulk
	HeadingID = "/shoal/heading/1" // manifests and headers of models, over relays, too
	ReachID   = "/shoal/reach/1"   // help with being reached
	JoinID    = "/shoal/join/1"    // redeem an invitation into a private swarm
	MemberID  = "/shoal/member/1"  // among its members: revocation lists, names, renewals

	SwarmTLSID = "/shoal/tls/1" // TLS with the membership in a private swarm, on TCP and relayed connections

	ProbeTime = 3 * time.Second // the most a status or offer request may take
)

// ResetRelayed is the code with which a stream for bulk, or of the DHT, is reset where
// it crosses a relay: those carry small messages, headings and sessions.
const ResetRelayed = 0x7301

// Sizes, in bytes unless said otherwise.
const (
	LeafSize       = 1 << 20   // a leaf, at most
	MaxManifest    = 1 << 20   // a manifest's block
	MaxExtents     = 1 << 16   // extents of a manifest's shards together
	MaxTensors     = 1 << 16   // tensors of a manifest
	MaxOffer       = 8 << 10   // a signed offer
	MaxOffersReply = 64        // offers in one reply
	MaxHearsay     = 64 << 10  // of those, the offers of others, for an asker that says how many it wants
	MaxHeader      = 1 << 20   // a frame's protobuf header
	MaxFirst       = 192 << 10 // of it, in a stream's first frame
	MaxOpenPrefix  = 3584      // prefix hashes of an Open; Pings carry the rest
	MaxPayload     = 16 << 20  // a frame's payload
	MaxRows        = 512       // rows of a step
	MaxLinkRows    = 64        // of one that a stage sends on a link with credits
	MaxScored      = 12 << 10  // tokens of a prompt whose log probabilities are wanted
	MaxStages      = 64        // stages of a route
	MaxTrace       = 55        // a session's trace context
	MaxFormat      = 128 << 10 // the format of an answer
	BucketBlocks   = 16        // blocks that share a provider key
	MaxMachineName = 63        // a machine's name
	MaxEmbedTexts  = 2048      // texts of a session of embeddings
	MaxEmbedRows   = 1 << 17   // their tokens together
	MaxEmbedText   = 1 << 15   // tokens of one of them
	MaxReadings    = 256       // readings of a session
	MaxLabels      = 64        // labels of a reading
	MaxReadRows    = 1 << 16   // rows of a session of readings, beyond those of its longest sequence
)

// Span is a run of consecutive blocks [From, To).
type Span struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// Len is the number of blocks.
func (s Span) Len() int { return s.To - s.From }

// Contains says that all of t lies in s.
func (s Span) Contains(t Span) bool { return s.From <= t.From && t.To <= s.To }

// Overlaps reports that s and t have a block in common.
func (s Span) Overlaps(t Span) bool { return s.From < t.To && t.From < s.To }

// Valid says that s is a non-empty span of a model of so many blocks.
func (s Span) Valid(blocks int) bool { return 0 <= s.From && s.From < s.To && s.To <= blocks }

// String writes the span as people type it: "10-20" is [10, 20).
func (s Span) String() string { return fmt.Sprintf("%d-%d", s.From, s.To) }

// ParseSpan reads "10-20" as [10, 20). Its error says how a span is written.
func ParseSpan(text string) (Span, error) {
	from, to, ok := strings.Cut(text, "-")
	a, err1 := strconv.Atoi(strings.TrimSpace(from))
	b, err2 := strconv.Atoi(strings.TrimSpace(to))
	if !ok || err1 != nil || err2 != nil || a < 0 || b <= a {
		return Span{}, fmt.Errorf("span %q: write it as FROM-TO, for instance 0-10 for the first ten blocks", text)
	}
	return Span{a, b}, nil
}

// Uncovered lists the runs of blocks of [0, blocks) that no span covers.
func Uncovered(blocks int, spans []Span) []Span {
	have := make([]bool, max(0, blocks))
	for _, s := range spans {
		for i := max(0, s.From); i < min(s.To, blocks); i++ {
			have[i] = true
		}
	}
	var gaps []Span
	for i := 0; i < blocks; i++ {
		if have[i] {
			continue
		}
		from := i
		for i < blocks && !have[i] {
			i++
		}
		gaps = append(gaps, Span{from, i})
	}
	return gaps
}

// Error is a refusal or failure as it crosses the wire.
type Error struct {
	Code       Code
	Message    string
	RetryAfter time.Duration // 0: no point in asking again, or unknown
	Loading    bool          // with CODE_BUSY: what was asked for is being loaded, and is there after RetryAfter
}

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string { return cmp.Or(e.Message, e.Code.Text()) }

// Is lets errors.Is find an Error by its code alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Message == "" && t.Code == e.Code
}

// Fail is the error as a frame.
func (e *Error) Fail() *Frame {
	return &Frame{Kind: &Frame_Fail{Fail: &Fail{
		Code: e.Code, Message: clip(e.Message, 512), RetryAfterMs: uint32(e.RetryAfter.Milliseconds()), Loading: e.Loading,
	}}}
}

// FailError is the frame as an error. The text of a peer is clipped and
// stripped of control characters.
func FailError(f *Fail) *Error {
	return &Error{Code: f.GetCode(), Message: clip(f.GetMessage(), 512),
		RetryAfter: time.Duration(min(f.GetRetryAfterMs(), 3_600_000)) * time.Millisecond, Loading: f.GetLoading()}
}

func clip(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '�' {
			return ' '
		}
		return r
	}, s)
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}

// Name is a code in one lower-case word, of a fixed set: what a peer sends that
// is no code of ours is "unknown".
func (c Code) Name() string {
	name, ok := Code_name[int32(c)]
	if !ok {
		name = Code_CODE_UNKNOWN.String()
	}
	return strings.ToLower(strings.TrimPrefix(name, "CODE_"))
}

// Text says a code in words.
func (c Code) Text() string {
	switch c {
	case Code_CODE_BAD_REQUEST:
		return "the request was malformed"
	case Code_CODE_NOT_SERVING:
		return "the peer does not serve this span"
	case Code_CODE_BUSY:
		return "the peer has no room for another session"
	case Code_CODE_TOO_LONG:
		return "the session is longer than the peer accepts"
	case Code_CODE_DRAINING:
		return "the peer is leaving"
	case Code_CODE_ENGINE:
		return "the peer's engine failed"
	case Code_CODE_PEER_LOST:
		return "a peer of the route was lost"
	case Code_CODE_STALE_EPOCH:
		return "the epoch is over"
	case Code_CODE_INTERNAL:
		return "the peer failed"
	case Code_CODE_FORBIDDEN:
		return "the peer does not lend to this node"
	case Code_CODE_TIMEOUT:
		return "the peer took too long"
	}
	return "unknown failure"
}
