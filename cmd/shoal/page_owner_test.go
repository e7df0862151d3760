package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/door"
	nodepage "github.com/shoalnet/shoal/node/page"
)

// axe reports what axe-core finds wrong with the page as it is. SHOAL_AXE names the file
// axe.min.js; without it nothing is checked.
func (b *browser) axe(what string) {
	b.t.Helper()
	path := os.Getenv("SHOAL_AXE")
	if path == "" {
		return
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	b.run(time.Minute, chromedp.Evaluate(`window.axe ? "" : (`+"() => {"+string(raw)+"\n}"+`)(), window.axe !== undefined`, nil))
	b.run(time.Minute, chromedp.Evaluate(`window.axeDone = null; axe.run().then((r) => window.axeDone = JSON.stringify(r.violations.map((v) => v.id + ": " + v.help + ": " + v.nodes.map((n) => n.html.slice(0, 160)).join(" | ")))); 0`, nil))
	b.until(time.Minute, "axe is done", `typeof window.axeDone === "string"`)
	var found []string
	if err := json.Unmarshal([]byte(valueOf[string](b, `window.axeDone`)), &found); err != nil {
		b.t.Fatal(err)
	}
	for _, f := range found {
		b.t.Errorf("%s: %s", what, f)
	}
}

// axes checks the page in light, dark and as wide as a phone.
func (b *browser) axes(what string) {
	b.t.Helper()
	if os.Getenv("SHOAL_AXE") == "" {
		return
	}
	for _, theme := range []string{"light", "dark"} {
		b.theme(theme)
		b.axe(what + ", " + theme)
	}
	b.theme("light")
	b.run(30*time.Second, emulation.SetDeviceMetricsOverride(390, 780, 2, true), chromedp.Sleep(300*time.Millisecond))
	b.axe(what + ", as on a phone")
	b.run(30*time.Second, emulation.ClearDeviceMetricsOverride())
}

func (b *browser) theme(s string) {
	b.t.Helper()
	b.run(30*time.Second, emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: s}}), chromedp.Sleep(300*time.Millisecond))
}

// shots takes what is shown now in light, dark, and as wide as a phone.
func (b *browser) shots(name string) {
	b.t.Helper()
	for _, theme := range []string{"light", "dark"} {
		b.theme(theme)
		b.screenshot(name + "-" + theme)
	}
	b.theme("light")
	b.run(30*time.Second, emulation.SetDeviceMetricsOverride(390, 780, 2, true), chromedp.Sleep(300*time.Millisecond))
	b.screenshot(name + "-phone")
	if wide := valueOf[float64](b, `document.documentElement.scrollWidth`); wide > 390 {
		b.t.Errorf("%s is %.0f pixels wide on a phone of 390", name, wide)
	}
	b.run(30*time.Second, emulation.ClearDeviceMetricsOverride())
}

// click clicks the first shown element that has a text, of those that a selector means.
func (b *browser) click(selector, text string) {
	b.t.Helper()
	js := fmt.Sprintf(`(() => { const e = [...document.querySelectorAll(%q)].find((e) => e.textContent.includes(%q) && e.getClientRects().length > 0 && !e.disabled); e?.scrollIntoView({ block: "center" }); e?.click(); return e !== undefined })()`, selector, text)
	b.until(30*time.Second, fmt.Sprintf("%s with %q can be clicked", selector, text), js)
}

func (b *browser) fill(selector, value string) {
	b.t.Helper()
	b.run(30*time.Second, chromedp.Evaluate(fmt.Sprintf(`(() => { const e = document.querySelector(%q); e.focus(); e.value = %q; e.dispatchEvent(new Event("input", { bubbles: true })); return true })()`, selector, value), nil))
}

const prompts = `document.querySelectorAll("#messages li").length`

// startPage starts a node without a model and opens its page.
func startPage(t *testing.T, settings ...string) (*patient, *browser) {
	t.Helper()
	p := newPatient(t)
	p.add(append([]string{`pause-load = "0"`, `memory = "2GiB"`, "kv-tokens = 2048"}, settings...)...)
	p.start("exec " + p.command().Path + " node --home " + p.home)
	eventually(t, 30*time.Second, "it answers", func() bool { return running(t.Context(), p.home) != nil })
	word, err := node.ReadWord(p.home)
	if err != nil {
		t.Fatal(err)
	}
	return p, browse(t, "http://"+word.API+"/")
}

