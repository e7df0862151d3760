package node_test

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
)

// scrape is what Prometheus would see of a node.
func scrape(t *testing.T, n *node.Node) string {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:11500/metrics", nil)
	n.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		t.Fatalf("/metrics: %d %s\n%s", w.Code, w.Header(), w.Body)
	}
	return w.Body.String()
}

// has says that a line of a scrape begins so, and does not end with 0.
func has(scraped, series string) bool {
	for line := range strings.Lines(scraped) {
		if strings.HasPrefix(line, series) && !strings.HasSuffix(line, " 0\n") {
			return true
		}
	}
	return false
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	nodes, addrs := three(t)
	client, _ := start(t, node.Config{Client: true, Bootstrap: addrs}, false)
	secret := "Once upon a time"
	if ids, _, _ := ask(t, client, request(secret, 0, 24)); len(ids) < 8 {
		t.Fatal(ids)
	}
	asked := scrape(t, client)
	for _, series := range []string{
		`gen_ai_server_request_duration_seconds_count{error_type="",gen_ai_operation_name="text_completion",gen_ai_provider_name="shoal",gen_ai_request_model="`,
		`gen_ai_server_time_to_first_token_seconds_count{`, `gen_ai_server_time_per_output_token_seconds_count{`, `gen_ai_client_token_usage_sum{`,
		`shoal_answer_token_gap_seconds_count`, `shoal_prediction_ratio_count{what="token_rate"}`, `shoal_prediction_ratio_count{what="time_to_first_token"}`,
		`shoal_peer_rtt_seconds{peer="`, `shoal_peer_packets_sent_total{peer="`,
		`shoal_protocol_bytes_total{direction="sent",protocol="/shoal/stage/2"}`, `shoal_protocol_bytes_total{direction="received",protocol="/shoal/status/1"}`,
		`shoal_fetched_bytes_total{source="peers"}`, `shoal_peers`, `shoal_offers`, `go_goroutines`, `process_resident_memory_bytes`,
	} {
		if !has(asked, series) {
			t.Errorf("the client has no %s", series)
		}
	}
	until(t, "the stages have closed the session", func() bool {
		return has(scrape(t, nodes[1]), `shoal_stage_sessions_closed_total{outcome="bye"}`)
	})
	served := scrape(t, nodes[1])
	for _, series := range []string{
		`shoal_span_ready{blocks="3-5",model="tales"} 1`, `shoal_stage_kv_tokens{blocks="3-5",model="tales"}`, `shoal_engine_memory_bytes{`,
		`shoal_stage_sessions_opened_total`, `shoal_stage_batch_rows_count`,
		`shoal_stage_step_duration_seconds_count{part="wait",phase="prefill"}`, `shoal_stage_step_duration_seconds_count{part="compute",phase="decode"}`,
		`shoal_stage_step_duration_seconds_count{part="send",phase="decode"}`, `shoal_store_bytes`, `shoal_store_free_bytes`, `shoal_lending 1`,
		`shoal_protocol_bytes_total{direction="received",protocol="/shoal/ipfs/bitswap/1.2.0"}`, `shoal_protocol_bytes_total{direction="sent",protocol="/shoal/kad/1.0.0"}`,
	} {
		if !has(served, series) {
			t.Errorf("a stage has no %s", series)
		}
	}
	if !has(scrape(t, nodes[0]), "shoal_given_bytes_total") {
		t.Error("the first node has given nothing")
	}
	for _, text := range []string{asked, served} {
		if strings.Contains(text, secret) {
			t.Error("the prompt is in the metrics")
		}
	}
	// An answer that fails counts under its kind.
	if err := client.Client().Generate(t.Context(), &api.GenerateRequest{Raw: true, Model: tinymodel.Name + "x", Prompt: "a"}, func(api.Event) error { return nil }); err == nil {
		t.Fatal("a model that is not there answered")
	}
	if !has(scrape(t, client), `gen_ai_server_request_duration_seconds_count{error_type="model_not_found",`) {
		t.Error("the failure is not counted")
	}
	// Nothing of it is in the process's own registry, and little of libp2p: the
	// bus of its dialer for AutoNAT cannot be kept out.
	if all, err := prometheus.DefaultGatherer.Gather(); err != nil {
		t.Error(err)
	} else {
		for _, f := range all {
			if name := f.GetName(); !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") && !strings.HasPrefix(name, "libp2p_eventbus_") {
				t.Errorf("%s is in the global registry", name)
			}
		}
	}
}

