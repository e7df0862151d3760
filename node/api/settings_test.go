package api

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"testing"
)

// ledger are settings that note what they were asked.
type ledger struct{ asked []SettingsChange }

func (*ledger) Settings(context.Context) ([]Setting, error) {
	return []Setting{{Name: "memory", Value: "1GiB", Default: "", From: "default", Live: true, Usage: "Memory"}}, nil
}

func (l *ledger) ChangeSettings(_ context.Context, c SettingsChange) (*SettingsChanged, error) {
	if l.asked = append(l.asked, c); c.Set["memory"] == "much" {
		return nil, badParam("memory", "is wrong")
	}
	return &SettingsChanged{Applied: []string{"memory"}}, nil
}

func (*ledger) ReloadSettings(context.Context) (*SettingsChanged, error) {
	return &SettingsChanged{Restart: []string{"wire"}, Overridden: []Overridden{{"nice", "because"}}}, nil
}

// TestSettings: the operator's own programs read and change them, and nobody else.
func TestSettings(t *testing.T) {
	l := &ledger{}
	srv := start(t, &speller{}, func(c *Config) { c.Settings = l })
	cl := &Client{Base: srv.URL, Token: testToken}
	list, err := cl.Settings(t.Context())
	if err != nil || len(list) != 1 || list[0].Name != "memory" || !list[0].Live {
		t.Errorf("%+v, %v", list, err)
	}
	change := SettingsChange{Set: map[string]any{"memory": "2GiB"}, Unset: []string{"nice"}}
	done, err := cl.ChangeSettings(t.Context(), change)
	if err != nil || !reflect.DeepEqual(done, &SettingsChanged{[]string{"memory"}, []string{}, []Overridden{}}) || !reflect.DeepEqual(l.asked, []SettingsChange{change}) {
		t.Errorf("%+v, %v; asked %+v", done, err, l.asked)
	}
	var e *Error
	if _, err := cl.ChangeSettings(t.Context(), SettingsChange{Set: map[string]any{"memory": "much"}}); !errors.As(err, &e) || e.Kind != BadInput || e.Param != "memory" {
		t.Errorf("%v", err)
	}
	if done, err = cl.ReloadSettings(t.Context()); err != nil || len(done.Restart) != 1 || done.Overridden[0].Why != "because" {
		t.Errorf("%+v, %v", done, err)
	}
	for name, header := range map[string][]string{"no token": nil, "a page": {"Origin", srv.URL, "Authorization", "Bearer " + testToken}} {
		for _, path := range []string{"/shoal/v1/settings", "/shoal/v1/settings/reload"} {
			if resp, body := post(t, srv.URL+path, `{}`, header...); resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s at %s: %d %s", name, path, resp.StatusCode, body)
			}
		}
	}
}
