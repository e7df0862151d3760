package main

import (
	"context"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/shoalnet/shoal/node/api"
	nodepage "github.com/shoalnet/shoal/node/page"
	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/link"
)

// The page in a real browser. SHOAL_SCREENSHOTS names a directory to keep
// pictures of it in.

// browser is a tab of a headless Chromium that notes what the page does.
type browser struct {
	t    *testing.T
	ctx  context.Context
	home string // origin
	shot string // directory of screenshots

	mu       sync.Mutex
	requests []string
	bad      []string // dialogs, exceptions, errors on the console
}

// browse opens a page. The test is skipped where there is no Chromium.
func browse(t *testing.T, address string) *browser {
	t.Helper()
	var exe string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			exe = path
			break
		}
	}
	if exe == "" {
		t.Skip("there is no Chromium here: on Debian, apt-get install chromium")
	}
	profile, err := os.MkdirTemp("", "shoal-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // its processes outlive it by a moment, and write
		for range 50 {
			if os.RemoveAll(profile) == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	opts := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(exe), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-gpu", true), chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
		chromedp.UserDataDir(profile), chromedp.WindowSize(1360, 860), chromedp.WSURLReadTimeout(time.Minute))
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox)
	}
	ctx, stop := chromedp.NewExecAllocator(t.Context(), opts...)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx)
	t.Cleanup(stop)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, ctx: ctx, home: u.Scheme + "://" + u.Host, shot: os.Getenv("SHOAL_SCREENSHOTS")}
	if b.shot == "" {
		b.shot = t.TempDir()
	}
	chromedp.ListenTarget(ctx, b.hear)
	b.run(time.Minute, network.Enable(), runtime.Enable(), cdppage.Enable(), chromedp.Navigate(address))
	return b
}

func (b *browser) hear(ev any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch ev := ev.(type) {
	case *network.EventRequestWillBeSent:
		b.requests = append(b.requests, ev.Request.URL)
	case *network.EventWebSocketCreated:
		b.requests = append(b.requests, ev.URL)
	case *cdppage.EventJavascriptDialogOpening:
		b.bad = append(b.bad, "a dialog: "+ev.Message)
		go func() { _ = chromedp.Run(b.ctx, cdppage.HandleJavaScriptDialog(true)) }()
	case *cdppage.EventWindowOpen:
		b.bad = append(b.bad, "a window: "+ev.URL)
	case *runtime.EventExceptionThrown:
		b.bad = append(b.bad, "an exception: "+ev.ExceptionDetails.Error())
	}
}

// check says what must be true of every page at its end: it was at home all the
// time, and nothing went wrong.
func (b *browser) check() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.requests {
		if !strings.HasPrefix(strings.TrimPrefix(r, "blob:"), b.home+"/") && !strings.HasPrefix(r, "data:") {
			b.t.Errorf("a request left the page's origin: %s", r)
		}
	}
	if len(b.requests) < 8 {
		b.t.Errorf("only %d requests were seen: %v", len(b.requests), b.requests)
	}
	for _, s := range b.bad {
		b.t.Error(s)
	}
}

func (b *browser) run(within time.Duration, actions ...chromedp.Action) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, within)
	defer cancel()
	// chromedp ties the browser's life to the context of the first Run.
	if chromedp.FromContext(b.ctx).Target == nil {
		ctx = b.ctx
	}
	if err := chromedp.Run(ctx, actions...); err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.t.Fatalf("%v\n%s", err, strings.Join(b.bad, "\n"))
	}
}

// valueOf evaluates an expression on the page.
func valueOf[T any](b *browser, js string) (v T) {
	b.t.Helper()
	b.run(30*time.Second, chromedp.Evaluate(js, &v))
	return v
}

func (b *browser) until(within time.Duration, what, js string) {
	b.t.Helper()
	for end := time.Now().Add(within); !valueOf[bool](b, "Boolean("+js+")"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			b.screenshot("failed")
			b.t.Fatalf("not within %s: %s\n%s", within, what, valueOf[string](b, `document.body.innerText`))
		}
	}
}

func (b *browser) press(keys string) {
	b.t.Helper()
	b.run(30*time.Second, chromedp.KeyEvent(keys))
}

// enter presses Enter as a keyboard does: the page may keep it from typing a
// line, which KeyEvent's would all the same.
func (b *browser) enter() {
	b.t.Helper()
	key := func(kind input.KeyType) chromedp.Action {
		return input.DispatchKeyEvent(kind).WithKey("Enter").WithCode("Enter").WithText("\r").WithWindowsVirtualKeyCode(13)
	}
	b.run(30*time.Second, key(input.KeyDown), key(input.KeyUp))
}

