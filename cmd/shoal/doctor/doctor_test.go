package doctor

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/api"
)

// sound returns the facts of a node with which nothing is wrong.
func sound() *Facts {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	return &Facts{
		Program: "shoal", Version: "1.0", Now: now, Built: now.Add(-time.Hour),
		Home:    Home{Dir: "/h", User: "ann", Present: true, Mine: true, HasKey: true, Locked: true, Lock: Process{PID: 7, Shoal: true}, Free: 1 << 40, FreeKnown: true, Latest: now.Add(-time.Minute)},
		Config:  Config{File: "/h/config.toml", Present: true, API: "127.0.0.1:11500"},
		Machine: Machine{Memory: 16 << 30, MemoryFree: 12 << 30, UDPBuffer: 8 << 20, SetClock: "set the clock", Secret: "s3cret", LibraryDirs: []string{"/l"}},
		Daemon:  Daemon{Word: true, PID: 7, Alive: true, Answers: true, API: "127.0.0.1:11500"},
		Who:     "open: strangers",
		Status: &api.Status{Open: true, Networks: []api.Network{{Name: "open"}}, Peer: "me", Version: "1.0", Memory: 8 << 30, Addrs: []string{"/ip4/10.0.0.2/udp/9/quic-v1/p2p/me", "/ip4/127.0.0.1/udp/9/quic-v1/p2p/me"},
			Serving: []api.Serving{{Model: "m1", Name: "m", From: 0, To: 4, Ready: true, State: "serving", Memory: 4 << 30, Devices: []string{"CPU CPU"}}}},
		Health: &api.Health{Reach: "public", Port: 9, ClockPeers: 2, Coverage: []api.Coverage{{Model: "m1", Name: "m", Blocks: 8, Nodes: 2}}},
		Peers:  []api.Peer{{Peer: "a", Addr: "/ip4/10.0.0.3/udp/9/quic-v1"}, {Peer: "b", Addr: "/ip4/10.0.0.4/tcp/9"}},
		Models: []Model{{ID: "m1", Name: "m", Held: 4 << 30, Blocks: 8}, {ID: "m2", Name: "old one", Held: 2 << 30}},
	}
}

// own has the node be in a swarm of its owner's alone.
func own(f *Facts, members int) {
	f.Status.Open, f.Status.Networks = false, []api.Network{{Swarm: "ab", Name: "anna", Members: members, Founder: true}}
}

