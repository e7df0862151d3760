package scenario

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"time"
)

// Moment is a time since the beginning of the faults; in JSON, in seconds.
type Moment time.Duration

func moment(d time.Duration) Moment { return Moment(d) }

func (m Moment) String() string { return strconv.FormatFloat(m.seconds(), 'f', 1, 64) + " s" }

func (m Moment) seconds() float64 { return time.Duration(m).Seconds() }

// MarshalJSON writes seconds, to the millisecond.
func (m Moment) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(time.Duration(m).Milliseconds())/1000, 'f', -1, 64), nil
}

// clock counts from a beginning.
type clock struct{ begin time.Time }

func (c clock) now() Moment { return Moment(time.Since(c.begin)) }

// Question is what a session asks.
type Question struct {
	Prompt      string // as it is, without a chat template
	MaxTokens   int
	Temperature float64
	Seed        uint64
}

// Token of an answer, as it came.
type Token struct {
	Index int // in the answer, from 0; < 0: unknown
	ID    int32
}

// Answer is how an answer ended.
type Answer struct {
	Text       string
	Cached     int // positions of the prompt reused from an earlier session
	Recoveries []Recovery
}

// Recovery is a repair of an answer's route.
type Recovery struct {
	Why      string   `json:"why"`
	Token    int      `json:"token"` // tokens before the repair
	StallMs  float64  `json:"stall_ms"`
	Replayed int      `json:"replayed"` // positions computed again
	Lost     []string `json:"lost,omitempty"`
}

// Asker sends prompts to the network. Refused reports whether an error is a refusal: the
// network declined before it began the answer.
type Asker interface {
	Ask(ctx context.Context, q Question, emit func(Token)) (Answer, error)
	Refused(err error) bool
}

// Came is a token of a session.
type Came struct {
	At Moment
	Token
}

// MarshalJSON writes seconds, index and token.
func (c Came) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{c.At, c.Index, c.ID})
}

// Session is the record of one answer.
type Session struct {
	ID         int        `json:"session"`
	Worker     int        `json:"worker"` // from 1
	Prompt     int        `json:"prompt"` // of Scenario.Sessions.Prompts
	Begin      Moment     `json:"begin_s"`
	End        Moment     `json:"end_s"`
	Tokens     []Came     `json:"tokens"`
	Text       string     `json:"text"`
	Cached     int        `json:"kept,omitempty"` // as Answer has it
	Recoveries []Recovery `json:"recoveries,omitempty"`
	Finished   bool       `json:"finished"`
	Refused    bool       `json:"refused,omitempty"`
	Cancelled  bool       `json:"cancelled,omitempty"` // by the caller, before its end
	Error      string     `json:"error,omitempty"`
}

// book records sessions.
type book struct {
	clock clock
	mu    sync.Mutex
	all   []*Session
}

// ask asks one question and records the session.
func (b *book) ask(ctx context.Context, a Asker, worker, prompt int, q Question) *Session {
	s := &Session{Worker: worker, Prompt: prompt, Begin: b.clock.now()}
	b.mu.Lock()
	s.ID = len(b.all) + 1
	b.all = append(b.all, s)
	b.mu.Unlock()
	answer, err := a.Ask(ctx, q, func(t Token) { s.Tokens = append(s.Tokens, Came{b.clock.now(), t}) })
	s.End, s.Text, s.Cached, s.Recoveries = b.clock.now(), answer.Text, answer.Cached, answer.Recoveries
	switch {
	case err == nil:
		s.Finished = true
	case ctx.Err() != nil:
		s.Cancelled, s.Error = true, context.Cause(ctx).Error()
	default:
		s.Error, s.Refused = err.Error(), len(s.Tokens) == 0 && a.Refused(err)
	}
	return s
}