func (b *browser) screenshot(name string) {
	b.t.Helper()
	var png []byte
	b.run(30*time.Second, chromedp.CaptureScreenshot(&png))
	if err := os.WriteFile(filepath.Join(b.shot, name+".png"), png, 0o600); err != nil {
		b.t.Error(err)
	}
}

// pictures takes the page in light, dark, and as wide as a phone.
func (b *browser) pictures(name string) {
	b.t.Helper()
	scheme := func(s string) chromedp.Action {
		return emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: s}})
	}
	for _, s := range []string{"light", "dark"} {
		b.run(30*time.Second, scheme(s), chromedp.Sleep(400*time.Millisecond))
		b.screenshot(name + "-" + s)
	}
	b.run(30*time.Second, scheme("light"), emulation.SetDeviceMetricsOverride(390, 780, 2, true))
	for _, tab := range []string{"network", "models", "node", "chat"} {
		b.run(30*time.Second, chromedp.Click(`nav button[data-view="`+tab+`"]`), chromedp.Sleep(500*time.Millisecond))
		b.screenshot(name + "-phone-" + tab)
		if wide := valueOf[float64](b, `document.documentElement.scrollWidth`); wide > 390 {
			b.t.Errorf("%s is %.0f pixels wide on a phone of 390", tab, wide)
		}
	}
	b.run(30*time.Second, emulation.ClearDeviceMetricsOverride())
}

const (
	answering = `(document.body.dataset.state === "answering")`
	idle      = `(document.body.dataset.state === "idle")`
	lastText  = `(document.querySelector("#messages li.assistant:last-child .text")?.innerText ?? "")`
)

// TestPage: a prompt by keyboard alone, tokens as they come, stop, regenerate,
// and a node of the route killed in the middle of an answer.
func TestPage(t *testing.T) {
	t.Parallel()
	net := processes(t, testnet.Config{Nodes: 6, Replicas: 2, Link: link.Params{RTT: 60 * time.Millisecond}})
	asker := net.Nodes()[0]
	b := browse(t, "http://"+asker.API+"/")
	b.until(20*time.Second, "the picture shows six nodes", `document.querySelectorAll("#picture .fish:not(.gone)").length === 6`)
	b.until(20*time.Second, "a model is chosen", `document.querySelector("#model").value !== ""`)
	b.pictures("empty")

	// Tokens arrive. The way to the prompt is by keyboard.
	if s := valueOf[string](b, `(f => (f.focus(), f.textContent))(document.querySelector("a[href], button, input, select, textarea, [tabindex]"))`); s != "Skip to the prompt" {
		t.Errorf("the first stop of the Tab key is %q", s)
	}
	b.enter()
	b.press("Once upon a time, tell me a story about a fox and a lantern.")
	b.enter()
	b.until(20*time.Second, "text arrives", answering+` && `+lastText+`.length > 20`)
	first := valueOf[string](b, lastText)
	b.until(20*time.Second, "more text arrives", lastText+`.length > `+fmt.Sprint(len(first)+20))
	if now := valueOf[string](b, lastText); !strings.HasPrefix(now, strings.TrimSpace(first)) {
		t.Errorf("the answer was %q and is now %q", first, now)
	}
	if n := valueOf[int](b, `document.querySelectorAll("#picture .fish.live").length`); n != 3 {
		t.Errorf("%d of the route's three nodes are lit", n)
	}
	if n := valueOf[int](b, `document.querySelectorAll("#hops li.live").length`); n != 3 {
		t.Errorf("the route has %d hops in words, want 3", n)
	}
	b.screenshot("answering-light")

	// Stop.
	b.press(kb.Escape)
	b.until(5*time.Second, "the answer stops", idle)
	stopped := valueOf[string](b, lastText)
	time.Sleep(500 * time.Millisecond)
	if now := valueOf[string](b, lastText); now != stopped || !strings.Contains(valueOf[string](b, `document.querySelector("#messages").innerText`), "stopped") {
		t.Errorf("after stopping %q became %q", stopped, now)
	}

	// Regenerate, and kill a node of the route in the middle.
	b.run(10*time.Second, chromedp.Click("li.assistant:last-child .regenerate"))
	b.until(20*time.Second, "text arrives again", answering+` && `+lastText+`.length > 30`)
	before := valueOf[string](b, lastText)
	if n := valueOf[int](b, `document.querySelectorAll("#messages li").length`); n != 2 {
		t.Errorf("%d messages after regenerating, want 2", n)
	}
	route := valueOf[[]string](b, `[...document.querySelectorAll("#picture .fish.live")].map(f => f.dataset.peer)`)
	i := slices.IndexFunc(net.Nodes(), func(n testnet.Node) bool { return n.Name != asker.Name && slices.Contains(route, n.Peer) })
	if i < 0 {
		t.Fatalf("the route %v has no node to kill", route)
	}
	victim := net.Nodes()[i]
	if err := net.Kill(victim.Name); err != nil {
		t.Fatal(err)
	}
	b.until(20*time.Second, "the page sees the loss, in the middle of the answer", `!`+idle+` && document.querySelector("li.assistant:last-child .repair") !== null`)
	b.screenshot("lost-light")
	b.until(2*time.Minute, "the answer goes on over another node", `(`+answering+` || `+idle+`) && document.querySelector("li.assistant:last-child .repair:not(.open)") !== null && `+
		lastText+`.length > `+fmt.Sprint(len(before)+20))
	b.screenshot("repaired-light")
	after := valueOf[[]string](b, `[...document.querySelectorAll("#picture .fish.on")].map(f => f.dataset.peer)`)
	if len(after) != 3 || slices.Contains(after, victim.Peer) {
		t.Errorf("the route was %v, %s was killed, and now it is %v", route, victim.Peer, after)
	}
	if !strings.HasPrefix(valueOf[string](b, lastText), strings.TrimSpace(before)) {
		t.Errorf("the text changed: %q became %q", before, valueOf[string](b, lastText))
	}
	b.until(2*time.Minute, "the answer ends", idle)
	b.until(2*time.Minute, "the lost node fades", `![...document.querySelectorAll("#picture .fish:not(.gone):not(.lost):not(.silent)")].some(f => f.dataset.peer === "`+victim.Peer+`")`)
	if s := valueOf[string](b, `document.querySelector("li.assistant:last-child .wake").innerText`); !strings.Contains(s, "predicted") || !strings.Contains(s, "took over") {
		t.Errorf("under the answer: %q", s)
	}
	b.pictures("answered")

	// Kept over a reload.
	kept := valueOf[string](b, lastText)
	b.run(30*time.Second, chromedp.Reload())
	b.until(20*time.Second, "the conversation is there again", `document.querySelectorAll("#messages li").length === 2`)
	if now := valueOf[string](b, lastText); now != kept {
		t.Errorf("kept %q, and got %q", kept, now)
	}
	b.run(10*time.Second, chromedp.Click("#new"))
	b.until(5*time.Second, "a new one", `document.querySelectorAll("#messages li").length === 0`)
	b.check()
}