// Each case breaks one thing, and lists the finding expected then.
func TestExamine(t *testing.T) {
	if all := Examine(sound()); Worst(all) != OK {
		t.Fatalf("a sound node: %+v", all)
	}
	for name, c := range map[string]struct {
		break_ func(*Facts)
		check  string
		state  State
		what   string
		fix    string
	}{
		"no AVX2":             {func(f *Facts) { f.Slow = "built without AVX2" }, "build", Bad, "AVX2", "make"},
		"an older daemon":     {func(f *Facts) { f.Status.Version = "0.9" }, "daemon", Warn, "version 0.9, this program 1.0", "shoal drain --home /h && shoal node --home /h"},
		"another token":       {func(f *Facts) { f.Daemon.Answers, f.Daemon.Code = false, 401 }, "daemon", Bad, "does not take the token", "kill 7; while kill -0 7 2>/dev/null; do sleep 0.1; done; shoal node --home /h"},
		"a node that refuses": {func(f *Facts) { f.Daemon.Answers, f.Daemon.Code = false, 403 }, "daemon", Warn, "is alive", ""},
		"a node, no door":     {func(f *Facts) { f.Daemon.Answers, f.Daemon.API = false, "" }, "daemon", Warn, "no socket", ""},
		"a node that hangs":   {func(f *Facts) { f.Daemon.Answers, f.Daemon.Socket = false, "/h/api.sock" }, "daemon", Bad, "does not answer", "kill -9 7; while kill -0 7 2>/dev/null; do sleep 0.1; done; shoal node --home /h"},
		"a reused PID":        {func(f *Facts) { f.Daemon.Answers, f.Daemon.Alive, f.Home.Locked = false, false, false }, "daemon", Bad, "has ended without a clean shutdown", "shoal node --home /h"},
		"store locked":        {func(f *Facts) { f.Daemon = Daemon{}; f.Home.Lock = Process{PID: 8, Name: "tar"} }, "store", Bad, "process 8 (tar)", "kill 8"},
		"by whom unseen":      {func(f *Facts) { f.Daemon = Daemon{}; f.Home.Lock = Process{} }, "store", Bad, "cannot be seen", "shoal node --home /h-2"},
		"a node, no API":      {func(f *Facts) { f.Daemon = Daemon{} }, "store", Warn, "without an API", ""},
		"no home possible":    {func(f *Facts) { f.Home = Home{Dir: "/h", User: "ann", Unmakeable: true} }, "home", Bad, "may not make it", "sudo install -d -m 700 -o ann /h"},
		"another's home":      {func(f *Facts) { f.Home.Mine, f.Home.Denied = false, []string{"/h/key"} }, "home", Bad, "/h/key", "sudo chown -R ann /h"},
		"unreadable model":    {func(f *Facts) { f.Models[1].Err = "torn" }, "models", Bad, "torn", "shoal model pull --home /h m2"},
		"damaged leaves":      {func(f *Facts) { f.Models[0].Damaged, f.Models[0].Leaves = []string{"block 2", "output"}, 3 }, "models", Bad, "3 damaged leaves", "shoal model verify --home /h --repair m"},
		"disk full":           {func(f *Facts) { f.Home.Free = 1 << 20 }, "disk", Bad, "is full", "shoal model rm --home /h 'old one'"},
		"full, all pinned":    {func(f *Facts) { f.Home.Free, f.Models[1].Pinned = 1<<20, true }, "disk", Bad, "is full", "du -xh /h"},
		"full, wanted":        {func(f *Facts) { f.Home.Free, f.Models[1].Wanted = 1<<20, true }, "disk", Bad, "is full", "du -xh /h"},
		"disk low":            {func(f *Facts) { f.Home.Free = 500 << 20 }, "disk", Warn, "500 MiB", "model rm"},
		"over the quota":      {func(f *Facts) { f.Health.Quota, f.Health.QuotaUsed = 1<<30, 2<<30 }, "disk", Bad, "quota", "shoal model gc --home /h"},
		"quota reached":       {func(f *Facts) { f.Health.Quota, f.Health.QuotaUsed = 2<<30, 2<<30-1 }, "disk", Warn, "quota is reached", `echo 'quota = "4096MiB"' >> /h/config.toml && `},
		"memory of others":    {func(f *Facts) { f.Machine.MemoryFree = 1 << 30 }, "memory", Warn, "other programs leave", "memory ="},
		"a small container":   {func(f *Facts) { f.Machine.MemoryLimit = 2 << 30 }, "memory", Bad, "container", `'memory = "1024MiB"'`},
		"no Landlock":         {func(f *Facts) { f.Status.Serving[0].Unfenced = []string{"files: no Landlock"} }, "fence", Warn, "not kept from files: no Landlock", "Linux 6.2"},
		"peers that are gone": {func(f *Facts) { f.Health.Lookups = &api.Lookups{Found: 3, Dials: 40, Dead: 21} }, "lookups", Warn, "21 of 40 peers", ""},
		"few are gone": {func(f *Facts) {
			f.Health.Lookups = &api.Lookups{Found: 3, Failed: 1, FirstMs: 240, Hops: 2.5, Dials: 40, Dead: 4}
		}, "lookups", OK, "in 0.24 s on average, over 2.5 answers; 1 of 4 searches found none", ""},
		"a fence":        {func(f *Facts) { f.Status.Serving[0].Fence = []string{"files", "network"} }, "fence", OK, "files, network", ""},
		"an engine lost": {func(f *Facts) { f.Health.Engines = []api.Losses{{Name: "m", To: 4, Count: 1, Last: "exit status 2"}} }, "engine", Warn, "lost 1 times", "shoal --log-level info node"},
		"again and again": {func(f *Facts) {
			f.Health.Engines = []api.Losses{{Name: "m", To: 4, Count: 5, Last: "signal: killed", Killed: true}}
		}, "engine", Bad, "memory is short", `'memory = "4096MiB"'`},
		"full, not known": {func(f *Facts) {
			f.Home.Free, f.Daemon.Answers, f.Status = 1<<20, false, &api.Status{Light: true}
		}, "disk", Bad, "is full", "du -xh /h"},
		"a fence, a GPU": {func(f *Facts) {
			s := &f.Status.Serving[0]
			s.Devices, s.Fence, s.Unfenced = []string{"CPU CPU", "CUDA GPU0"}, []string{"files"}, []string{"memory: no bound is set where a GPU may be used"}
		}, "fence", OK, "files", ""},
		"GPU, no backend":  {func(f *Facts) { f.Machine.GPUs = []GPU{{Name: "GPU 0", Backend: "cuda"}} }, "gpu", Warn, "no cuda backend", "contrib/accel"},
		"GPU, no driver":   {func(f *Facts) { f.Machine.GPUs = []GPU{{Name: "GPU", Backend: "cuda", Driver: "sudo modprobe nvidia"}} }, "gpu", Warn, "driver", "sudo modprobe nvidia"},
		"GPU, no leave":    {func(f *Facts) { f.Machine.GPUs = []GPU{{Name: "G", Backend: "hip", Library: true, Denied: "/dev/kfd"}} }, "gpu", Warn, "/dev/kfd", "sudo usermod -aG render ann"},
		"GPU, not used":    {func(f *Facts) { f.Machine.GPUs = []GPU{{Name: "G", Backend: "hip", Library: true}} }, "gpu", Warn, "no span is on it", "--log-level info"},
		"API for all":      {func(f *Facts) { f.Status.APIOpen = true }, "api", Warn, "no key", `echo 'api-key = "s3cret"' >> /h/config.toml`},
		"no UDP":           {func(f *Facts) { f.Machine.UDPErr = "refused" }, "udp", Bad, "refused", "lo up"},
		"a small buffer":   {func(f *Facts) { f.Machine.UDPBuffer = 208 << 10 }, "udp", Warn, "208 KiB", "sysctl -w net.core.rmem_max=7500000"},
		"no QUIC":          {func(f *Facts) { f.Peers[0].Addr = "/ip4/10.0.0.3/tcp/9" }, "udp", Warn, "none by QUIC", "forward port 9"},
		"a NAT":            {func(f *Facts) { f.Health.Reach, f.Machine.Firewall = "private", "ufw" }, "reach", Warn, "cannot dial", "sudo ufw allow 9"},
		"relays alone":     {func(f *Facts) { f.Peers[0].Relayed, f.Peers[1].Relayed = true, true }, "reach", Bad, "through relays", "forward port 9"},
		"no peers":         {func(f *Facts) { f.Peers, f.Health.Alone, f.Health.Coverage = nil, true, nil }, "peers", Bad, "nowhere to look", "shoal node --home /h --open --bootstrap ADDRESS"},
		"alone in a swarm": {func(f *Facts) { f.Peers = nil; own(f, 1) }, "peers", OK, "no other machine is in swarm anna; `shoal invite --home /h` prints", ""},
		"members away":     {func(f *Facts) { f.Peers = nil; own(f, 3) }, "peers", Warn, "2 other members are known in swarm anna", "shoal swarm members --home /h"},
		"in no network":    {func(f *Facts) { f.Peers = nil; f.Status.Open, f.Status.Networks = false, []api.Network{} }, "peers", OK, "in no network yet", ""},
		"a gap in a swarm": {func(f *Facts) { own(f, 1); f.Health.Coverage[0].Missing = []string{"4-8"} }, "blocks", Bad, "blocks 4-8 of 8", "shoal join --home /h-2 $(shoal invite --home /h) && shoal node --home /h-2 --model m --span 4-8 --api off"},
		"open as before":   {func(f *Facts) { f.Kept = true }, "access", Warn, "nobody has chosen that", "shoal config set --home /h open true"},
		"a broken swarm":   {func(f *Facts) { f.Broken = []string{"a swarm cannot be used"} }, "access", Bad, "cannot be used", ""},
		"of a later start": {func(f *Facts) { f.Daemon = Daemon{} }, "access", OK, "from its next start on: open", ""},
		"alone and whole":  {func(f *Facts) { f.Peers, f.Health.Alone = nil, true }, "peers", Warn, "nowhere to look", "--bootstrap"},
		"nobody on mDNS":   {func(f *Facts) { f.Peers = nil }, "peers", Warn, "mDNS", "--bootstrap"},
		"one of two there": {func(f *Facts) { f.Health.Unreached = []api.Unreached{{Peer: "x", Bootstrap: true, Why: "silence"}} }, "peers", Warn, "silence", "--bootstrap ADDRESS"},
		"it moved": {func(f *Facts) {
			f.Config.Bootstrap, f.Config.Keys = []string{"/ip4/1.2.3.4/udp/5/quic-v1/p2p/x"}, []string{"bootstrap"}
			f.Health.Unreached = []api.Unreached{{Peer: "x", Bootstrap: true}}
		}, "peers", Warn, "bootstrap peer x", "s|/ip4/1.2.3.4/udp/5/quic-v1/p2p/x|ADDRESS|"},
		"one stranger":   {func(f *Facts) { f.Health.Strangers = []api.Peer{{Peer: "s", Version: "shoal/0.1"}} }, "versions", Warn, "shoal/0.1", "git pull && make"},
		"only strangers": {func(f *Facts) { f.Health.Strangers = []api.Peer{{Peer: "s"}, {Peer: "t"}} }, "versions", Bad, "version unknown", "git pull && make"},
		"behind":         {func(f *Facts) { f.Health.ClockOffMs = -180_000 }, "clock", Bad, "3m0s behind", "set the clock"},
		"a bit ahead":    {func(f *Facts) { f.Health.ClockOffMs = 30_000 }, "clock", Warn, "30s ahead", "set the clock"},
		"1970":           {func(f *Facts) { f.Health.ClockPeers, f.Now = 0, time.Unix(5, 0).UTC() }, "clock", Bad, "1970-01-01", "set the clock"},
		"a gap":          {func(f *Facts) { f.Health.Coverage[0].Missing = []string{"4-8"} }, "blocks", Bad, "blocks 4-8 of 8", "shoal node --home /h-2 --model m --span 4-8 --open --bootstrap /ip4/127.0.0.1/udp/9/quic-v1/p2p/me --api off"},
		"a gap, no node": {func(f *Facts) { f.Daemon, f.Health.Coverage[0].Missing = Daemon{}, []string{"4-8"} }, "blocks", Bad, "4-8", "shoal node --home /h --model m --span 4-8"},
		"not ready":      {func(f *Facts) { f.Status.Serving[0].Ready, f.Status.Serving[0].State = false, "looking for the model" }, "serving", Warn, "looking for", "shoal model add --home /h FILE"},
		"nothing served": {func(f *Facts) { f.Status.Serving = nil }, "serving", Warn, "no model", "--model NAME"},
	} {
		t.Run(name, func(t *testing.T) {
			f := sound()
			c.break_(f)
			all := Examine(f)
			for _, v := range all {
				if v.Check == c.check && v.State == c.state && strings.Contains(v.What, c.what) && strings.Contains(v.Fix, c.fix) && (c.fix != "" || v.Fix == "") {
					return
				}
			}
			t.Errorf("want %s %s %q → %q in %+v", c.check, c.state, c.what, c.fix, all)
		})
	}
}

