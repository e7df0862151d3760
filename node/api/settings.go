package api

import (
	"context"
	"net/http"
)

// Settings are those of the node, as its operator reads and changes them while it runs.
// It is safe for concurrent use.
type Settings interface {
	// Settings returns all settings, in the order of the reference.
	Settings(ctx context.Context) ([]Setting, error)
	// ChangeSettings checks a change as a whole, writes it to the node's configuration
	// file, and applies what can change while the node runs. The Kind of the error is
	// BadInput, with the setting as its Param, if a setting is unknown or its value is
	// wrong; nothing has changed then.
	ChangeSettings(ctx context.Context, c SettingsChange) (*SettingsChanged, error)
	// ReloadSettings reads the configuration file again and applies what has changed in
	// it. The error is as of ChangeSettings.
	ReloadSettings(ctx context.Context) (*SettingsChanged, error)
}

// Setting is one setting of a node. Values have the type that the configuration file
// uses: a string, a number, true or false, or a list of strings.
type Setting struct {
	Name    string `json:"name"`
	Value   any    `json:"value"`          // in effect
	Next    any    `json:"next,omitempty"` // from the next start on, if that is another
	Default any    `json:"default"`
	From    string `json:"from"`  // where Value comes from, in words
	Live    bool   `json:"live"`  // a change takes effect at once
	Usage   string `json:"usage"` // one sentence
}

// SettingsChange is what to change. A value may also be a string in the form that the
// command line takes; lists then have commas.
type SettingsChange struct {
	Set   map[string]any `json:"set,omitempty"`
	Unset []string       `json:"unset,omitempty"` // back to the default
}

// SettingsChanged lists what became of a change, by the names of settings.
type SettingsChanged struct {
	Applied    []string     `json:"applied"`    // in effect now
	Restart    []string     `json:"restart"`    // in effect from the next start on
	Overridden []Overridden `json:"overridden"` // in neither: something else takes precedence
}

// Overridden is a setting whose value in the file is not used.
type Overridden struct {
	Name string `json:"name"`
	Why  string `json:"why"` // a sentence
}

// settings registers the endpoints.
func (s *server) settings() {
	if s.Settings == nil {
		return
	}
	s.mux.HandleFunc("GET /shoal/v1/settings", s.serve(s.byOwner(s.listSettings)))
	s.mux.HandleFunc("POST /shoal/v1/settings", s.serve(s.byOwner(s.changeSettings)))
	s.mux.HandleFunc("POST /shoal/v1/settings/reload", s.serve(s.own(s.reloadSettings)))
}

type settingsList struct {
	Settings []Setting `json:"settings"`
}

func (s *server) listSettings(w http.ResponseWriter, r *http.Request) error {
	list, err := s.Settings.Settings(r.Context())
	if err == nil {
		writeJSON(w, http.StatusOK, settingsList{noNull(list)})
	}
	return err
}

func (s *server) changeSettings(w http.ResponseWriter, r *http.Request) error {
	var c SettingsChange
	if err := readJSON(w, r, &c); err != nil {
		return err
	}
	done, err := s.Settings.ChangeSettings(r.Context(), c)
	return writeChanged(w, done, err)
}

func (s *server) reloadSettings(w http.ResponseWriter, r *http.Request) error {
	if _, err := readBody(w, r); err != nil {
		return err
	}
	done, err := s.Settings.ReloadSettings(r.Context())
	return writeChanged(w, done, err)
}

func writeChanged(w http.ResponseWriter, done *SettingsChanged, err error) error {
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, SettingsChanged{noNull(done.Applied), noNull(done.Restart), noNull(done.Overridden)})
	return nil
}

// Settings returns the node's settings. Errors: see Client.
func (c *Client) Settings(ctx context.Context) ([]Setting, error) {
	var l settingsList
	err := c.get(ctx, "/shoal/v1/settings", &l)
	return l.Settings, err
}

// ChangeSettings changes settings of the node. The Kind of the error is BadInput if the
// change is wrong, with the setting as its Param.
func (c *Client) ChangeSettings(ctx context.Context, change SettingsChange) (*SettingsChanged, error) {
	var done SettingsChanged
	return &done, c.post(ctx, "/shoal/v1/settings", change, &done)
}

// ReloadSettings has the node read its configuration file again. Errors: see Client.
func (c *Client) ReloadSettings(ctx context.Context) (*SettingsChanged, error) {
	var done SettingsChanged
	return &done, c.post(ctx, "/shoal/v1/settings/reload", struct{}{}, &done)
}
