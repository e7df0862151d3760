package testnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/proc"
)

// importModel gives every node's directory its span of the model, and no more,
// and returns the spans.
func (t *Testnet) importModel(ctx context.Context) ([]Span, error) {
	source, err := t.localModel(ctx)
	if err != nil {
		return nil, err
	}
	// The block count is known only after an import: the first node begins with
	// one block, which is part of its span whatever that will be.
	t.emit(Event{Node: NodeName(0), Event: EventImport, From: 0, To: 1})
	if t.model, err = t.modelAdd(ctx, t.nodeDir(0), Span{0, 1}, source); err != nil {
		return nil, err
	}
	spans := divide(t.model.Blocks, t.conf.Nodes, t.conf.Replicas, t.model.Cuts)
	for i, span := range spans {
		t.emit(Event{Node: NodeName(i), Event: EventImport, From: span.From, To: span.To})
		m, err := t.modelAdd(ctx, t.nodeDir(i), span, source)
		if err != nil {
			return nil, err
		}
		if m.ID != t.model.ID {
			return nil, fmt.Errorf("the model's file changed while it was imported: it was %s, now %s", t.model.ID, m.ID)
		}
	}
	if source != t.conf.Model && t.conf.Model != TinyModel {
		os.RemoveAll(filepath.Dir(source))
	}
	return spans, nil
}

// localModel makes a model that is not on this machine a file: fetched once,
// not once a node.
func (t *Testnet) localModel(ctx context.Context) (string, error) {
	if t.conf.Model == TinyModel {
		return TinyModel, nil
	}
	if _, err := os.Stat(t.conf.Model); err == nil {
		return t.conf.Model, nil
	} else if !remote(t.conf.Model) {
		return "", fmt.Errorf("model %q: %w", t.conf.Model, err)
	}
	dir := filepath.Join(t.conf.Dir, "origin")
	t.emit(Event{Event: EventImport, Name: t.conf.Model})
	m, err := t.modelAdd(ctx, dir, Span{}, t.conf.Model)
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "model.gguf")
	_, err = t.shoal(ctx, "model", "export", "--home", dir, m.ID, file)
	return file, err
}

// remote tells what can be imported without being a file here.
func remote(model string) bool {
	for _, p := range []string{"hf:", "http://", "https://"} {
		if strings.HasPrefix(model, p) {
			return true
		}
	}
	return false
}

// modelAdd imports a span of a model into a home; the zero Span is all of it.
func (t *Testnet) modelAdd(ctx context.Context, home string, span Span, source string) (Model, error) {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return Model{}, err
	}
	args := []string{"model", "add", "--home", home, "--json"}
	if span != (Span{}) {
		args = append(args, "--span", span.String())
	}
	out, err := t.shoal(ctx, append(args, source)...)
	if err != nil {
		return Model{}, err
	}
	var m Model
	if err := json.Unmarshal(out, &m); err != nil || m.ID == "" || m.Blocks < 1 {
		return Model{}, fmt.Errorf("%s %s: not the answer of an import: %.200q", filepath.Base(t.conf.Binary), strings.Join(args, " "), out)
	}
	return m, nil
}

// shoal runs the binary to its end and returns what it printed.
func (t *Testnet) shoal(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.Command(t.conf.Binary, args...)
	cmd.Env = append(baseEnv(), t.conf.Env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	if err := t.spawner.Start(cmd); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { proc.KillGroup(cmd.Process.Pid) })
	err := cmd.Wait()
	stop()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		what := strings.TrimSpace(errs.String())
		if lines := strings.Split(what, "\n"); len(lines) > logTail {
			what = strings.Join(lines[len(lines)-logTail:], "\n")
		}
		return nil, fmt.Errorf("%s %s: %w", filepath.Base(t.conf.Binary), strings.Join(args, " "), errors.Join(err, errors.New(what)))
	}
	return out.Bytes(), nil
}