// A program gets from a shell exactly the text that Quote quoted.
func TestQuote(t *testing.T) {
	for _, s := range []string{"", "plain", "two words", "it's", "$HOME `id` \"x\" \\", "a;b|c&d", "ä\nb", "-n"} {
		out, err := exec.Command("sh", "-c", "printf %s "+Quote(s)).Output()
		if err != nil || string(out) != s && s != "-n" {
			t.Errorf("%q became %q, %v", s, out, err)
		}
	}
}

// Look reads the machine's properties from its files.
func TestLook(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"dev/nvidia0": "", "dev/nvidiactl": "", "dev/dri/renderD128": "", "proc/sys/net/core/rmem_max": "212992\n",
		"proc/meminfo": "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:    8192 kB\n", "sys/fs/cgroup/memory.max": "max\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lib := t.TempDir()
	m := Look(root, []string{lib})
	if len(m.GPUs) != 1 || m.GPUs[0].Backend != "cuda" || m.GPUs[0].Library || m.Memory != 16<<20 || m.MemoryFree != 8<<20 || m.MemoryLimit != 0 || m.UDPBuffer != 212992 || m.UDPErr != "" {
		t.Errorf("%+v", m)
	}
	for _, dir := range []string{"cuda_v12", "."} { // the engine does not search subdirectories
		if err := os.MkdirAll(filepath.Join(lib, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(lib, dir, "libggml-cuda.so"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if m := Look(root, []string{lib}); m.GPUs[0].Library != (dir == ".") {
			t.Errorf("in %s: %+v", dir, m.GPUs)
		}
	}
}
