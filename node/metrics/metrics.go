package metrics

import (
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are the metrics of one node, in a registry of their own. They are safe for
// concurrent use.
type Metrics struct {
	reg    *prometheus.Registry
	models names

	batchRows prometheus.Histogram
	step      [phases][parts]prometheus.Observer
	opened    prometheus.Counter
	refused   *prometheus.CounterVec
	closed    *prometheus.CounterVec
	guesses   *prometheus.CounterVec
	drafted   *prometheus.CounterVec
	requests  *prometheus.CounterVec
	tokens    *prometheus.CounterVec
	callers   names
	restarts  prometheus.Counter

	underway   prometheus.Gauge
	duration   *prometheus.HistogramVec
	firstToken *prometheus.HistogramVec
	perToken   *prometheus.HistogramVec
	usage      *prometheus.HistogramVec
	tokenGap   prometheus.Histogram
	predicted  *prometheus.HistogramVec
	repairs    *prometheus.CounterVec
	stall      prometheus.Histogram
	replayed   prometheus.Counter
	vain       prometheus.Counter
}

// Buckets. Those of gen_ai_* are the ones that the OpenTelemetry conventions advise.
var (
	stepSeconds     = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	batchSizes      = prometheus.ExponentialBuckets(1, 2, 10) // to 512, the most rows of a pass
	stallSeconds    = []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 20, 45}
	ratios          = []float64{.1, .25, .5, .67, .8, .9, 1, 1.1, 1.25, 1.5, 2, 4, 10}
	requestSeconds  = prometheus.ExponentialBuckets(.01, 2, 14)
	firstSeconds    = []float64{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}
	perTokenSeconds = []float64{.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5}
	tokenCounts     = prometheus.ExponentialBuckets(1, 4, 14)
)

// The attributes of the GenAI conventions, as Prometheus writes them.
const (
	operation = "gen_ai_operation_name"
	provider  = "gen_ai_provider_name"
	model     = "gen_ai_request_model"
	errorType = "error_type"
	tokenType = "gen_ai_token_type"

	providerName = "shoal"
)

