package api

import (
	"context"
	"encoding/json"
	"math"
	"strconv"
	"time"
)

// keepAlive reads Ollama's keep_alive: how long a model stays loaded after its last use.
// It is a number of seconds, or a text such as "5m"; a text may be a number as well.
// Negative: for ever; nil: the request has none.
func keepAlive(raw json.RawMessage) (*time.Duration, error) {
	text := string(plainJSON(raw))
	switch first(raw) {
	case 0, 'n':
		return nil, nil
	case '"':
		if err := decodeAt("keep_alive", raw, &text); err != nil {
			return nil, err
		}
		if text == "" {
			return nil, nil
		}
		if d, err := time.ParseDuration(text); err == nil {
			return &d, nil
		}
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(seconds) {
		return nil, badParam("keep_alive", `must be a number of seconds or a duration such as "5m": 0 unloads the model, and a negative one keeps it loaded`)
	}
	d := time.Duration(-1)
	if seconds >= 0 && seconds < math.MaxInt64/float64(time.Second) { // longer is for ever
		d = time.Duration(seconds * float64(time.Second))
	}
	return &d, nil
}

// keeps notes how long a model stays loaded that a request has used; nil: as it is.
func (s *server) keeps(model string, kept *time.Duration) {
	if kept != nil && s.Controller != nil {
		s.Controller.Keep(model, *kept)
	}
}

// loads loads or unloads the model that a request without a prompt names, and returns
// which of the two, in Ollama's words. The caller's key must be for the model, as if it
// were to answer.
func (s *server) loads(ctx context.Context, name string, kept *time.Duration) (m *Model, reason string, err error) {
	if name, err = visitOf(ctx).modelFor(name); err != nil {
		return nil, "", err
	}
	if m, err = s.described(ctx, name); err != nil {
		return nil, "", err
	}
	if kept != nil && *kept == 0 {
		if s.Controller != nil {
			s.Controller.Unload(ctx, m.ID)
		}
		return m, "unload", nil
	}
	if s.Controller != nil {
		if err := s.Controller.Load(ctx, m.ID); err != nil {
			return nil, "", err
		}
	}
	s.keeps(m.ID, kept)
	return m, "load", nil
}