// hostile says what the worst of models would.
type hostile struct{}

var evil = []string{
	"<script>alert('script')</script>\n\n<img src=x onerror=alert('img')> <svg onload=alert('svg')>\n\n",
	"[click](javascript:alert('link')) [tab](java\tscript:alert(1)) [data](data:text/html,<script>alert(1)</script>) <javascript:alert(1)>\n\n",
	"![picture](https://elsewhere.example/pixel.png) [fine](https://elsewhere.example/?q=1)\n\n",
	"<iframe src=https://elsewhere.example></iframe><style>body{display:none}</style><base href=https://elsewhere.example/>\n\n",
	"```html\"onload=alert(1)\n<script>alert('code')</script>\n```\n\n",
	strings.Repeat("[", 3000) + strings.Repeat("**a*_`", 3000) + "\n\n",
	strings.Repeat("> ", 3000) + "\n" + strings.Repeat("- ", 3000) + "\n\n",
	"| a | b |\n|---|---|\n| <script>alert('cell')</script> | `x` |\n\n",
}

func (hostile) Generate(ctx context.Context, req *api.GenerateRequest, emit func(api.Event) error) error {
	if err := emit(api.Event{Start: &api.Start{Model: "bafyhostile", Name: `<img src=x onerror=alert('name')>`, PredictedRate: 10,
		Route: []api.Hop{{Peer: `"><script>alert('peer')</script>`, From: 0, To: 8}}}}); err != nil {
		return err
	}
	texts := evil
	if strings.Contains(req.Messages[len(req.Messages)-1].Content, "line") {
		texts = nil
		for range 64 { // a line of a megabyte, as it would come
			texts = append(texts, strings.Repeat("word**x_<b>", 16<<10/11))
		}
		texts = append(texts, strings.Repeat("y", 1<<20), "\n```\n"+strings.Repeat("z", 1<<20), "\n```\n\nthe end")
	}
	for i, s := range texts {
		if err := emit(api.Event{Token: &api.Token{Index: i, Text: s}}); err != nil {
			return err
		}
	}
	return emit(api.Event{Done: &api.Done{FinishReason: "stop", Tokens: len(texts)}})
}