// New returns the metrics of a node. state is called at each scrape, for the gauges;
// it must not wait for peers, and must be safe for concurrent use.
func New(version string, state func() State) *Metrics {
	m := &Metrics{reg: prometheus.NewRegistry()}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		m.reg.MustRegister(c)
		return c
	}
	counters := func(name, help, label string, always ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		for _, v := range always { // a series that starts at its first event would not show it in a rate
			c.WithLabelValues(v)
		}
		m.reg.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
		m.reg.MustRegister(h)
		return h
	}
	histograms := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		m.reg.MustRegister(h)
		return h
	}

	m.batchRows = histogram("shoal_stage_batch_rows", "Rows per pass through the engine.", batchSizes)
	steps := histograms("shoal_stage_step_duration_seconds",
		"Time of a session's step in a part of its path through a stage: wait for a pass, compute, send.", stepSeconds, "phase", "part")
	for phase, p := range phaseNames {
		for part, q := range partNames {
			m.step[phase][part] = steps.WithLabelValues(p, q)
		}
	}
	m.opened = counter("shoal_stage_sessions_opened_total", "Sessions of other nodes that were accepted.")
	m.refused = counters("shoal_stage_sessions_refused_total", "Sessions of other nodes that were refused, by error code.", "reason", "busy")
	m.closed = counters("shoal_stage_sessions_closed_total", "Sessions of other nodes that have ended, by outcome: bye (the client ended it), silent (the client went away), or the error code.", "outcome", "bye", "silent")
	m.guesses = counters("shoal_ahead_rows_total", "Rows of guessed tokens that this node's stages sent ahead, in sessions that have ended: kept (the guess was right) or wrong.", "outcome", "kept", "wrong")
	m.drafted = counters("shoal_draft_tokens_total", "Tokens that this node's draft models guessed, in sessions that have ended: right or wrong.", "outcome", "right", "wrong")
	m.requests = counters("shoal_key_requests_total", "Requests to the API with a key, by its name.", "key")
	m.tokens = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "shoal_key_tokens_total", Help: "Tokens of prompts (input) and answers (output), by the name of the key."}, []string{"key", tokenType})
	m.reg.MustRegister(m.tokens)
	m.restarts = counter("shoal_engine_restarts_total", "Engines that were lost and restarted.")

	m.underway = prometheus.NewGauge(prometheus.GaugeOpts{Name: "shoal_answers", Help: "Answers being generated for callers of this node."})
	m.reg.MustRegister(m.underway)
	m.duration = histograms("gen_ai_server_request_duration_seconds", "Time from the request to the end or failure of an answer by this node.", requestSeconds, operation, provider, model, errorType)
	m.firstToken = histograms("gen_ai_server_time_to_first_token_seconds", "Time until the first token of an answer by this node.", firstSeconds, operation, provider, model)
	m.perToken = histograms("gen_ai_server_time_per_output_token_seconds", "Mean time per token after the first, per answer.", perTokenSeconds, operation, provider, model)
	m.usage = histograms("gen_ai_client_token_usage", "Tokens of a prompt (input) or an answer (output).", tokenCounts, operation, provider, model, tokenType)
	m.tokenGap = histogram("shoal_answer_token_gap_seconds", "Time between two tokens of an answer, stalls included.", stepSeconds)
	m.predicted = histograms("shoal_prediction_ratio", "Measured value of an answer divided by the value that its plan predicted.", ratios, "what")
	for _, what := range []string{whatRate, whatFirst} {
		m.predicted.WithLabelValues(what)
	}
	m.repairs = counters("shoal_repairs_total", "Routes repaired during an answer, by the error code of the failure.", "reason", "peer_lost", "draining", "timeout")
	m.stall = histogram("shoal_repair_stall_seconds", "Time from the last progress of an answer until it could continue after a repair.", stallSeconds)
	m.replayed = counter("shoal_repair_replayed_tokens_total", "Token positions that stages recomputed for repairs.")

	m.vain = counter("shoal_repairs_failed_total", "Repairs that failed: the answer broke off.")

	info := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "shoal_build_info", Help: "Always 1; the version is in its label.", ConstLabels: prometheus.Labels{"version": clean(version)},
	}, func() float64 { return 1 })
	m.reg.MustRegister(info, &gauges{state: state, models: &m.models, links: newLinks()},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// scrapes is how many may run at once: few are needed, and one takes milliseconds.
const scrapes = 4

// Handler returns the handler for scrapes.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.reg, promhttp.HandlerOpts{MaxRequestsInFlight: scrapes, ErrorHandling: promhttp.ContinueOnError})
}

// Gatherer returns the metrics as a scrape would, for tests.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.reg }

// Phase of a step.
type Phase uint8

// Part of a step's way through a stage.
type Part uint8

// Phases.
const (
	Prefill Phase = iota
	Decode
	phases
)

// Parts, in the order of the way.
const (
	Wait Part = iota
	Compute
	Send
	parts
)

var (
	phaseNames = [phases]string{"prefill", "decode"}
	partNames  = [parts]string{"wait", "compute", "send"}
)

// Pass counts a pass of a stage.
func (m *Metrics) Pass(rows int) { m.batchRows.Observe(float64(rows)) }

// Step records a step's time. It is called several times per token, and allocates
// nothing.
func (m *Metrics) Step(phase Phase, part Part, took time.Duration) {
	m.step[phase][part].Observe(took.Seconds())
}

// Opened counts a session that a stage has taken.
func (m *Metrics) Opened() { m.opened.Inc() }

// Refused counts a session that a stage has refused. reason is one of a fixed
// set.
func (m *Metrics) Refused(reason string) { m.refused.WithLabelValues(reason).Inc() }

// Closed counts a session of a stage that has ended. outcome is one of a fixed
// set.
func (m *Metrics) Closed(outcome string) { m.closed.WithLabelValues(outcome).Inc() }

// Guessed counts the rows of guesses that a session sent ahead.
func (m *Metrics) Guessed(sent, kept int64) {
	m.guesses.WithLabelValues("kept").Add(float64(kept))
	m.guesses.WithLabelValues("wrong").Add(float64(sent - kept))
}

