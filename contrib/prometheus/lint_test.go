// Package prometheus holds the tests of the alerts here and of the dashboard in
// contrib/grafana: the metrics that they use are those that a node exports.
package prometheus

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"gopkg.in/yaml.v3"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/lend"
)

// dashboard holds the parts of a Grafana dashboard that the tests check.
type dashboard struct {
	UID           string `json:"uid"`
	Title         string `json:"title"`
	SchemaVersion int    `json:"schemaVersion"`
	Templating    struct {
		List []struct {
			Name       string `json:"name"`
			Type       string `json:"type"`
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

type panel struct {
	ID          int    `json:"id"`
	Type        string `json:"type"`
	Title       string `json:"title"`
	Description string `json:"description"`
	GridPos     struct{ H, W, X, Y int }
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
	Targets []struct {
		RefID  string `json:"refId"`
		Expr   string `json:"expr"`
		Legend string `json:"legendFormat"`
	} `json:"targets"`
}

// units of Grafana that the dashboard uses: Grafana shows an unknown unit as a suffix,
// without an error.
var units = []string{"short", "none", "s", "bytes", "Bps", "ops", "reqps", "percentunit"}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	raw, err := os.ReadFile("../grafana/shoal.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDashboard: Grafana can show the dashboard as intended, and every panel has a
// description.
func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 36 || len(d.Panels) < 20 {
		t.Errorf("uid %q, title %q, schema %d, %d panels", d.UID, d.Title, d.SchemaVersion, len(d.Panels))
	}
	seen, titles := map[int]bool{}, map[string]bool{}
	for i, p := range d.Panels {
		if p.ID == 0 || seen[p.ID] || p.Title == "" || titles[p.Title] {
			t.Errorf("panel %d %q: its id or its title is another's, or missing", p.ID, p.Title)
		}
		seen[p.ID], titles[p.Title] = true, true
		if g := p.GridPos; g.W < 1 || g.H < 1 || g.X+g.W > 24 {
			t.Errorf("panel %q lies at %+v", p.Title, g)
		}
		for _, q := range d.Panels[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %q and %q lie over each other", p.Title, q.Title)
			}
		}
		if p.Type == "row" {
			continue
		}
		if len(p.Description) < 10 || !slices.Contains(units, p.FieldConfig.Defaults.Unit) || len(p.Targets) == 0 {
			t.Errorf("panel %q: description %q, unit %q, %d queries", p.Title, p.Description, p.FieldConfig.Defaults.Unit, len(p.Targets))
		}
		refs := map[string]bool{}
		for _, q := range p.Targets {
			if q.RefID == "" || refs[q.RefID] || q.Expr == "" || q.Legend == "" || !strings.Contains(q.Expr, `instance=~"$instance"`) {
				t.Errorf("panel %q: query %+v", p.Title, q)
			}
			refs[q.RefID] = true
		}
	}
}

// alerts holds the parts of the alert rules that the tests check.
type alerts struct {
	Groups []struct {
		Rules []struct {
			Alert       string
			Expr        string
			Labels      map[string]string
			Annotations map[string]string
		}
	}
}

func readAlerts(t *testing.T) (a alerts) {
	t.Helper()
	raw, err := os.ReadFile("alerts.yml")
	if err == nil {
		err = yaml.Unmarshal(raw, &a)
	}
	if err != nil || len(a.Groups) == 0 {
		t.Fatal("alerts.yml: ", err)
	}
	return a
}

// TestAlerts: every alert states its severity and what to do.
func TestAlerts(t *testing.T) {
	for _, g := range readAlerts(t).Groups {
		for _, r := range g.Rules {
			if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) || r.Annotations["summary"] == "" || len(r.Annotations["runbook"]) < 40 {
				t.Errorf("%s: %v %v", r.Alert, r.Labels, r.Annotations)
			}
		}
	}
}

// TestMetricsExist: every metric and label that the dashboard and the alerts use is
// exported by a node that answered a prompt, and all of a node's own metrics are used.
func TestMetricsExist(t *testing.T) {
	told := scrapeNetwork(t)
	asked := map[string]bool{}
	check := func(where, expr string) {
		t.Helper()
		expr = strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*").Replace(expr)
		tree, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
		if err != nil {
			t.Errorf("%s: %s: %v", where, expr, err)
			return
		}
		known := map[string]bool{}
		parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
			s, ok := n.(*parser.VectorSelector)
			if !ok || s.Name == "up" { // Prometheus's own
				return nil
			}
			asked[family(s.Name)] = true
			labels := told[s.Name]
			if labels == nil {
				t.Errorf("%s: no node tells %s", where, s.Name)
				return nil
			}
			for l := range labels {
				known[l] = true
			}
			for _, m := range s.LabelMatchers {
				if m.Name != "__name__" && !labels[m.Name] && !fromScrape(m.Name) {
					t.Errorf("%s: %s has no label %s", where, s.Name, m.Name)
				}
			}
			return nil
		})
		parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
			if a, ok := n.(*parser.AggregateExpr); ok {
				for _, l := range a.Grouping {
					if !known[l] && !fromScrape(l) {
						t.Errorf("%s: nothing in %s has a label %s", where, expr, l)
					}
				}
			}
			return nil
		})
	}
	d := readDashboard(t)
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			check("panel "+p.Title, q.Expr)
		}
	}
	variable := regexp.MustCompile(`^label_values\((\w+), instance\)$`)
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		if m := variable.FindStringSubmatch(v.Definition); m == nil || told[m[1]] == nil {
			t.Errorf("variable %s: %s", v.Name, v.Definition)
		}
	}
	for _, g := range readAlerts(t).Groups {
		for _, r := range g.Rules {
			check("alert "+r.Alert, r.Expr)
		}
	}
	for name := range told {
		if own := strings.HasPrefix(name, "shoal_") || strings.HasPrefix(name, "gen_ai_"); own && !asked[family(name)] {
			t.Errorf("%s is on no panel and in no alert", name)
		}
	}
	t.Logf("%d series of nodes, %d metrics asked for", len(told), len(asked))
}

