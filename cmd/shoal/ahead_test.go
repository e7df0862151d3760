package main

import (
	"bytes"
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/api"
	nodepage "github.com/shoalnet/shoal/node/page"
)

// What guesses brought is shown under an answer, among its times, and in what `top` and
// `status` say of a node; where none were sent, nothing is said.
func TestAheadShown(t *testing.T) {
	for want, a := range map[string]*api.Ahead{
		"":                           nil,
		"1 guess sent ahead, 0 kept": {Sent: 1},
		"12 guesses sent ahead, 9 kept, 2.4 times as fast":  {Sent: 12, Kept: 9, Gain: 2.43},
		"300 guesses sent ahead, 0 kept, 1.0 times as fast": {Sent: 300, Gain: 0.98},
	} {
		var under, times, status bytes.Buffer
		s := &shower{out: &times, err: &times}
		s.result.Ahead, s.result.Route = a, []api.Hop{{Peer: "p", To: 4}, {Peer: "q", From: 4, To: 8}}
		under.WriteString(s.summary())
		if err := s.times(); err != nil {
			t.Fatal(err)
		}
		f := &facts{out: &status}
		statusNode(f, &api.Status{Peer: "p", Ahead: a}, false)
		if err := f.Flush(); err != nil {
			t.Fatal(err)
		}
		for where, text := range map[string]string{
			"the line under an answer": under.String(), "its times": times.String(), "status": status.String(),
			"top": strings.Join(draw(look{Ahead: a}, nil, 100, 0, false), "\n"),
		} {
			if strings.Contains(text, "ahead") != (a != nil) || a != nil && !strings.Contains(text, want) {
				t.Errorf("%q is not in %s:\n%s", want, where, text)
			}
		}
	}
}

// copying is a node whose answers were guessed.
type copying struct{ hostile }

func (copying) Generate(_ context.Context, _ *api.GenerateRequest, emit func(api.Event) error) error {
	for _, e := range []api.Event{
		{Start: &api.Start{Model: "bafy", Name: "model", Route: []api.Hop{{Peer: "p", To: 4}, {Peer: "q", From: 4, To: 8}}}},
		{Token: &api.Token{Text: "the same again"}},
		{Done: &api.Done{FinishReason: "stop", Tokens: 10, TokensPerS: 20, Ahead: &api.Ahead{Sent: 12, Kept: 9, Gain: 2.43}}},
	} {
		if err := emit(e); err != nil {
			return err
		}
	}
	return nil
}

// The page shows under an answer what guesses brought.
func TestPageAhead(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(api.New(api.Config{Generator: copying{}, Viewer: hostile{}, Page: nodepage.Handler()}))
	t.Cleanup(srv.Close)
	b := browse(t, srv.URL+"/")
	b.until(30*time.Second, "the view is drawn", `document.querySelectorAll("#picture .fish").length === 1`)
	b.press("Once more.")
	b.enter()
	b.until(30*time.Second, "the guesses are shown", `document.querySelector("#messages li.assistant:last-child .wake")?.innerText.includes("12 guesses sent ahead, 9 kept, 2.4 times as fast")`)
	b.check()
}