// Drafted counts what a draft model guessed in a session.
func (m *Metrics) Drafted(right, wrong int) {
	m.drafted.WithLabelValues("right").Add(float64(right))
	m.drafted.WithLabelValues("wrong").Add(float64(wrong))
}

// Used counts what a key of the API was used for.
func (m *Metrics) Used(key string, requests, prompt, answer int64) {
	key = m.callers.bound(key)
	m.requests.WithLabelValues(key).Add(float64(requests))
	if prompt > 0 || answer > 0 {
		m.tokens.WithLabelValues(key, "input").Add(float64(prompt))
		m.tokens.WithLabelValues(key, "output").Add(float64(answer))
	}
}

// Restarted counts an engine that was lost.
func (m *Metrics) Restarted() { m.restarts.Inc() }

// Answer describes a finished or failed answer of this node.
type Answer struct {
	Operation string // chat, text_completion, embeddings or decisions
	Model     string // name of the model; "": not found
	Error     string // kind of the failure; "": none
	Took      time.Duration
	First     time.Duration // until the first token; 0: none came
	Input     int           // tokens
	Output    int           // tokens

	Rate          float64       // tokens per second after the first; 0: too few to measure
	PredictedRate float64       // tokens per second; 0: there was no plan
	SessionFirst  time.Duration // from the opening of the route to the first token
	PredictedTTFT time.Duration // the same, as planned; 0: there was no plan
}

// enough is how many tokens make a rate that can be compared with a prediction.
const enough = 8

const (
	whatRate  = "token_rate"
	whatFirst = "time_to_first_token"
)

// Begin counts an answer that has begun. Answered must follow.
func (m *Metrics) Begin() { m.underway.Inc() }

// Answered counts an answer that has ended or failed.
func (m *Metrics) Answered(a Answer) {
	m.underway.Dec()
	name := m.models.bound(a.Model)
	m.duration.WithLabelValues(a.Operation, providerName, name, a.Error).Observe(a.Took.Seconds())
	if a.Input > 0 {
		m.usage.WithLabelValues(a.Operation, providerName, name, "input").Observe(float64(a.Input))
	}
	if a.Output == 0 {
		return
	}
	m.usage.WithLabelValues(a.Operation, providerName, name, "output").Observe(float64(a.Output))
	m.firstToken.WithLabelValues(a.Operation, providerName, name).Observe(a.First.Seconds())
	if a.Rate > 0 {
		m.perToken.WithLabelValues(a.Operation, providerName, name).Observe(1 / a.Rate)
	}
	if a.Rate > 0 && a.Output >= enough && a.PredictedRate > 0 {
		m.predicted.WithLabelValues(whatRate).Observe(a.Rate / a.PredictedRate)
	}
	if a.PredictedTTFT > 0 {
		m.predicted.WithLabelValues(whatFirst).Observe(a.SessionFirst.Seconds() / a.PredictedTTFT.Seconds())
	}
}

// Token records the time between two tokens of an answer.
func (m *Metrics) Token(gap time.Duration) { m.tokenGap.Observe(gap.Seconds()) }

// Repaired counts a repair of a route, or one that failed. reason is one of a
// fixed set.
func (m *Metrics) Repaired(reason string, stall time.Duration, replayed int, failed bool) {
	if failed {
		m.vain.Inc()
		return
	}
	m.repairs.WithLabelValues(reason).Inc()
	m.stall.Observe(stall.Seconds())
	m.replayed.Add(float64(max(0, replayed)))
}

// names bounds the number of models as labels: peers may give models any name, and
// the values of a label are kept for the life of the process.
type names struct {
	mu   sync.Mutex
	seen map[string]bool
}

const (
	maxNames = 32
	maxName  = 64 // bytes of a label
	other    = "other"
)

func (n *names) bound(name string) string {
	name = clean(name)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seen[name] {
		return name
	}
	if len(n.seen) >= maxNames {
		return other
	}
	if n.seen == nil {
		n.seen = map[string]bool{}
	}
	n.seen[name] = true
	return name
}

// clean makes a label of text from a peer: a label that is not UTF-8 would fail the
// whole scrape.
func clean(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxName)], "") }