// fromScrape reports whether Prometheus itself adds a label.
func fromScrape(label string) bool { return label == "instance" || label == "job" }

// family returns a metric's name without the suffixes of a histogram's series.
func family(series string) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		series = strings.TrimSuffix(series, suffix)
	}
	return series
}

// scrapeNetwork returns the names of all series of a node and of a client that it
// answered, each with its labels.
func scrapeNetwork(t *testing.T) map[string]map[string]bool {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the engine's library logs there
	ready := make(chan struct{}, 1)
	addrs := make(chan []string, 1)
	server := run(t, node.Config{Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "all"}}, Events: func(e node.Event) {
		switch e.Event {
		case "listening":
			addrs <- e.Addrs
		case "serving":
			ready <- struct{}{}
		}
	}})
	client := run(t, node.Config{Client: true, Bootstrap: <-addrs})
	select {
	case <-ready:
	case <-time.After(30 * time.Second):
		t.Fatal("the node is not ready within 30 s")
	}
	req := &api.GenerateRequest{Raw: true, Prompt: "Once upon a time", MaxTokens: 20}
	if err := client.Client().Generate(t.Context(), req, func(api.Event) error { return nil }); err != nil {
		t.Fatal(err)
	}
	series := regexp.MustCompile(`^(\w+)(?:\{(.*)\})? \S+$`)
	label := regexp.MustCompile(`(\w+)="(?:[^"\\]|\\.)*"`)
	told := map[string]map[string]bool{}
	for _, n := range []*node.Node{server, client} {
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://127.0.0.1/metrics", nil))
		for line := range strings.Lines(w.Body.String()) {
			m := series.FindStringSubmatch(strings.TrimSpace(line))
			if m == nil {
				continue
			}
			if told[m[1]] == nil {
				told[m[1]] = map[string]bool{}
			}
			for _, l := range label.FindAllStringSubmatch(m[2], -1) {
				told[m[1]][l[1]] = true
			}
		}
	}
	if len(told) < 50 {
		t.Fatalf("%d series", len(told))
	}
	return told
}

// run runs a node until the end of the test.
func run(t *testing.T, cfg node.Config) *node.Node {
	t.Helper()
	cfg.Home, cfg.NoMDNS, cfg.Threads, cfg.DrainTime = t.TempDir(), true, 1, time.Second
	cfg.Engine = realEngine(t)
	cfg.Lend, cfg.ListenAddrs = lend.Rules{OnBattery: true}, []string{"/ip4/127.0.0.1/udp/0/quic-v1"}
	n, err := node.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, n.Close()); err != nil {
			t.Error(err)
		}
	})
	return n
}