// TestPageFirstSteps: from a node without a model to an answer, a rule changed, and the
// model gone again, all in the page.
func TestPageFirstSteps(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere no socket says whose it is")
	}
	t.Parallel()
	p, b := startPage(t)
	b.until(30*time.Second, "the page offers first steps, to the owner", `!document.querySelector("#start").hidden && [...document.querySelectorAll("#tiny button")].some((x) => !x.disabled)`)
	b.until(30*time.Second, "the catalogue is there", `document.querySelectorAll("#start-catalogue li").length > 5`)
	if s := valueOf[string](b, `document.querySelector("#start-catalogue").innerText`); !strings.Contains(s, "fits here") || !strings.Contains(s, "more machine") || !strings.Contains(s, "2.0 GiB") {
		t.Errorf("the catalogue says: %s", s)
	}
	b.shots("start")
	b.axes("the first steps")
	b.fill("#start-catalogue input", "smollm2 135m")
	b.until(10*time.Second, "the catalogue is searched", `document.querySelectorAll("#start-catalogue li").length === 1`)

	b.click("#start button.invite", "")
	b.click("#inviting button", "Make a code")
	b.until(10*time.Second, "an invitation", `document.querySelector("#inviting code")?.textContent.startsWith("shoal join SHOAL") && document.querySelector("#inviting svg.qr") !== null`)
	b.shots("invite")
	b.axes("the invitation")
	b.press(kb.Escape)

	b.click("#tiny button", "Start tinytales")
	b.until(90*time.Second, "tinytales is served", `document.querySelector("#start").hidden && !document.querySelector("#welcome").hidden`)
	b.fill("#prompt", "Once upon a time")
	b.click("#send", "Send")
	b.until(60*time.Second, "an answer", idle+` && `+lastText+`.length > 5`)
	if s := valueOf[string](b, `document.querySelector("li.assistant .wake").innerText`); !strings.Contains(s, "tinytales") {
		t.Errorf("the answer does not say who wrote it: %q", s)
	}
	b.shots("served")
	b.axes("an answer")

	b.until(10*time.Second, "the page says who may use the node", `document.querySelector("#node-body").textContent.includes("only your own machines and those you let in (swarm ")`)

	// Rules, at once.
	b.click("#node-rules button", "Pause for an hour")
	b.until(30*time.Second, "lending is paused", `document.querySelector("#node-body").innerText.includes("the owner has paused lending until")`)
	b.shots("paused")
	b.click("#node-rules button", "Resume lending")
	b.until(30*time.Second, "lending goes on", `[...document.querySelectorAll("#node-body dd")][0]?.innerText === "yes"`)
	b.run(10*time.Second, chromedp.Evaluate(`(() => { const i = document.querySelector('#node-rules [aria-describedby="rule-lend-hours"]'); i.value = "half past"; return true })()`, nil))
	b.click("#node-rules button", "Save")
	b.until(10*time.Second, "a wrong rule is refused", `document.querySelector("#node-rules p").innerText.includes("half past")`)
	b.run(10*time.Second, chromedp.Evaluate(`(() => { const i = document.querySelector('#node-rules [aria-describedby="rule-lend-hours"]'); i.value = "00:00-24:00"; return true })()`, nil))
	b.click("#node-rules button", "Save")
	b.until(10*time.Second, "a rule is in effect", `document.querySelector("#node-rules p").innerText.includes("In effect now")`)
	if raw, err := os.ReadFile(filepath.Join(p.home, "config.toml")); err != nil || !strings.Contains(string(raw), `lend-hours = "00:00-24:00"`) {
		t.Errorf("the file says: %s, %v", raw, err)
	}

	// Pin, stop, remove.
	b.click("#model-list button", "Pin")
	b.until(10*time.Second, "it is pinned", `document.querySelector("#model-list").innerText.includes("pinned")`)
	b.click("#model-list button", "Stop serving")
	b.until(60*time.Second, "it is served no more", `document.querySelector("#model-list").innerText.includes("not served")`)
	b.click("#model-list button", "Remove")
	b.until(5*time.Second, "the page asks", `[...document.querySelectorAll("#model-list button")].some((x) => /^Remove .*\?$/.test(x.textContent))`)
	b.screenshot("remove-light")
	time.Sleep(400 * time.Millisecond) // it could be a double click
	b.click("#model-list button", "?")
	b.until(20*time.Second, "it is gone", `document.querySelector("#model-list").innerText.includes("No model is here yet")`)
	b.check()
}