func (hostile) View(context.Context, bool) (*api.View, error) {
	name := `<img src=x onerror=alert('view')>`
	return &api.View{
		Peer: "self", Version: name, Lending: api.Lending{Open: false, Why: name}, Serving: []api.Serving{},
		Peers:  []api.ViewPeer{{Peer: `"><script>alert('peer')</script>`, Version: name, Spans: []api.ViewSpan{{Model: "bafyhostile", To: 8, Ready: true}}}},
		Models: []api.ViewModel{{ID: "bafyhostile", Name: name, Blocks: 8, Held: []string{name}}},
	}, nil
}

// TestHostileAnswer: what a model or a peer says harms nobody, and does not hang
// the page.
func TestHostileAnswer(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(api.New(api.Config{Generator: hostile{}, Viewer: hostile{}, Page: nodepage.Handler()}))
	t.Cleanup(srv.Close)
	b := browse(t, srv.URL+"/")
	b.until(10*time.Second, "the view is drawn", `document.querySelectorAll("#picture .fish").length === 1`)
	b.press("Do your worst.")
	b.enter()
	b.until(20*time.Second, "the answer ends", idle+` && `+lastText+`.includes("onerror")`)
	b.screenshot("hostile-light")
	if links := valueOf[[]string](b, `[...document.querySelectorAll("#messages a")].map(a => a.href)`); !slices.Equal(links, []string{
		"https://elsewhere.example/pixel.png", "https://elsewhere.example/?q=1", "https://elsewhere.example/", "https://elsewhere.example/",
	}) {
		t.Errorf("the links are %q", links)
	}
	if n := valueOf[int](b, `document.querySelectorAll("#messages a:not([rel='noopener noreferrer'])").length`); n != 0 {
		t.Errorf("%d links tell where they were clicked", n)
	}
	if n := valueOf[int](b, `document.querySelectorAll("#messages :is(script, img, iframe, svg, style, base, object, embed), [onerror], [onload]").length`); n != 0 {
		t.Errorf("%d elements came of a model's text", n)
	}

	// The longest time in which the page does not come to itself, in ms.
	valueOf[bool](b, `(() => { window.worst = 0; let last = performance.now(); setInterval(() => { const now = performance.now(); window.worst = Math.max(window.worst, now - last); last = now; }, 10); return true })()`)
	b.press("And now a very long line.")
	b.enter()
	begin := time.Now()
	b.until(90*time.Second, "three megabytes are drawn", idle+` && [...document.querySelectorAll("#messages li.assistant:last-child .block")].at(-1)?.textContent === "the end"`)
	worst := valueOf[float64](b, `window.worst`)
	t.Logf("3 MB drawn after %.1f s; the longest pause was %.0f ms", time.Since(begin).Seconds(), worst)
	if worst > 5000 { // drawn all at once, it would be far more
		t.Errorf("the page hung for %.0f ms", worst)
	}
	if n := valueOf[int](b, `document.querySelector("#messages li.assistant:last-child .text").textContent.length`); n < 5<<19 { // marks are not shown
		t.Errorf("%d characters are shown", n)
	}
	if valueOf[bool](b, `(() => { try { document.body.innerHTML = "x"; return true } catch { return false } })()`) {
		t.Error("the page's policy lets text be parsed as HTML")
	}
	b.check()
}

// TestPageKey: with a key, the page asks for it, and forgets it with the tab.
func TestPageKey(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(api.New(api.Config{Generator: hostile{}, Viewer: hostile{}, Page: nodepage.Handler(), Key: "sesame"}))
	t.Cleanup(srv.Close)
	b := browse(t, srv.URL+"/")
	b.until(10*time.Second, "the page asks for the key", `document.querySelector("#dialog").open && document.activeElement.id === "key"`)
	b.screenshot("key-light")
	b.press("sesame")
	b.press(kb.Escape)
	b.until(10*time.Second, "the key opens the view", `document.querySelectorAll("#picture .fish").length === 1`)
	if s := valueOf[string](b, `JSON.stringify(localStorage)`); strings.Contains(s, "sesame") {
		t.Errorf("the key is kept for good: %s", s)
	}
	b.check()
}
