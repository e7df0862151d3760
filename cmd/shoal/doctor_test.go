package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/cmd/shoal/doctor"
	"github.com/shoalnet/shoal/protocol"
)

// lockFile makes this test binary a process that locks a file and keeps running.
const lockFile = "TEST_BINARY_LOCKS"

func lockForever(path string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("locked")
	time.Sleep(time.Minute)
	os.Exit(0)
}

// patient is a home that the doctor examines, with the program as a person runs it.
type patient struct {
	t    *testing.T
	home string
	env  []string
	cred *syscall.Credential
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "SHOAL_") })
	p := &patient{t: t, home: filepath.Join(t.TempDir(), "home"), env: append(env, "SHOAL_QUIET_BUILD=1")}
	p.config("no-mdns = true", `listen = ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"]`, `api = "127.0.0.1:0"`)
	return p
}

// config writes the configuration file.
func (p *patient) config(lines ...string) {
	p.t.Helper()
	if err := os.MkdirAll(p.home, 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.home, "config.toml"), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// add appends settings to the configuration file.
func (p *patient) add(lines ...string) {
	p.t.Helper()
	old, err := os.ReadFile(filepath.Join(p.home, "config.toml"))
	if err != nil {
		p.t.Fatal(err)
	}
	p.config(append(strings.Split(strings.TrimSpace(string(old)), "\n"), lines...)...)
}

func (p *patient) command(args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.CommandContext(p.t.Context(), exe, args...)
	cmd.Env = p.env
	if p.cred != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred}
	}
	return cmd
}

func (p *patient) run(args ...string) {
	p.t.Helper()
	if out, err := p.command(args...).CombinedOutput(); err != nil {
		p.t.Fatalf("shoal %v: %v\n%s", args, err, out)
	}
}

// see runs the doctor and returns its findings.
func (p *patient) see(args ...string) (found []doctor.Finding, code int) {
	p.t.Helper()
	cmd := p.command(append([]string{"doctor", "--json", "--home", p.home}, args...)...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	if err := json.Unmarshal(out, &found); err != nil {
		p.t.Fatalf("shoal doctor %v: %v\n%s%s", args, err, out, errOut.String())
	}
	return found, cmd.ProcessState.ExitCode()
}

// named waits until a check reports a fault with these words, and returns its fix. The
// exit code must match.
func (p *patient) named(check string, state doctor.State, words string, args ...string) (fix string) {
	p.t.Helper()
	var found []doctor.Finding
	var code int
	p.t.Cleanup(func() {
		if fix == "" && p.t.Failed() {
			p.t.Logf("last seen: %+v", found)
		}
	})
	eventually(p.t, 30*time.Second, "doctor names "+check+": "+words, func() bool {
		found, code = p.see(args...)
		for _, v := range found {
			if v.Check == check && v.State == state && strings.Contains(v.What, words) {
				fix = v.Fix
				return true
			}
		}
		return false
	})
	if state == doctor.Bad && code != 1 {
		p.t.Errorf("exit code %d for %q", code, words)
	}
	p.t.Logf("%s\n → %s", words, fix)
	return fix
}

// content waits until a check finds no more faults.
func (p *patient) content(check string, args ...string) {
	p.t.Helper()
	p.atMost(doctor.OK, check, args...)
}

// atMost waits until a check finds nothing worse than a state.
func (p *patient) atMost(worst doctor.State, check string, args ...string) {
	p.t.Helper()
	var left []doctor.Finding
	defer func() {
		if p.t.Failed() {
			p.t.Logf("left: %+v", left)
		}
	}()
	eventually(p.t, 30*time.Second, check+" is content", func() bool {
		found, _ := p.see(args...)
		left = slices.DeleteFunc(found, func(v doctor.Finding) bool {
			return v.Check != check || v.State == doctor.OK || v.State == worst
		})
		return len(left) == 0
	})
}

// mend runs the doctor's fix, without sudo, which tests do not need.
func (p *patient) mend(fix string) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), "sh", "-c", strings.TrimPrefix(fix, "sudo "))
	cmd.Env = p.env
	if p.cred != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("%s: %v\n%s", fix, err, out)
	}
}