// collector takes OTLP over HTTP, as a real one does.
type collector struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*trace.Span
	raw   []string // whole requests as text
}

func collect(t *testing.T) *collector {
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req := &coltrace.ExportTraceServiceRequest{}
		body, err := io.ReadAll(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" && err == nil {
			var z *gzip.Reader
			if z, err = gzip.NewReader(bytes.NewReader(body)); err == nil {
				body, err = io.ReadAll(z)
			}
		}
		if err := errors.Join(err, proto.Unmarshal(body, req)); err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL, err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw = append(c.raw, prototext.Format(req)+string(body))
		for _, rs := range req.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				c.spans = append(c.spans, ss.Spans...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *collector) named(prefix string) (out []*trace.Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if strings.HasPrefix(s.Name, prefix) {
			out = append(out, s)
		}
	}
	return out
}

func attr(s *trace.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return prototext.Format(a.Value)
		}
	}
	return ""
}

// One prompt is one trace over all nodes: the client's root, its phases, and a
// span at each stage, which only that stage's operator is sent.
func TestTraces(t *testing.T) {
	collectors := []*collector{collect(t), collect(t), collect(t), collect(t)}
	_, addrs := start(t, node.Config{OTLP: collectors[0].URL, Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "0-3"}}}, false)
	start(t, node.Config{OTLP: collectors[1].URL, Bootstrap: addrs, Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "3-5"}}}, false)
	start(t, node.Config{OTLP: collectors[2].URL, Bootstrap: addrs, Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "5-8"}}}, true)
	client, _ := start(t, node.Config{OTLP: collectors[3].URL + "/", Client: true, Bootstrap: addrs}, false)
	untraced, _ := start(t, node.Config{Client: true, Bootstrap: addrs}, false)
	chat := &api.GenerateRequest{MaxTokens: 24, Messages: []api.Message{{Role: "user", Content: "Tell me about the zebrafinch"}}}
	answer := ""
	tell := func(e api.Event) error {
		if e.Token != nil {
			answer += e.Token.Text
		}
		return nil
	}
	until(t, "all are ready", func() bool {
		return untraced.Client().Generate(t.Context(), chat, func(api.Event) error { return nil }) == nil
	})
	for _, c := range collectors {
		if len(c.named("")) > 0 {
			t.Fatal("a client that does not trace was traced")
		}
	}
	if err := client.Client().Generate(t.Context(), chat, tell); err != nil {
		t.Fatal(err)
	}
	until(t, "every collector has its spans", func() bool {
		return !slices.ContainsFunc(collectors[:3], func(c *collector) bool { return len(c.named("stage ")) == 0 }) && len(collectors[3].named("chat ")) == 1
	})
	root, session := collectors[3].named("chat ")[0], collectors[3].named("session")[0]
	if root.Name != "chat "+tinymodel.Name || len(root.ParentSpanId) > 0 || root.Kind != trace.Span_SPAN_KIND_CLIENT {
		t.Errorf("the root is %v", root)
	}
	for _, key := range []string{"gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.response.finish_reasons", "gen_ai.request.max_tokens"} {
		if attr(root, key) == "" {
			t.Errorf("the root has no %s", key)
		}
	}
	parents := map[string]*trace.Span{"plan": root, "session": root, "open": session, "prefill": session, "decode": session}
	for name, parent := range parents {
		spans := collectors[3].named(name)
		if len(spans) == 0 || !bytes.Equal(spans[0].ParentSpanId, parent.SpanId) {
			t.Errorf("%s: %v, under %x", name, spans, parent.SpanId)
		}
	}
	for i, c := range collectors[:3] {
		spans := c.named("")
		if len(spans) != 1 {
			t.Errorf("node %d exported %d spans", i, len(spans))
		}
		s := spans[0]
		if !bytes.Equal(s.TraceId, root.TraceId) || !bytes.Equal(s.ParentSpanId, session.SpanId) || s.Kind != trace.Span_SPAN_KIND_SERVER {
			t.Errorf("node %d: trace %x under %x, want %x under %x", i, s.TraceId, s.ParentSpanId, root.TraceId, session.SpanId)
		}
		if passes := attr(s, "shoal.passes"); passes == "" || passes == "int_value:0" || attr(s, "shoal.compute_ms") == "" {
			t.Errorf("node %d: %v", i, s.Attributes)
		}
	}
	for i, c := range collectors {
		c.mu.Lock()
		for _, raw := range c.raw {
			for _, secret := range []string{"zebrafinch", "Tell me about", strings.TrimSpace(answer)} {
				if secret == "" || strings.Contains(raw, secret) {
					t.Errorf("collector %d was told of the text %q", i, secret)
				}
			}
		}
		c.mu.Unlock()
	}
	// A caller that traces has its answers under its own span.
	c := client.Client()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.Base+"/v1/chat/completions",
		strings.NewReader(`{"messages": [{"role": "user", "content": "And of a wren"}], "max_tokens": 4}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	resp, err := c.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	until(t, "the caller's trace goes on", func() bool {
		return resp.StatusCode == http.StatusOK && slices.ContainsFunc(collectors[3].named("chat "), func(s *trace.Span) bool {
			return hex.EncodeToString(s.TraceId) == "4bf92f3577b34da6a3ce929d0e0e4736" && hex.EncodeToString(s.ParentSpanId) == "00f067aa0ba902b7"
		})
	})
	t.Logf("%d spans of %x; the answer was %q", len(collectors[3].named(""))+3, root.TraceId, answer)
}

// A collector that is gone costs no answer, and no time at the end.
func TestTracesToNobody(t *testing.T) {
	n, _ := start(t, node.Config{OTLP: "http://127.0.0.1:9", Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "all"}}}, true)
	if ids, _, _ := ask(t, n, request("The old mill", 0, 8)); len(ids) == 0 {
		t.Error("no answer")
	}
	_, err := node.New(node.Config{Home: t.TempDir(), NoMDNS: true, OTLP: "127.0.0.1:4318"})
	if !errors.Is(err, node.ErrConfig) {
		t.Error(err)
	}
}

// A repair is counted by what was wrong, and is a span of the trace.
func TestRepairIsSeen(t *testing.T) {
	t.Parallel()
	c := collect(t)
	nodes, addrs := three(t)
	spare, _ := start(t, node.Config{Bootstrap: addrs, Serve: []node.ServeSpec{{Model: "tales", Span: "3-5"}}}, true)
	client, _ := start(t, node.Config{OTLP: c.URL, Client: true, Bootstrap: addrs}, false)
	req := request("The old mill", 0, 80)
	var repairs []api.Recovery
	err := client.Client().Generate(t.Context(), &req, func(e api.Event) error {
		switch {
		case e.Start != nil:
			for _, n := range []*node.Node{nodes[1], spare} {
				st, err := n.Client().Status(t.Context())
				if err != nil {
					return err
				}
				if e.Start.Route[1].Peer == st.Peer {
					return n.Drain(t.Context())
				}
			}
			return errors.New("a route of others")
		case e.Done != nil:
			repairs = e.Done.Recoveries
		}
		return nil
	})
	if err != nil || len(repairs) == 0 {
		t.Fatalf("%v, %d repairs", err, len(repairs))
	}
	told := scrape(t, client)
	if !has(told, `shoal_repairs_total{reason="draining"} 1`) || !has(told, "shoal_repair_stall_seconds_count") {
		t.Error("the repair is not counted")
	}
	until(t, "the trace is told", func() bool { return len(c.named("text_completion")) == 1 })
	repair, session := c.named("repair")[0], c.named("session")[0]
	if !bytes.Equal(repair.ParentSpanId, session.SpanId) || !strings.Contains(attr(repair, "shoal.reason"), "draining") ||
		!strings.Contains(attr(repair, "shoal.lost"), "3-5") || repair.EndTimeUnixNano <= repair.StartTimeUnixNano {
		t.Errorf("%v", repair)
	}
	if len(c.named("plan")) != 2 {
		t.Errorf("%d plans, want the first and the one for the lost blocks", len(c.named("plan")))
	}
}
