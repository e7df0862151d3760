package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/cmd/shoal/doctor"
	"github.com/shoalnet/shoal/node"
)

// TestDoors: wherever a node listens, the commands of its home find it and the doctor
// finds no fault; other machines are answered only with a key, or with --api-open.
func TestDoors(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string][]string{
		"all addresses": {`api = "0.0.0.0:0"`, `api-key = "k"`},
		"of IPv6":       {`api = "[::]:0"`, `api-key = "k"`},
		"no API":        {`api = "off"`},
		"by a word":     {`api = "0.0.0.0:0"`, `api-open = true`},
		"with TLS":      {`api = "0.0.0.0:0"`, `api-key = "k"`, `tls = true`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			if name == "no API" { // nor room for the socket's path
				p.home = filepath.Join(p.home, strings.Repeat("long", 20))
			}
			p.config(append(settings, "no-mdns = true", `listen = ["/ip4/127.0.0.1/udp/0/quic-v1"]`)...)
			p.start("exec " + p.command().Path + " node --home " + p.home)
			eventually(t, 30*time.Second, "it answers", func() bool { return running(t.Context(), p.home) != nil })
			word, err := node.ReadWord(p.home)
			st, serr := os.Stat(word.Socket)
			if err != nil || serr != nil || st.Mode().Perm() != 0o600 || strings.Contains(word.API, "0.0.0.0") || strings.Contains(word.API, "::]") {
				t.Errorf("it has left %+v, %v, %v, %v", word, err, st, serr)
			}
			if code, out, said := p.try("status", "--home", p.home, "--json"); code != 0 || !strings.Contains(out, word.API) {
				t.Errorf("status: %d, %s%s", code, out, said)
			}
			if code, out, said := p.try("model", "ls", "--home", p.home); code != 0 {
				t.Errorf("model ls: %d, %s%s", code, out, said)
			}
			p.content("daemon", "--offline")
			if name == "by a word" {
				p.named("api", doctor.Warn, "has no key", "--offline")
			} else {
				p.content("api", "--offline")
			}
			if word.API != "" { // an address by which nobody has left word does, too
				resp, err := http.Get("http://" + word.API + "/metrics")
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if want := map[bool]int{true: http.StatusOK, false: http.StatusUnauthorized}[name == "by a word"]; resp.StatusCode != want {
					t.Errorf("a stranger: %s, want %d", resp.Status, want)
				}
			}
			if code, _, said := p.try("drain", "--home", p.home); code != 0 {
				t.Errorf("drain: %d, %s", code, said)
			}
			eventually(t, 30*time.Second, "the socket is gone", func() bool { _, err := os.Stat(word.Socket); return os.IsNotExist(err) })
		})
	}
	t.Run("neither", func(t *testing.T) {
		p := newPatient(t)
		p.config(`api = "0.0.0.0:0"`, "no-mdns = true", `listen = ["/ip4/127.0.0.1/udp/0/quic-v1"]`)
		p.start("exec " + p.command().Path + " node --home " + p.home)
		eventually(t, 30*time.Second, "it answers", func() bool { return running(t.Context(), p.home) != nil })
		word, err := node.ReadWord(p.home)
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(word.API)
		ask := func(host, key string) (int, string) {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/v1/models", nil)
			req.Header.Set("Authorization", "Bearer "+key)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			return resp.StatusCode, string(body)
		}
		if code, body := ask("127.0.0.1", ""); code != http.StatusOK {
			t.Errorf("on this machine: %d %s", code, body)
		}
		other := otherAddress(t)
		if code, body := ask(other, ""); code != http.StatusUnauthorized || !strings.Contains(body, "has no key yet") || !strings.Contains(body, "add_key") {
			t.Errorf("from elsewhere: %d %s", code, body)
		}
		_, key, said := p.try("key", "add", "--home", p.home, "alice")
		if key = strings.TrimSpace(key); key == "" {
			t.Fatal(said)
		}
		if code, body := ask(other, key); code != http.StatusOK {
			t.Errorf("from elsewhere with a key: %d %s", code, body)
		}
		if code, _ := ask("127.0.0.1", ""); code != http.StatusUnauthorized {
			t.Errorf("on this machine without the key: %d", code)
		}
		if _, out, _ := p.try("key", "ls", "--json", "--home", p.home); !strings.Contains(out, `"name":"alice"`) || strings.Contains(out, key) {
			t.Error(out)
		}
		p.run("key", "rm", "--home", p.home, "alice")
		if code, _ := ask(other, key); code != http.StatusUnauthorized {
			t.Errorf("with the key that was removed: %d", code)
		}
	})
}

// otherAddress returns an address of this machine that is not loopback.
func otherAddress(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	t.Skip("this machine has loopback alone")
	return ""
}

// TestDoctorKillsNobodyAlive: a node that answers, even with a refusal, does not hang.
func TestDoctorKillsNobodyAlive(t *testing.T) {
	p := newPatient(t)
	p.config(`api = "127.0.0.1:0"`, "no-mdns = true", `listen = ["/ip4/127.0.0.1/udp/0/quic-v1"]`)
	p.start("exec " + p.command().Path + " node --home " + p.home)
	eventually(t, 30*time.Second, "it answers", func() bool { return running(t.Context(), p.home) != nil })
	word, err := node.ReadWord(p.home)
	if err != nil {
		t.Fatal(err)
	}
	guard := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer guard.Close()
	raw, err := os.ReadFile(filepath.Join(p.home, "api.json"))
	if err != nil {
		t.Fatal(err)
	}
	other := strings.ReplaceAll(string(raw), word.API, guard.Listener.Addr().String()) // an API that refuses us
	if err := os.Remove(word.Socket); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.home, "api.json"), []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if fix := p.named("daemon", doctor.Warn, "is alive", "--offline"); fix != "" {
		t.Errorf("it advises %s", fix)
	}
}

// TestTokenStaysHome: the token is sent only to this home's node, never to an address
// from the command line, unless a file with its token is named as well.
func TestTokenStaysHome(t *testing.T) {
	t.Parallel()
	var secrets []string
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secrets = append(secrets, r.Header.Get("Authorization"))
		_, _ = io.WriteString(w, "{}")
	}))
	_ = srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	p := newPatient(t)
	p.config("no-mdns = true")
	const secret = "a secret of this home, which nobody else may see"
	if err := os.WriteFile(filepath.Join(p.home, "api.token"), []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"status"}, {"peers"}, {"model", "ls"}} {
		p.try(append(args, "--home", p.home, "--api", srv.URL)...)
	}
	p.try("prompt", "--home", p.home, "--api", srv.URL, "hello")
	if len(secrets) < 4 || strings.Contains(strings.Join(secrets, ""), secret) {
		t.Errorf("sent: %q", secrets)
	}
	p.try("status", "--home", p.home, "--api", srv.URL, "--api-token-file", filepath.Join(p.home, "api.token"))
	if last := secrets[len(secrets)-1]; last != "Bearer "+secret {
		t.Errorf("sent: %q", last)
	}
}
