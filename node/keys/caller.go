package keys

import (
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/api"
)

// A key is an api.Caller.

// Name implements api.Caller.
func (k *key) Name() string { return k.name }

// Admit implements api.Caller.
func (k *key) Admit() error {
	now := time.Now()
	if k.pace != nil {
		r := k.pace.ReserveN(now, 1)
		if wait := r.DelayFrom(now); wait > 0 {
			r.CancelAt(now)
			return limited(wait, "the key %s may send %d requests per minute", k.name, k.RequestsPerMinute)
		}
	}
	k.use(now, api.KeyUsage{Requests: 1})
	return nil
}

// Begin implements api.Caller.
func (k *key) Begin() (end func(prompt, answer int), err error) {
	now := time.Now()
	k.book.mu.Lock()
	defer k.book.mu.Unlock()
	k.turn(now)
	used := k.usage.Today.PromptTokens + k.usage.Today.AnswerTokens
	switch {
	case k.TokensPerDay > 0 && used >= k.TokensPerDay:
		tomorrow := now.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
		return nil, limited(tomorrow.Sub(now), "the key %s has used %d tokens today, and may use %d", k.name, used, k.TokensPerDay)
	case k.Sessions > 0 && k.running >= k.Sessions:
		return nil, limited(time.Second, "the key %s may have %d answers at the same time", k.name, k.Sessions)
	}
	k.running++
	return func(prompt, answer int) {
		k.book.mu.Lock()
		k.running--
		k.book.mu.Unlock()
		k.use(time.Now(), api.KeyUsage{PromptTokens: int64(prompt), AnswerTokens: int64(answer)})
	}, nil
}

// Model implements api.Caller.
func (k *key) Model() string {
	if len(k.Models) == 1 {
		return k.Models[0]
	}
	return ""
}

// MayUse implements api.Caller. The model's name is the one that the request has.
func (k *key) MayUse(model string) error {
	name := func(s string) string { return strings.TrimSuffix(strings.ToLower(s), ":latest") }
	if len(k.Models) == 0 || slices.ContainsFunc(k.Models, func(m string) bool { return name(m) == name(model) }) {
		return nil
	}
	return api.Errorf(api.Forbidden, "the key %s may not use the model %q: it may use %s", k.name, model, strings.Join(k.Models, ", "))
}

// use counts what a key is used for.
func (k *key) use(now time.Time, more api.KeyUsage) {
	k.book.mu.Lock()
	k.turn(now)
	for _, u := range []*api.KeyUsage{&k.usage.Today, &k.usage.Total} {
		u.Requests += more.Requests
		u.PromptTokens += more.PromptTokens
		u.AnswerTokens += more.AnswerTokens
	}
	k.usage.Last = now.UTC().Truncate(time.Second)
	k.book.touch()
	k.book.mu.Unlock()
	k.book.count(k.name, more)
}

func limited(wait time.Duration, format string, args ...any) *api.Error {
	e := api.Errorf(api.RateLimited, format, args...)
	e.RetryAfter = wait
	return e
}
