package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/contrib/scriptmodel"
	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/link"
)

var cases = []string{"list", "chat", "stream", "tools", "structure", "cancel", "errors"}

// report is the answer of the script's model after the result of its call.
const report = `{"city": "Oslo", "weather": "rain"}`

// caseTime is what one case may take, its program's start included.
const caseTime = 90 * time.Second

// networks are what clients ask.
type networks struct {
	binary string
	tales  *testnet.Testnet
	script *testnet.Testnet
	text   string // what the first answers
}

func (n *networks) start(ctx context.Context) error {
	var err error
	if n.tales, err = testnet.Start(ctx, testnet.Config{Binary: n.binary, Nodes: 2, Link: link.Params{RTT: 50 * time.Millisecond}, Args: []string{"--pause-load", "0"}}); err != nil {
		return err
	}
	if n.script, err = scripted(ctx, n.binary, "A title", scriptmodel.Call("weather", map[string]string{"city": "Oslo"}), report); err != nil {
		return err
	}
	if err := n.tales.WaitReady(ctx, nil); err != nil {
		return err
	}
	n.text, err = ask(ctx, base(n.tales), n.tales.Model().Name)
	return err
}

func (n *networks) close() {
	for _, t := range []*testnet.Testnet{n.tales, n.script} {
		if t != nil {
			_ = t.Close() // its processes end with this one at the latest
		}
	}
}

// scripted starts a network that takes these steps, and answers plain without tools.
func scripted(ctx context.Context, binary, plain string, steps ...string) (*testnet.Testnet, error) {
	file, err := scriptmodel.Script{Name: "agent", Plain: plain, Steps: steps}.GGUF()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "shoal-script-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // the nodes have their blocks by then
	path := filepath.Join(dir, "agent.gguf")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		return nil, err
	}
	t, err := testnet.Start(ctx, testnet.Config{Binary: binary, Nodes: 2, Model: path, Args: []string{"--pause-load", "0"}})
	if err != nil {
		return nil, err
	}
	if err := t.WaitReady(ctx, nil); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func base(t *testnet.Testnet) string { return "http://" + t.Nodes()[0].API }

// ask returns the text that clients must get: 16 tokens at temperature 0.
func ask(ctx context.Context, base, model string) (string, error) {
	body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"Tell me a story about a fox."}],"temperature":0,"max_tokens":16}`, model)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var out struct {
		Choices []struct{ Message struct{ Content string } }
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || len(out.Choices) != 1 || out.Choices[0].Message.Content == "" {
		return "", fmt.Errorf("the network answers %s, %w", resp.Status, err)
	}
	return out.Choices[0].Message.Content, nil
}

// outcome of a client: what became of each case, "" where it worked.
type outcome map[string]string

// take runs a client's program, and returns what it printed.
func (c client) take(ctx context.Context, n *networks, dir string) outcome {
	home, err := os.MkdirTemp("", "shoal-client-")
	if err != nil {
		return outcome{"chat": err.Error()}
	}
	defer os.RemoveAll(home)
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "NO_COLOR=1"}
	if c.agent != nil {
		return c.agent.take(ctx, n.binary, dir, home, env)
	}
	out := outcome{}
	env = append(env, "BASE="+base(n.tales), "MODEL="+n.tales.Model().Name, "TEXT="+n.text,
		"AGENT_BASE="+base(n.script), "AGENT_MODEL="+n.script.Model().Name, "REPORT="+report,
		"PYTHONPATH=", "PYTHONDONTWRITEBYTECODE=1")
	argv := languages[c.language].run(c)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	if strings.Contains(argv[0], "/") {
		cmd.Path = filepath.Join(dir, argv[0])
	}
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, append(env, c.env...), time.Second
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return outcome{"chat": err.Error()}
	}
	defer log.Close()
	cmd.Stderr = log
	lines, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return outcome{"chat": err.Error()}
	}
	watch := time.AfterFunc(caseTime, stop)
	defer watch.Stop()
	current, ended := "chat", false
	for s := bufio.NewScanner(io.TeeReader(lines, log)); s.Scan(); {
		word, rest, _ := strings.Cut(s.Text(), " ")
		name, why, _ := strings.Cut(rest, " ")
		switch word {
		case "case":
			current = name
			watch.Reset(caseTime)
		case "ok":
			out[name] = ""
			if name == "cancel" {
				out[name] = idle(ctx, n.tales)
			}
		case "fail":
			out[name] = why
		case "end":
			ended = true
		}
	}
	err = cmd.Wait()
	if !ended {
		out[current] = fmt.Sprintf("the program ended: %v; see %s", err, log.Name())
	}
	return out
}

var sessions = regexp.MustCompile(`(?m)^shoal_stage_sessions\{.*\} ([0-9.e+]+)$`)

// idle waits until no session is open: the rest of the long answer would take three times
// as long. It returns what is wrong.
func idle(ctx context.Context, t *testnet.Testnet) string {
	deadline := time.Now().Add(3 * time.Second)
	for {
		open := false
		for _, node := range t.Nodes() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+node.API+"/metrics", nil)
			if err != nil {
				return err.Error()
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err.Error()
			}
			raw, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			all := sessions.FindAllSubmatch(raw, -1)
			if err != nil || len(all) == 0 {
				return "the node's metrics cannot be read"
			}
			open = open || slices.ContainsFunc(all, func(m [][]byte) bool { return string(m[1]) != "0" })
		}
		switch {
		case !open:
			return ""
		case time.Now().After(deadline):
			return "the network computes on after the client has gone"
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// take has an agent edit a file, once per turn.
func (a *agent) take(ctx context.Context, binary, dir, home string, env []string) outcome {
	fail := func(err error) outcome { return outcome{"tools": err.Error()} }
	work, err := os.MkdirTemp("", "shoal-work-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(work)
	file := filepath.Join(work, "made.txt")
	plain, steps := "A title", []string{done}
	if a.plain != nil {
		plain = a.plain(file)
	} else {
		steps = append(a.steps(file), done)
	}
	net, err := scripted(ctx, binary, plain, steps...)
	if err != nil {
		return fail(err)
	}
	defer net.Close()
	more, files := a.setup(base(net), home)
	for name, text := range files {
		path := filepath.Join(home, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			return fail(err)
		}
	}
	exe := filepath.Join(dir, "node_modules", ".bin", a.command)
	if a.python {
		exe = filepath.Join(dir, "venv", "bin", a.command)
	}
	for _, args := range a.turns {
		args = slices.Clone(args)
		if i := slices.Index(args, "FILE"); i >= 0 {
			args[i] = file
		}
		if err := os.WriteFile(file, []byte(before+"\n"), 0o600); err != nil {
			return fail(err)
		}
		turn, stop := context.WithTimeout(ctx, 2*caseTime)
		cmd := exec.CommandContext(turn, exe, args...)
		cmd.Dir, cmd.WaitDelay, cmd.Env = work, time.Second, append(env, more...)
		out, err := cmd.CombinedOutput()
		stop()
		log := filepath.Join(dir, "log")
		_ = os.WriteFile(log, out, 0o600) // to look at
		raw, readErr := os.ReadFile(file)
		switch {
		case err != nil || readErr != nil:
			return fail(fmt.Errorf("%w; see %s", errors.Join(err, readErr), log))
		case strings.TrimSpace(string(raw)) != after:
			return fail(fmt.Errorf("the file says %q; see %s", raw, log))
		case !bytes.Contains(out, []byte(done)):
			return fail(fmt.Errorf("the last answer is not shown; see %s", log))
		}
	}
	return outcome{"chat": "", "tools": ""}
}