// TestPageWithoutRights: with a key, the page changes nothing until it comes by a link of
// its owner.
func TestPageWithoutRights(t *testing.T) {
	t.Parallel()
	p, b := startPage(t, `api-key = "sesame"`)
	b.until(10*time.Second, "the page asks for the key", `document.querySelector("#dialog").open && document.activeElement.id === "key"`)
	b.press("sesame")
	b.press(kb.Escape)
	b.until(10*time.Second, "it says how to get rights", `document.querySelector("#start-how").innerText.includes("shoal page") && [...document.querySelectorAll("#tiny button")].every((x) => x.disabled)`)
	b.shots("stranger")
	b.axes("without rights")
	link, out, said := p.try("page", "--home", p.home, "--json")
	var got pageLink
	if err := json.Unmarshal([]byte(out), &got); err != nil || link != 0 || got.Expires <= 0 {
		t.Fatalf("page: %d, %s%s", link, out, said)
	}
	b.run(30*time.Second, chromedp.Navigate(got.URL))
	b.until(20*time.Second, "the link gives rights", `location.hash === "" && [...document.querySelectorAll("#tiny button")].some((x) => !x.disabled)`)
	b.run(30*time.Second, chromedp.Reload())
	b.until(20*time.Second, "they outlive a reload", `[...document.querySelectorAll("#tiny button")].some((x) => !x.disabled)`)
	b.run(30*time.Second, chromedp.Evaluate(`localStorage.removeItem("shoal.owner")`, nil), chromedp.Navigate(got.URL))
	b.until(20*time.Second, "the link works once", `document.querySelector("#trouble").innerText.includes("used before")`)
	b.check()
}

// echo answers with what it was asked, if that has at most 300 tokens of 4 characters.
type echo struct {
	mu      sync.Mutex
	asked   string // the last message of the last request that it has taken
	refused int
}

func (e *echo) Generate(_ context.Context, req *api.GenerateRequest, emit func(api.Event) error) error {
	chars, last := 0, req.Messages[len(req.Messages)-1].Content
	for _, m := range req.Messages {
		chars += len(m.Content)
	}
	name := strings.TrimPrefix(req.Model, "bafy")
	e.mu.Lock()
	full := name == "one" && chars > 4*300
	if full {
		e.refused++
	} else {
		e.asked = last
	}
	e.mu.Unlock()
	if full {
		return api.Errorf(api.TooLong, "the prompt has %d tokens, and %s takes 400 with the answer", chars/4, name)
	}
	if err := emit(api.Event{Start: &api.Start{Model: req.Model, Name: name, PredictedRate: 10, PromptTokens: make([]int32, chars/4), Route: []api.Hop{{Peer: "12D3KooWpeer", To: 8}}}}); err != nil {
		return err
	}
	if err := emit(api.Event{Token: &api.Token{Text: "You said: " + last[:min(len(last), 80)]}}); err != nil {
		return err
	}
	return emit(api.Event{Done: &api.Done{FinishReason: "stop", Tokens: 1}})
}

func (e *echo) last() string  { e.mu.Lock(); defer e.mu.Unlock(); return e.asked }
func (e *echo) refusals() int { e.mu.Lock(); defer e.mu.Unlock(); return e.refused }

func (e *echo) Status(context.Context) (*api.Status, error) {
	return &api.Status{
		Addrs: []string{"/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3KooWself", "/ip4/192.168.1.7/tcp/1/p2p/12D3KooWself", "/ip4/192.168.1.7/udp/1/quic-v1/p2p/12D3KooWself"},
		URLs:  []string{"http://127.0.0.1:11500/", "https://192.168.1.7:11500/"}, Fingerprint: strings.TrimSuffix(strings.Repeat("AB:", 32), ":"),
	}, nil
}

func (e *echo) Peers(context.Context) ([]api.Peer, error)   { return nil, nil }
func (e *echo) Health(context.Context) (*api.Health, error) { return &api.Health{}, nil }
func (e *echo) Drain(context.Context) error                 { return nil }
func (e *echo) View(context.Context, bool) (*api.View, error) {
	span := []api.ViewSpan{{Model: "bafyone", To: 8, Ready: true, Loaded: true}, {Model: "bafytwo", To: 8, Ready: true, Loaded: true}}
	return &api.View{
		Peer: "self", Version: "1", Lending: api.Lending{Open: true}, Serving: []api.Serving{},
		Peers:  []api.ViewPeer{{Peer: "12D3KooWpeer", Connected: true, Spans: span}},
		Models: []api.ViewModel{{ID: "bafyone", Name: "one", Blocks: 8, Context: 400, Held: []string{}}, {ID: "bafytwo", Name: "two", Blocks: 8, Context: 4000, Held: []string{}}},
	}, nil
}