// start runs a line that ends in starting a node, and leaves the node running.
func (p *patient) start(line string) (stop func()) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), "sh", "-c", line)
	var out bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	stop = func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		}
	}
	p.t.Cleanup(func() {
		stop()
		if p.t.Failed() {
			p.t.Logf("%s:\n%s", line, out.String())
		}
	})
	return stop
}

// node starts the node of the home and waits until it answers.
func (p *patient) node(flags ...string) (stop func()) {
	p.t.Helper()
	exe, _ := os.Executable()
	stop = p.start(fmt.Sprintf("exec %s node --home %s %s", exe, p.home, strings.Join(flags, " ")))
	p.up()
	return stop
}

// up waits until the home's node answers.
func (p *patient) up() {
	p.t.Helper()
	eventually(p.t, 20*time.Second, "the node answers", func() bool { return running(p.t.Context(), p.home) != nil })
}

func (p *patient) pid() int { return wordOf(p.home).PID }

// TestDoctorFiles stages faults of the home, the settings and the machine, and runs the
// doctor's fixes, after which it finds nothing.
func TestDoctorFiles(t *testing.T) {
	t.Parallel()
	t.Run("a setting that is misspelt", func(t *testing.T) {
		p := newPatient(t)
		p.add("thread = 1")
		p.mend(p.named("config", doctor.Bad, `line 4: there is no setting "thread"`, "--offline"))
		p.content("config", "--offline")
		if raw, _ := os.ReadFile(filepath.Join(p.home, "config.toml")); !bytes.Contains(raw, []byte("threads = 1")) {
			t.Errorf("mended to %s", raw)
		}
	})
	for words, line := range map[string]string{`--memory "lots"`: `memory = "lots"`, "wrong type": `threads = "two"`, "threads 4000": "threads = 4000", "line 4": `quota = "2`} {
		t.Run("a setting of no sense: "+line, func(t *testing.T) {
			p := newPatient(t)
			p.add(line)
			p.mend(p.named("config", doctor.Bad, words, "--offline"))
			p.content("config", "--offline")
		})
	}
	t.Run("a variable of no sense", func(t *testing.T) {
		p := newPatient(t)
		p.env = append(p.env, "SHOAL_MEMORY=lots")
		if fix := p.named("config", doctor.Bad, "SHOAL_MEMORY", "--offline"); fix != "unset SHOAL_MEMORY" {
			t.Error(fix)
		}
		p.env = p.env[:len(p.env)-1]
		p.content("config", "--offline")
	})
	t.Run("a key that others can read", func(t *testing.T) {
		for _, secret := range []string{"key", "root"} {
			p := newPatient(t)
			p.run("swarm", "new", "--home", p.home)
			if err := os.Chmod(filepath.Join(swarmDir(t, p), secret), 0o644); err != nil {
				t.Fatal(err)
			}
			p.mend(p.named("key", doctor.Bad, "other users", "--offline"))
			p.content("key", "--offline")
		}
	})
	t.Run("a damaged key", func(t *testing.T) {
		p := newPatient(t)
		if err := os.WriteFile(filepath.Join(p.home, "key"), []byte("no key"), 0o600); err != nil {
			t.Fatal(err)
		}
		p.mend(p.named("key", doctor.Bad, "damaged", "--offline"))
		p.content("key", "--offline")
	})
	t.Run("a swarm whose certificate is damaged", func(t *testing.T) {
		p := newPatient(t)
		p.run("swarm", "new", "--home", p.home)
		if err := os.WriteFile(filepath.Join(swarmDir(t, p), "certificate"), []byte("none"), 0o600); err != nil {
			t.Fatal(err)
		}
		p.named("access", doctor.Bad, "a swarm cannot be used", "--offline")
	})
	t.Run("a home that may not be written", func(t *testing.T) {
		p := newPatient(t)
		if os.Getuid() == 0 { // root may do anything
			p = asNobody(t)
		}
		if err := os.Chmod(p.home, 0o500); err != nil {
			t.Fatal(err)
		}
		p.mend(p.named("home", doctor.Bad, "may not write "+p.home, "--offline"))
		p.content("home", "--offline")
	})
	t.Run("a home that is a file", func(t *testing.T) {
		p := newPatient(t)
		p.home = filepath.Join(p.home, "config.toml")
		p.mend(p.named("home", doctor.Bad, "is a file", "--offline"))
		p.content("home", "--offline")
	})
	t.Run("a store that another has locked", func(t *testing.T) {
		p := newPatient(t)
		p.run("model", "add", "--home", p.home, "tinytales")
		cmd := p.command()
		cmd.Env = append(cmd.Env, lockFile+"="+filepath.Join(p.home, "store/lock"))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
			t.Fatal(line, err)
		}
		// This program holds it, but as what its arguments do not say.
		fix := p.named("store", doctor.Bad, fmt.Sprintf("process %d", cmd.Process.Pid), "--offline")
		p.mend(fix)
		_ = cmd.Wait()
		p.content("store", "--offline")
	})
	t.Run("a GPU without a backend", func(t *testing.T) {
		p := newPatient(t)
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Join(root, "dev"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "dev/nvidia0"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if fix := p.named("gpu", doctor.Warn, "NVIDIA GPU 0 is present but not used: no cuda backend", "--offline", "--sysroot", root); !strings.Contains(fix, "contrib/accel") {
			t.Error(fix)
		}
		lib := t.TempDir()
		if err := os.WriteFile(filepath.Join(lib, "libggml-cuda.so"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		p.env = append(p.env, "OLLAMA_LIBRARY_PATH="+lib)
		p.content("gpu", "--offline", "--sysroot", root)
	})
	t.Run("an API for all and sundry", func(t *testing.T) {
		p := newPatient(t)
		p.config(`api = "0.0.0.0:0"`, "no-mdns = true")
		p.mend(p.named("api", doctor.Warn, "has no key", "--offline"))
		p.content("api", "--offline")
	})
	t.Run("a damaged leaf", func(t *testing.T) {
		p := newPatient(t)
		p.run("model", "add", "--home", p.home, "tinytales")
		net := newPatient(t) // it has the whole model
		net.add("open = true")
		net.run("model", "add", "--home", net.home, "tinytales")
		net.node()
		p.add(fmt.Sprintf("bootstrap = [%q]", loopbackOf(t, net)), "open = true")
		files, _ := filepath.Glob(filepath.Join(p.home, "store/models/*/data.gguf"))
		if len(files) != 1 {
			t.Fatal(files)
		}
		flip(t, files[0])
		p.mend(p.named("models", doctor.Bad, "1 damaged leaves", "--offline"))
		p.content("models", "--offline")
	})
	t.Run("a clock that is behind", func(t *testing.T) {
		p := newPatient(t)
		p.run("swarm", "new", "--home", p.home)
		future := time.Now().Add(time.Hour)
		if err := os.Chtimes(filepath.Join(swarmDir(t, p), "key"), future, future); err != nil {
			t.Fatal(err)
		}
		if fix := p.named("clock", doctor.Bad, "the clock is behind", "--offline"); fix == "" {
			t.Error("no line to set the clock")
		}
	})
	t.Run("a full disk", func(t *testing.T) {
		p := newPatient(t)
		if err := mountSmall(p.home); err != nil {
			t.Skip("no disk that could be filled: ", err)
		}
		t.Cleanup(func() { _ = unmount(p.home) })
		p.config("no-mdns = true")
		p.run("model", "add", "--home", p.home, "tinytales")
		if err := os.WriteFile(filepath.Join(p.home, "filler"), make([]byte, 60<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		if fix := p.named("disk", doctor.Bad, "is full", "--offline", "--model", "tiny"); strings.Contains(fix, "rm") {
			t.Errorf("what the node would serve is to go: %s", fix)
		}
		p.run("model", "pin", "--home", p.home, "tinytales")
		if fix := p.named("disk", doctor.Bad, "is full", "--offline"); strings.Contains(fix, "rm") {
			t.Errorf("what is pinned is to go: %s", fix)
		}
		p.run("model", "unpin", "--home", p.home, "tinytales")
		fix := p.named("disk", doctor.Bad, "is full", "--offline")
		if !strings.Contains(fix, "model rm") {
			t.Error(fix)
		}
		p.mend(fix)
		if models, _ := filepath.Glob(filepath.Join(p.home, "store/models/*")); len(models) > 0 {
			t.Errorf("still there: %v", models)
		}
		if err := os.Remove(filepath.Join(p.home, "filler")); err != nil {
			t.Fatal(err)
		}
		p.atMost(doctor.Warn, "disk", "--offline") // the disk is small
	})
	t.Run("all is right", func(t *testing.T) {
		p := newPatient(t)
		p.run("model", "add", "--home", p.home, "tinytales")
		if found, code := p.see("--offline"); code != 0 || doctor.Worst(found) == doctor.Bad {
			t.Errorf("exit code %d: %+v", code, found)
		}
		out, err := p.command("doctor", "--offline", "--home", p.home).Output()
		if err != nil || !bytes.Contains(out, []byte("nothing is wrong")) {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// asNobody returns a patient that runs as a user other than root, with the program where
// that user can execute it.
func asNobody(t *testing.T) *patient {
	t.Helper()
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("no shell")
	}
	exe, _ := os.Executable()
	for dir := filepath.Dir(exe); dir != "/"; dir = filepath.Dir(dir) {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm()&0o001 == 0 {
			if err := os.Chmod(dir, st.Mode().Perm()|0o011); err != nil {
				t.Skip("this program cannot be run by another user: ", err)
			}
			t.Cleanup(func() { _ = os.Chmod(dir, st.Mode().Perm()) })
		}
	}
	p := newPatient(t)
	p.cred = &syscall.Credential{Uid: 65534, Gid: 65534}
	p.env = append(p.env, "HOME="+p.home)
	for dir := p.home; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(p.home, "config.toml"), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	return p
}

// loopbackOf returns an address through which others join a patient's node.
func loopbackOf(t *testing.T, p *patient) string {
	t.Helper()
	st, err := running(t.Context(), p.home).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	here, _ := bootstrapAddrs(st.Addrs)
	return here
}

// TestDoctorProcesses stages faults of ports and of the node's own process.
func TestDoctorProcesses(t *testing.T) {
	t.Parallel()
	t.Run("the API's port is taken", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		p := newPatient(t)
		p.config("no-mdns = true", `listen = ["/ip4/127.0.0.1/udp/0/quic-v1"]`, fmt.Sprintf("api = %q", l.Addr()))
		fix := p.named("api", doctor.Bad, fmt.Sprintf("%s is taken by process %d", l.Addr(), os.Getpid()), "--offline")
		p.start(fix)
		p.up()
		p.content("api")
	})
	t.Run("the peers' port is taken", func(t *testing.T) {
		u, err := net.ListenPacket("udp", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		port := u.LocalAddr().(*net.UDPAddr).Port
		p := newPatient(t)
		p.config("no-mdns = true", `api = "127.0.0.1:0"`, "listen-port = "+strconv.Itoa(port))
		fix := p.named("ports", doctor.Bad, fmt.Sprintf("0.0.0.0:%d, is taken by process %d", port, os.Getpid()), "--offline")
		_, free, ok := strings.Cut(fix, "--listen-port ")
		if !ok {
			t.Fatal(fix)
		}
		p.config("no-mdns = true", `api = "127.0.0.1:0"`) // what the line says is tried, and not run: it listens on all interfaces
		p.content("ports", "--offline", "--listen-port", free)
	})
	t.Run("killed, and hanging", func(t *testing.T) {
		p := newPatient(t)
		p.node()
		if err := syscall.Kill(p.pid(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		fix := p.named("daemon", doctor.Bad, "has ended without a clean shutdown", "--offline")
		p.start("exec " + fix)
		p.up()
		p.content("daemon")
		pid := p.pid()
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		fix = p.named("daemon", doctor.Bad, fmt.Sprintf("process ID %d does not answer", pid), "--offline")
		p.start(fix)
		eventually(t, 20*time.Second, "another node", func() bool { return p.pid() != pid && p.pid() != 0 })
		p.up()
		p.content("daemon")
	})
	t.Run("a word of another process's ID", func(t *testing.T) {
		p := newPatient(t)
		p.run("model", "add", "--home", p.home, "tinytales")
		word := fmt.Sprintf(`{"api": "127.0.0.1:1", "pid": %d}`, os.Getpid())
		if err := os.WriteFile(filepath.Join(p.home, "api.json"), []byte(word), 0o600); err != nil {
			t.Fatal(err)
		}
		if fix := p.named("daemon", doctor.Bad, "has ended without a clean shutdown", "--offline"); strings.Contains(fix, "kill") {
			t.Errorf("an innocent is to be killed: %s", fix)
		}
	})
	t.Run("a token that has changed", func(t *testing.T) {
		p := newPatient(t)
		p.node()
		pid := p.pid()
		if err := os.WriteFile(filepath.Join(p.home, "api.token"), []byte(strings.Repeat("x", 48)), 0o600); err != nil {
			t.Fatal(err)
		}
		fix := p.named("daemon", doctor.Bad, "does not take the token", "--offline")
		p.start(fix)
		eventually(t, 20*time.Second, "another node", func() bool { return p.pid() != pid && p.pid() != 0 })
		p.up()
		p.content("daemon")
	})
	t.Run("no node is running", func(t *testing.T) {
		p := newPatient(t)
		fix := p.named("daemon", doctor.Warn, "no node is running", "--offline")
		p.start(fix)
		p.up()
		p.content("daemon")
	})
	t.Run("the engine dies again and again", func(t *testing.T) {
		p := newPatient(t)
		p.add(`model = ["tinytales"]`, `span = "all"`, `memory = "1GiB"`)
		p.node()
		last := 0
		for range 3 {
			eventually(t, 30*time.Second, "a new engine", func() bool {
				st, err := running(t.Context(), p.home).Status(t.Context())
				if err != nil || len(st.Serving) == 0 || !st.Serving[0].Ready || st.Serving[0].EnginePID == last {
					return false
				}
				last = st.Serving[0].EnginePID
				return true
			})
			if err := syscall.Kill(last, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		fix := p.named("engine", doctor.Bad, "was lost 3 times in ten minutes")
		if !strings.Contains(fix, "512MiB") {
			t.Error(fix)
		}
		before := p.pid()
		p.start(fix)
		eventually(t, 20*time.Second, "another node", func() bool { return p.pid() != before && p.pid() != 0 })
		p.up()
		p.content("engine")
		if st, err := running(t.Context(), p.home).Status(t.Context()); err != nil || st.Memory != 512<<20 {
			t.Errorf("%+v, %v", st, err)
		}
	})
	t.Run("more memory lent than there is", func(t *testing.T) {
		p := newPatient(t)
		p.add(`memory = "900TiB"`)
		p.mend(p.named("memory", doctor.Bad, "the kernel will kill the engine", "--offline"))
		p.atMost(doctor.Warn, "memory", "--offline") // other programs may have some of it
	})
}

// swarmDir is the folder of the only swarm of a patient's home.
func swarmDir(t *testing.T, p *patient) string {
	t.Helper()
	found, _ := filepath.Glob(filepath.Join(p.home, "swarms", "*", "swarm.json"))
	if len(found) != 1 {
		t.Fatal("swarms: ", found)
	}
	return filepath.Dir(found[0])
}

// TestDoctorNetwork stages faults of the network around a node.
func TestDoctorNetwork(t *testing.T) {
	t.Parallel()
	t.Run("blocks that nobody serves", func(t *testing.T) {
		p := newPatient(t)
		p.add(`model = ["tinytales"]`, `span = "0-4"`, "open = true")
		p.node()
		if fix := p.named("peers", doctor.Bad, "nowhere to look"); !strings.Contains(fix, "--bootstrap ADDRESS") {
			t.Error(fix)
		}
		fix := p.named("blocks", doctor.Bad, "tinytales: blocks 4-8 of 8 are served by nobody")
		second := newPatient(t) // its settings keep it on loopback
		second.env = p.env
		if err := os.Rename(second.home, p.home+"-2"); err != nil {
			t.Fatal(err)
		}
		stop := p.start("exec " + fix)
		defer stop()
		p.content("blocks")
		p.content("serving")
		p.content("peers") // it has one now
		if found, code := p.see(); code != 0 {
			t.Errorf("exit code %d: %+v", code, found)
		}
	})
	t.Run("blocks that nobody serves in the owner's own swarm", func(t *testing.T) {
		p := newPatient(t)
		p.add(`model = ["tinytales"]`, `span = "0-4"`)
		p.node()
		p.named("peers", doctor.OK, "no other machine is in swarm")
		fix := p.named("blocks", doctor.Bad, "tinytales: blocks 4-8 of 8 are served by nobody")
		second := newPatient(t)
		second.env = p.env
		if err := os.Rename(second.home, p.home+"-2"); err != nil {
			t.Fatal(err)
		}
		stop := p.start(fix)
		defer stop()
		p.content("blocks")
		p.content("peers")
		p.named("access", doctor.OK, "only your own machines and those you let in")
	})
	t.Run("members that are not there", func(t *testing.T) {
		a, b := newPatient(t), newPatient(t)
		stop := a.node()
		_, code, said := a.try("invite", "--home", a.home)
		if code = strings.TrimSpace(code); code == "" {
			t.Fatal(said)
		}
		b.run("join", "--home", b.home, code)
		b.named("peers", doctor.OK, "1 connected") // by the doctor alone: no node runs there
		stop()
		b.named("peers", doctor.Warn, "1 other member is known in swarm")
		if left, _ := filepath.Glob(filepath.Join(b.home, ".shoal-doctor-*")); len(left) > 0 {
			t.Errorf("the doctor has left %v", left)
		}
	})
	t.Run("a bootstrap peer that is not there", func(t *testing.T) {
		other := newPatient(t)
		other.add("open = true")
		stop := other.node()
		addr := loopbackOf(t, other)
		stop()
		p := newPatient(t)
		p.add(fmt.Sprintf("bootstrap = [%q]", addr), "open = true")
		p.named("peers", doctor.Bad, "cannot be reached") // by the doctor alone: no node runs
		p.node()
		fix := p.named("peers", doctor.Bad, "bootstrap peer "+addr[strings.LastIndex(addr, "/")+1:])
		other.node() // on another port
		before := p.pid()
		p.start(strings.Replace(fix, "ADDRESS", loopbackOf(t, other), 1))
		eventually(t, 20*time.Second, "another node", func() bool { return p.pid() != before && p.pid() != 0 })
		p.up()
		p.content("peers")
	})
	t.Run("a peer of another version", func(t *testing.T) {
		p := newPatient(t)
		p.add("open = true")
		p.node()
		h := stranger(t, nil)
		join(t, h, loopbackOf(t, p))
		if fix := p.named("versions", doctor.Bad, h.ID().String()+" (other/9.9)"); fix == "" {
			t.Error("no line")
		}
		_ = h.Close()
		p.content("versions")
	})
	t.Run("a clock that is behind all others", func(t *testing.T) {
		p := newPatient(t)
		p.add("open = true")
		p.node()
		for _, ahead := range []time.Duration{10 * time.Minute, -20 * time.Minute} {
			h := stranger(t, func(key crypto.PrivKey) []byte {
				now := time.Now().Add(ahead)
				o, err := protocol.SealOffer(&protocol.OfferBody{Seq: 1, IssuedUnixMs: now.UnixMilli(), ExpiresUnixMs: now.Add(10 * time.Minute).UnixMilli()}, key)
				if err != nil {
					panic(err)
				}
				return o.Envelope
			})
			join(t, h, loopbackOf(t, p))
			words := "at least 10m0s behind"
			if ahead < 0 {
				words = "at least 16m0s ahead of"
			}
			if fix := p.named("clock", doctor.Bad, words); fix == "" {
				t.Error("no line")
			}
			_ = h.Close()
			p.content("clock")
		}
	})
}

// stranger is a libp2p host that is not a node of this version. If it has an offer, it
// sends that to peers that ask.
func stranger(t *testing.T, offer func(crypto.PrivKey) []byte) host.Host {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(key), libp2p.ListenAddrStrings("/ip4/127.0.0.1/udp/0/quic-v1"), libp2p.UserAgent("other/9.9"), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	if offer != nil {
		h.SetStreamHandler(protocol.OffersID, func(s network.Stream) {
			defer s.Close()
			raw, err := proto.Marshal(&protocol.OffersReply{Envelopes: [][]byte{offer(key)}})
			if err == nil {
				_, _ = s.Write(append(binary.AppendUvarint(nil, uint64(len(raw))), raw...))
			}
		})
	}
	return h
}

func join(t *testing.T, h host.Host, addr string) {
	t.Helper()
	info, err := peer.AddrInfoFromString(addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Connect(t.Context(), *info); err != nil {
		t.Fatal(err)
	}
}