// TestPageConversations: conversations are kept, named, found, exported and deleted with
// undo; another model in the middle is shown; files and long pastes go along.
func TestPageConversations(t *testing.T) {
	t.Parallel()
	answerer := &echo{}
	srv := httptest.NewServer(api.New(api.Config{Generator: answerer, Viewer: answerer, Observer: answerer, Page: nodepage.Handler()}))
	t.Cleanup(srv.Close)
	b := browse(t, srv.URL+"/")
	down := t.TempDir()
	b.run(30*time.Second, cdpbrowser.SetDownloadBehavior(cdpbrowser.SetDownloadBehaviorBehaviorAllow).WithDownloadPath(down))
	b.until(20*time.Second, "a model is chosen", `document.querySelector("#model").value === "bafyone"`)
	ask := func(text string) {
		t.Helper()
		b.fill("#prompt", text)
		before := valueOf[int](b, prompts)
		b.click("#send", "Send")
		b.until(20*time.Second, "an answer", idle+fmt.Sprintf(` && %s >= %d && /one|two/.test(document.querySelector("#messages li:last-child .wake p:last-child")?.innerText)`, prompts, before+2))
	}
	ask("Tell me of whales")
	if n := valueOf[string](b, `document.querySelector("#context").innerText`); !strings.Contains(n, "of 400 tokens") {
		t.Errorf("the gauge says %q", n)
	}

	// Another model goes on.
	b.run(10*time.Second, chromedp.Evaluate(`(() => { const m = document.querySelector("#model"); m.value = "bafytwo"; m.dispatchEvent(new Event("change")); return true })()`, nil))
	ask("And of sharks")
	if s := valueOf[string](b, `document.querySelector("#messages .switch")?.innerText ?? ""`); s != "From here on, the answers are from two." {
		t.Errorf("the change of models is told as %q", s)
	}
	if n := valueOf[int](b, `document.querySelectorAll("#messages .switch").length`); n != 1 {
		t.Errorf("%d changes of models are told", n)
	}
	b.axes("a conversation")

	// New keeps the old one; it is there after a reload, too.
	b.click("#new", "")
	b.until(5*time.Second, "an empty one", prompts+` === 0`)
	ask("A recipe for soup")
	b.run(30*time.Second, chromedp.Reload())
	b.until(20*time.Second, "the last one is open", prompts+` === 2 && document.querySelector("#messages").innerText.includes("soup")`)
	b.click("#history", "")
	b.until(5*time.Second, "both are listed", `document.querySelectorAll("#chats li").length === 2`)
	b.shots("conversations")
	b.axes("the list of conversations")
	b.fill("#chats input[type=search]", "SHARKS")
	b.until(5*time.Second, "one is found", `document.querySelectorAll("#chats li").length === 1`)
	b.click("#chats button", "Rename")
	b.until(5*time.Second, "it can be named", `document.activeElement?.getAttribute("aria-label") === "Name of the conversation"`)
	b.run(10*time.Second, chromedp.Evaluate(`document.activeElement.value = "Big fish"`, nil))
	b.enter()
	b.fill("#chats input[type=search]", "big")
	b.until(5*time.Second, "it is found by its name", `document.querySelector("#chats li b")?.innerText === "Big fish"`)
	b.click("#chats button", "Markdown")
	b.click("#chats button", "JSON")
	text := fileSoon(t, filepath.Join(down, "Big-fish.md"))
	if !strings.HasPrefix(text, "# Big fish\n\n## You\n\nTell me of whales\n\n## one\n\n") || !strings.Contains(text, "## two\n") {
		t.Errorf("as Markdown: %s", text)
	}
	var exported struct {
		Title    string
		Messages []struct{ Role, Content, Model string }
	}
	if err := json.Unmarshal([]byte(fileSoon(t, filepath.Join(down, "Big-fish.json"))), &exported); err != nil || exported.Title != "Big fish" || len(exported.Messages) != 4 || exported.Messages[3].Model != "two" {
		t.Errorf("as JSON: %+v, %v", exported, err)
	}

	// Deleting, and not.
	b.click("#chats button", "Delete")
	b.until(5*time.Second, "it is gone", `document.querySelectorAll("#chats li").length === 0`)
	b.screenshot("undo-light")
	b.click("#toast button", "Undo")
	b.until(5*time.Second, "it is back", `document.querySelectorAll("#chats li").length === 1`)
	b.click("#chats .entry", "Big fish")
	b.until(5*time.Second, "it is open", prompts+` === 4`)

	// Files.
	dir := t.TempDir()
	for name, content := range map[string]string{"notes.txt": "cod, haddock\n", "photo.jpg": "\xff\xd8\xff\x00\x10", "huge.txt": strings.Repeat("x", 256<<10+1)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	attach := func(name string) {
		b.run(30*time.Second, chromedp.SetUploadFiles("#file", []string{filepath.Join(dir, name)}))
	}
	attach("photo.jpg")
	b.until(5*time.Second, "a picture is refused", `document.querySelector("#trouble").innerText.includes("photo.jpg is not a text file")`)
	attach("huge.txt")
	b.until(5*time.Second, "a large file is refused", `document.querySelector("#trouble").innerText.includes("256 KiB")`)
	attach("notes.txt")
	b.until(5*time.Second, "a text goes along", `document.querySelector("#files").innerText.includes("notes.txt")`)
	b.run(10*time.Second, chromedp.Evaluate(`(() => { const d = new DataTransfer(); d.setData("text/plain", "word ".repeat(1000)); document.querySelector("#prompt").dispatchEvent(new ClipboardEvent("paste", { clipboardData: d, bubbles: true, cancelable: true })); return true })()`, nil))
	b.until(5*time.Second, "a long paste goes along", `document.querySelector("#files").innerText.includes("pasted text")`)
	b.shots("files")
	ask("What is in it?")
	if last := answerer.last(); !strings.Contains(last, "notes.txt:\n```\ncod, haddock\n```") || !strings.HasSuffix(last, "\n\nWhat is in it?") || !strings.Contains(last, "pasted text:") {
		t.Errorf("the model got %q", last)
	}

	// A context that is full rolls on.
	b.run(10*time.Second, chromedp.Evaluate(`(() => { const m = document.querySelector("#model"); m.value = "bafyone"; m.dispatchEvent(new Event("change")); return true })()`, nil))
	b.click("#new", "")
	for i := range 6 {
		ask(fmt.Sprintf("Number %d: %s", i, strings.Repeat("fish and chips ", 20)))
	}
	if s := valueOf[string](b, `document.querySelector("#messages li:last-child .wake").innerText`); !strings.Contains(s, "oldest messages were left out") {
		t.Errorf("of what was left out: %q", s)
	}
	if last := answerer.last(); !strings.HasPrefix(last, "Number 5") || answerer.refusals() > 6 {
		t.Errorf("the model got %q after %d refusals", last, answerer.refusals())
	}
	b.shots("rolled")
	b.until(20*time.Second, "the end of the conversation is in sight", `(() => { const l = document.querySelector("#log"); return l.scrollHeight - l.scrollTop - l.clientHeight < 5 })()`)
	b.run(30*time.Second, chromedp.Reload())
	b.until(20*time.Second, "after a reload the end is in sight", prompts+` === 12 && (() => { const l = document.querySelector("#log"); return l.scrollHeight > l.clientHeight && l.scrollHeight - l.scrollTop - l.clientHeight < 5 })()`)

	// How others come here.
	if runtime.GOOS == "linux" {
		b.until(20*time.Second, "a model is chosen again", `document.querySelector("#model").value === "bafyone"`)
		b.click("#network .invite", "")
		b.until(10*time.Second, "how to join and to open the page", `(t => t.includes("--bootstrap /ip4/192.168.1.7/udp/1/quic-v1/p2p/12D3KooWself --model one") && t.includes("https://192.168.1.7:11500/") && t.includes("AB:AB"))(document.querySelector("#inviting").textContent) && document.querySelectorAll("#inviting svg.qr").length === 3`)
		b.shots("others")
		b.axes("how others come here")
		b.press(kb.Escape)
	}

	// Everything can be forgotten.
	b.click("#settings", "")
	b.until(5*time.Second, "the key is not what the settings open on", `document.querySelector("#dialog").open && document.activeElement.id !== "key"`)
	b.shots("settings")
	b.axes("the settings")
	b.click("#forget-all", "")
	time.Sleep(400 * time.Millisecond)
	b.click("#forget-all", "Really")
	b.until(5*time.Second, "all is forgotten", prompts+` === 0`)
	b.press(kb.Escape)
	b.click("#history", "")
	b.until(5*time.Second, "no conversation is left", `document.querySelectorAll("#chats li").length === 0`)
	b.check()
}

// TestPageInsecure: where the browser trusts the page less, as over plain HTTP from a phone,
// copying works and the key is kept by choice.
func TestPageInsecure(t *testing.T) {
	t.Parallel()
	answerer := &echo{}
	srv := httptest.NewServer(api.New(api.Config{Generator: answerer, Viewer: answerer, Page: nodepage.Handler(), Key: "sesame"}))
	t.Cleanup(srv.Close)
	b := browse(t, srv.URL+"/")
	b.until(10*time.Second, "the page asks for the key", `document.querySelector("#dialog").open && document.activeElement.id === "key"`)
	b.press("sesame")
	b.run(10*time.Second, chromedp.Click("#remember"))
	b.press(kb.Escape)
	b.until(10*time.Second, "the key opens the view", `document.querySelectorAll("#picture .fish").length === 1`)
	if !valueOf[bool](b, `localStorage.getItem("shoal.key") === "sesame" && sessionStorage.getItem("shoal.key") === null`) {
		t.Error("the key is not kept")
	}
	b.run(10*time.Second, chromedp.Evaluate(`Object.defineProperty(navigator, "clipboard", { value: undefined }); document.execCommand = (c) => { window.copied = c + ": " + document.activeElement.value; return true }`, nil))
	b.fill("#prompt", "Copy me")
	b.click("#send", "Send")
	b.until(20*time.Second, "an answer", idle+` && `+lastText+`.length > 0`)
	b.click("li.user .actions button", "Copy")
	b.until(5*time.Second, "it is copied", `window.copied === "copy: Copy me" && [...document.querySelectorAll("li.user .actions button")].some((x) => x.textContent === "Copied")`)
	b.check()
}

// fileSoon reads a file once it is there as a whole.
func fileSoon(t *testing.T, path string) string {
	t.Helper()
	var raw []byte
	eventually(t, 30*time.Second, path+" is there", func() bool {
		var err error
		raw, err = os.ReadFile(path)
		return err == nil && len(raw) > 0
	})
	return string(raw)
}

// TestPageLink: with TLS, the command prints a link for other devices, too, which they may
// trust by the fingerprint, and which opens a session over TLS.
func TestPageLink(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.add(`tls = true`)
	p.start("exec " + p.command().Path + " node --home " + p.home)
	eventually(t, 30*time.Second, "it answers", func() bool { return running(t.Context(), p.home) != nil })
	code, out, said := p.try("page", "--home", p.home, "--json")
	var link pageLink
	if err := json.Unmarshal([]byte(out), &link); err != nil || code != 0 {
		t.Fatalf("page: %d, %s%s", code, out, said)
	}
	address, secret, _ := strings.Cut(link.URL, "#owner=")
	address = strings.Replace(address, "http://", "https://", 1)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(cs tls.ConnectionState) error {
		if got := door.Fingerprint(cs.PeerCertificates[0].Raw); got != link.Fingerprint {
			return fmt.Errorf("the certificate is %s, not %s", got, link.Fingerprint)
		}
		return nil
	}}}}
	resp, err := client.Post(address+"shoal/v1/owner/session", "application/json", strings.NewReader(`{"code":"`+secret+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the link: %s", resp.Status)
	}
	if code, out, _ := p.try("page", "--home", p.home, "--qr"); code != 0 || !strings.HasPrefix(out, "http://127.0.0.1:") || strings.Count(out, "\n") < 15 {
		t.Errorf("page --qr: %d, %s", code, out)
	}
	if code, _, said := p.try("page", "--home", t.TempDir()); code == 0 || !strings.Contains(said, "no node is running") {
		t.Errorf("without a node: %d, %s", code, said)
	}
}

// TestPageLinkForOthers: only addresses with TLS are for other devices.
func TestPageLinkForOthers(t *testing.T) {
	link := newPageLink(&api.Status{URLs: []string{"http://127.0.0.1:1/", "https://192.0.2.1:1/", "http://192.0.2.2:1/"}, Fingerprint: "AB:CD"}, api.OwnerCode{Code: "c", Expires: 600})
	var out strings.Builder
	if err := link.print(&out, false); err != nil {
		t.Fatal(err)
	}
	want := "http://127.0.0.1:1/#owner=c\nfrom another device: https://192.0.2.1:1/#owner=c\n"
	if !strings.HasPrefix(out.String(), want) || !strings.Contains(out.String(), "AB:CD") || strings.Contains(out.String(), "192.0.2.2") {
		t.Errorf("%s", &out)
	}
}
