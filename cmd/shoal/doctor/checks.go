package doctor

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/api"
)

func build(f *Facts) []Finding {
	if f.Slow != "" {
		return bad("make", "%s", f.Slow)
	}
	return ok("version %s, built for this processor", f.Version)
}

func config(f *Facts) []Finding {
	c := &f.Config
	switch {
	case c.Err == "" && c.Present:
		return ok("%s is in order", c.File)
	case c.Err == "":
		return ok("no %s; defaults, flags and SHOAL_* variables apply", c.File)
	case c.Key == "api":
		return bad(f.set("api-key", f.Machine.Secret), "%s", c.Err)
	case c.Line > 0 && c.Near != "":
		return bad(fmt.Sprintf("sed -i.bak %s %s", Quote(fmt.Sprintf("%ds/%s/%s/", c.Line, c.Key, c.Near)), Quote(c.File)), "%s (did you mean %s?)", c.Err, c.Near)
	case c.Line > 0:
		return bad(fmt.Sprintf("sed -i.bak %s %s", Quote(fmt.Sprintf("%ds/^/# /", c.Line)), Quote(c.File)), "%s; the command comments the line out", c.Err)
	case c.Env != "":
		return bad("unset "+c.Env, "%s; it comes from %s in the environment", c.Err, c.Env)
	}
	return bad(f.Program+" node --help", "%s", c.Err)
}

func homeDir(f *Facts) []Finding {
	h := &f.Home
	switch {
	case h.NotDir:
		return bad(fmt.Sprintf("mv %s %s.old", Quote(h.Dir), Quote(h.Dir)), "%s is a file, but must be a directory", h.Dir)
	case !h.Present && h.Unmakeable:
		return bad(fmt.Sprintf("sudo install -d -m 700 -o %s %s", Quote(h.User), Quote(h.Dir)), "%s does not exist, and %s may not make it", h.Dir, h.User)
	case !h.Present:
		return ok("%s does not exist yet; `shoal node` creates it", h.Dir)
	case len(h.Denied) > 0 && h.Mine:
		return bad("chmod -R u+rwX "+Quote(h.Dir), "%s may not write %s", h.User, strings.Join(h.Denied, ", "))
	case len(h.Denied) > 0:
		return bad(fmt.Sprintf("sudo chown -R %s %s", Quote(h.User), Quote(h.Dir)), "%s may not write %s: it belongs to another user", h.User, strings.Join(h.Denied, ", "))
	}
	return ok("%s", h.Dir)
}

func key(f *Facts) []Finding {
	h := &f.Home
	var out []Finding
	if h.KeyErr != "" {
		out = append(out, bad(fmt.Sprintf("mv %s %s", Quote(f.files().Key()), Quote(f.files().Key()+".damaged")), "the node's key %s is damaged: restore a backup, or move it away to get a new key and peer ID", f.files().Key())...)
	}
	for _, path := range h.Loose {
		out = append(out, bad("chmod 600 "+Quote(path), "other users of this machine can read %s, and could impersonate this node with it", path)...)
	}
	if len(out) == 0 && h.HasKey {
		return ok("only %s can read the node's keys", h.User)
	}
	return out
}

func daemon(f *Facts) []Finding {
	d := &f.Daemon
	switch {
	case d.Answers && f.Status != nil && f.Status.Version != f.Version:
		return warn(f.restart(), "the running node is version %s, this program %s", f.Status.Version, f.Version)
	case d.Answers && f.Status != nil:
		return ok("node %s runs, up %s, API %s", f.Status.Peer, f.Status.Uptime.Round(time.Second), d.at())
	case d.Code == http.StatusUnauthorized:
		return bad(end("", d.PID)+f.shoal("node"), "the node with process ID %d does not take the token in %s: the file has changed since it started", d.PID, f.files().APIToken())
	case d.Code != 0:
		return warn("", "the node with process ID %d is alive at %s, but refuses this program (HTTP status %d), so its state is unknown", d.PID, d.at(), d.Code)
	case d.Word && d.Alive && d.API == "" && d.Socket == "":
		return warn("", "the node with process ID %d runs without an API and has no socket, so its state is unknown", d.PID)
	case d.Word && d.Alive:
		return bad(end("-9 ", d.PID)+f.shoal("node"), "the node with process ID %d does not answer at %s: it hangs or is suspended", d.PID, d.at())
	case d.Word:
		return bad(f.shoal("node"), "the node that ran here, process %d, has ended without a clean shutdown: it crashed or was killed", d.PID)
	case f.Home.Lock.PID != 0:
		return nil // storeLock reports more
	}
	return warn(f.shoal("node"), "no node is running in %s; this machine lends nothing", f.Home.Dir)
}

// at names the address of the node's API, or its socket.
func (d *Daemon) at() string {
	if d.API != "" {
		return "http://" + d.API + "/v1"
	}
	return "off, except for its socket " + d.Socket
}

// end returns a shell line that ends a process and waits until it has gone, and its
// locks with it; the caller appends what to run then.
func end(how string, pid int) string {
	return fmt.Sprintf("kill %s%d; while kill -0 %d 2>/dev/null; do sleep 0.1; done; ", how, pid, pid)
}

func storeLock(f *Facts) []Finding {
	p := f.Home.Lock
	switch {
	case f.Daemon.Answers || f.Daemon.Alive || !f.Home.Locked:
		return nil
	case p.Shoal:
		return warn("", "process %d, a shoal without an API, holds the store: its state is unknown", p.PID)
	case p.PID == 0:
		return bad(f.Program+" node --home "+Quote(f.Home.Dir+"-2"), "another process has locked the store %s; which one cannot be seen", f.files().Store())
	}
	return bad(fmt.Sprintf("kill %d", p.PID), "process %d (%s) has locked the store %s, and is not a node that answers", p.PID, p.Name, f.files().Store())
}

func models(f *Facts) []Finding {
	var out []Finding
	for _, m := range f.Models {
		if m.Err != "" {
			out = append(out, bad(f.shoal("model pull", m.ID), "model %s cannot be read from the disk: %s", m.Name, m.Err)...)
		}
		for _, why := range m.Doubts {
			out = append(out, warn(f.shoal("model show", m.Name), "%s: %s", m.Name, why)...)
		}
		if len(m.Damaged) == 0 {
			continue
		}
		out = append(out, bad(f.shoal("model verify", "--repair", m.Name), "%d damaged leaves on disk in %s of %s; the command drops them and fetches them again", m.Leaves, strings.Join(m.Damaged, ", "), m.Name)...)
	}
	if len(out) > 0 || len(f.Models) == 0 {
		return out
	}
	var held int64
	for _, m := range f.Models {
		held += m.Held
	}
	return ok("%d on disk, %s, all matching their hashes", len(f.Models), size(held))
}

const (
	diskFull = 64 << 20
	diskLow  = 1 << 30
)

func disk(f *Facts) []Finding {
	fix := "du -xh " + Quote(f.Home.Dir) + " | sort -h | tail"
	if m := f.spare(); m != nil {
		fix = f.shoal("model rm", m.Name)
	}
	free, limit, used := f.Home.Free, f.Config.Quota, int64(0)
	if f.Health != nil && f.Daemon.Answers {
		limit, used = f.Health.Quota, f.Health.QuotaUsed
	}
	switch {
	case f.Home.FreeKnown && free < diskFull:
		return bad(fix, "the disk of %s is full: only %s are free", f.Home.Dir, size(free))
	case limit > 0 && used > limit:
		return bad(f.shoal("model gc"), "models that are not pinned take %s, more than the quota of %s: the command drops the least recently used", size(used), size(limit))
	case limit > 0 && used > limit/20*19:
		return warn(f.set("quota", sizeSetting(2*limit)), "the quota is reached: models that are not pinned take %s of %s, and the next fetch drops the least recently used", size(used), size(limit))
	case f.Home.FreeKnown && free < diskLow:
		return warn(fix, "only %s are free on the disk of %s", size(free), f.Home.Dir)
	case f.Home.FreeKnown:
		return ok("%s are free", size(free))
	}
	return nil
}

// spare returns the largest model that could be removed: it is neither pinned nor
// served, nor would a node with these settings serve it. nil: there is none, or a
// running node does not say what it serves.
func (f *Facts) spare() (largest *Model) {
	if !f.Daemon.Answers && (f.Home.Locked || f.Daemon.Alive) {
		return nil
	}
	for i := range f.Models {
		m := &f.Models[i]
		served := f.Status != nil && slices.ContainsFunc(f.Status.Serving, func(s api.Serving) bool { return s.Model == m.ID })
		if m.Held > 0 && !m.Pinned && !m.Wanted && !served && (largest == nil || m.Held > largest.Held) {
			largest = m
		}
	}
	return largest
}

// sizeSetting formats a size for a setting.
func sizeSetting(n int64) string { return fmt.Sprintf("%dMiB", max(1, n>>20)) }

func memory(f *Facts) []Finding {
	m, lent := &f.Machine, f.Config.Memory
	own := int64(0) // bytes that this node uses already
	if f.Status != nil && f.Daemon.Answers {
		lent = f.Status.Memory
		for _, s := range f.Status.Serving {
			own += int64(s.Memory)
		}
	}
	if m.Memory == 0 || lent == 0 {
		return nil
	}
	have, what := m.Memory, "the machine has"
	if m.MemoryLimit > 0 && m.MemoryLimit < have {
		have, what = m.MemoryLimit, "this container may use"
	}
	switch {
	case lent > have:
		return bad(f.set("memory", sizeSetting(have/2)), "%s of memory are lent, but %s only %s: the kernel will kill the engine", size(lent), what, size(have))
	case m.MemoryFree > 0 && lent > m.MemoryFree+own:
		return warn(f.set("memory", sizeSetting(max(have/16, (m.MemoryFree+own)/4*3))), "%s of memory are lent, but other programs leave only %s", size(lent), size(m.MemoryFree+own))
	}
	return ok("%s of %s are lent", size(lent), size(have))
}

// looping is how many losses of an engine in ten minutes mean a crash loop.
const looping = 3

func engines(f *Facts) []Finding {
	if f.Health == nil || !f.Daemon.Answers {
		return nil
	}
	var out []Finding
	for _, e := range f.Health.Engines {
		what := fmt.Sprintf("the engine of %s %d-%d was lost %d times in ten minutes, the last time: %s", e.Name, e.From, e.To, e.Count, e.Last)
		fix := fmt.Sprintf("%s && %s", f.shoal("drain"), logged(f))
		if e.Killed {
			lent := int64(1 << 30)
			if f.Status != nil {
				lent = f.Status.Memory
			}
			what += "; the kernel does that when memory is short: lend less"
			fix = f.set("memory", sizeSetting(lent/2))
		}
		if e.Count >= looping {
			out = append(out, bad(fix, "%s", what)...)
		} else {
			out = append(out, warn(fix, "%s", what)...)
		}
	}
	if len(out) == 0 && len(f.Status.Serving) > 0 {
		return ok("none was lost recently")
	}
	return out
}

// fences reports what an engine is kept from if a stranger's model takes it over.
func fences(f *Facts) []Finding {
	if f.Status == nil || !f.Daemon.Answers {
		return nil
	}
	for _, s := range f.Status.Serving {
		open := slices.DeleteFunc(slices.Clone(s.Unfenced), func(what string) bool {
			return strings.HasPrefix(what, "memory:") && onGPU(s) // no bound is possible there
		})
		switch {
		case len(open) > 0:
			return warn("run it on Linux 6.2 or newer, on amd64 or arm64, with landlock in /sys/kernel/security/lsm", "a model that takes over its engine is not kept from %s", strings.Join(open, "; "))
		case len(s.Fence) > 0:
			return ok("engines are kept from this machine's %s", strings.Join(s.Fence, ", "))
		}
	}
	return nil
}

// logged returns the line that starts a node which logs its engine's last output.
func logged(f *Facts) string {
	return strings.Replace(f.shoal("node"), " node", " --log-level info node", 1)
}

func gpu(f *Facts) []Finding {
	var out []Finding
	for _, g := range f.Machine.GPUs {
		switch {
		case g.Denied != "":
			out = append(out, warn(fmt.Sprintf("sudo usermod -aG %s %s", cmp.Or(g.Group, "render"), Quote(f.Home.User)), "%s: %s may not open %s; the command takes effect at the next login", g.Name, f.Home.User, g.Denied)...)
		case g.Driver != "":
			out = append(out, warn(g.Driver, "%s: the device is present, but its driver is not loaded", g.Name)...)
		case !g.Library && slices.Contains(f.Library.Backends, g.Backend) && f.Library.Why == "":
			out = append(out, ok("%s, with the back end of llama.cpp's library", g.Name)...)
		case !g.Library:
			out = append(out, warn("make -C contrib/accel "+g.Backend, "%s is present but not used: no %s backend (libggml-%s*) in %s", g.Name, g.Backend, g.Backend, strings.Join(f.Machine.LibraryDirs, " or "))...)
		case f.Daemon.Answers && f.Status != nil && len(f.Status.Serving) > 0 && !slices.ContainsFunc(f.Status.Serving, onGPU):
			out = append(out, warn(logged(f), "%s and its backend are present, but no span is on it: the log says why", g.Name)...)
		default:
			out = append(out, ok("%s, with its backend", g.Name)...)
		}
	}
	if len(out) == 0 {
		return ok("none; the processor does the computing")
	}
	return out
}

// onGPU reports whether a span uses a device other than the processor.
func onGPU(s api.Serving) bool {
	return slices.ContainsFunc(s.Devices, func(d string) bool { return !strings.HasPrefix(d, "CPU") })
}

func apiAddress(f *Facts) []Finding {
	addr := f.API.Addr
	if f.Daemon.Answers {
		addr = f.Daemon.API
	}
	if l := f.API; !f.Daemon.Answers && l.Err != "" {
		host, _, _ := net.SplitHostPort(l.Addr)
		if !l.Taken {
			return bad(f.shoal("node", "--api", "127.0.0.1:11500"), "the API cannot listen on %s: %s", l.Addr, l.Err)
		}
		if f.Home.Locked || f.Daemon.Alive {
			return nil // taken by this home's own node, which other checks report on
		}
		return bad(f.shoal("node", "--api", net.JoinHostPort(host, strconv.Itoa(l.Free))), "the API's address %s is taken%s", l.Addr, by(l.Owner))
	}
	if addr == "" {
		return ok("off")
	}
	if f.Daemon.Answers && f.Status != nil && f.Status.APIOpen {
		return warn(f.set("api-key", f.Machine.Secret), "anyone who can reach this machine can use the API at %s: it has no key, and --api-open allows that", addr)
	}
	if f.Daemon.Answers && f.Status != nil && f.Status.APIClosed || !f.Daemon.Answers && f.Config.NoKey {
		return warn(f.shoal("key add", "me"), "the API at %s has no key: callers on other machines are refused until one is made", addr)
	}
	if f.Daemon.Answers && f.Status != nil && len(f.Status.URLs) > 0 {
		return ok("%s; the node's page: open %s in a browser", addr, f.Status.URLs[0])
	}
	return ok("%s", addr)
}

// by names the owner of a port, if it is visible.
func by(p Process) string {
	if p.PID == 0 {
		return ""
	}
	return fmt.Sprintf(" by process %d (%s)", p.PID, p.Name)
}

func ports(f *Facts) []Finding {
	if f.Daemon.Answers || f.Home.Locked {
		return nil
	}
	for _, l := range f.Ports {
		switch {
		case l.Err == "":
		case !l.Taken:
			return bad(f.shoal("node", "--"+l.Flag, "0"), "cannot listen on %s: %s", l.Addr, l.Err)
		case l.Kept:
			return warn(f.shoal("node", "--listen-port", strconv.Itoa(l.Free)), "the port of the last start, %s, is taken%s: the node will pick another, and peers that know the old one must learn it", l.Addr, by(l.Owner))
		default:
			return bad(f.shoal("node", "--listen-port", strconv.Itoa(l.Free)), "the port for peers, %s, is taken%s", l.Addr, by(l.Owner))
		}
	}
	if len(f.Ports) == 0 {
		return nil
	}
	return ok("%s and the other addresses are free", f.Ports[0].Addr)
}

// goodUDP is the receive buffer that quic-go asks for, in bytes.
const goodUDP = 7 << 20

func udp(f *Facts) []Finding {
	m := &f.Machine
	if m.UDPErr != "" {
		return bad("sudo ip link set lo up", "UDP does not even work within this machine: %s; QUIC will not work", m.UDPErr)
	}
	quic, other := 0, 0
	for _, p := range f.Peers {
		if strings.Contains(p.Addr, "/quic") {
			quic++
		} else {
			other++
		}
	}
	if quic == 0 && other > 1 && f.Health != nil {
		return warn(allow(f, f.Health.Port), "all %d peers are connected over TCP, none by QUIC: UDP seems to be blocked, so each token takes longer", other)
	}
	if m.UDPBuffer > 0 && m.UDPBuffer < goodUDP {
		return warn("sudo sysctl -w net.core.rmem_max=7500000 net.core.wmem_max=7500000", "the kernel limits UDP receive buffers to %s; below %s QUIC loses packets at high rates", size(m.UDPBuffer), size(goodUDP))
	}
	return ok("UDP works, with a large enough buffer")
}

// allow returns the line that opens a port in this machine's firewall, or else says what
// to do.
func allow(f *Facts, port int) string {
	switch f.Machine.Firewall {
	case "ufw":
		return fmt.Sprintf("sudo ufw allow %d", port)
	case "firewall-cmd":
		return fmt.Sprintf("sudo firewall-cmd --permanent --add-port=%d/udp --add-port=%d/tcp && sudo firewall-cmd --reload", port, port)
	}
	return fmt.Sprintf("forward port %d, UDP and TCP, to this machine in the router and its firewall", port)
}

func reach(f *Facts) []Finding {
	if f.Health == nil || !f.Daemon.Answers {
		return nil
	}
	relayed := 0
	for _, p := range f.Peers {
		if p.Relayed {
			relayed++
		}
	}
	r := f.Health.Reachability
	held := r != nil && len(r.Relays) > 0
	var out []Finding
	switch {
	case len(f.Peers) > 0 && relayed == len(f.Peers):
		out = bad(allow(f, f.Health.Port), "all %d peers are connected through relays: this node is behind a NAT or firewall, and too slow for others to use", relayed)
	case f.Health.Reach == "private" && held:
		out = ok("peers elsewhere cannot dial this node directly; they reach it through relays, and try for a direct path from there")
	case f.Health.Reach == "private":
		out = warn(allow(f, f.Health.Port), "peers elsewhere cannot dial this node: it is behind a NAT or a firewall that lets nothing in on port %d", f.Health.Port)
	case f.Health.Reach == "public":
		out = ok("peers elsewhere can dial this node%s", provenText(r))
	case f.Health.Reach == "local":
		out = ok("it listens only on loopback, as configured")
	case r != nil && r.Verdict == "claimed":
		out = ok("peers elsewhere may be able to dial this node (%s); two that it has never sent anything to must connect before it relies on that", strings.Join(r.Claims, ", "))
	default:
		out = ok("no peer has tested yet whether this node can be dialled from elsewhere")
	}
	if r == nil {
		return out
	}
	return append(out, paths(r)...)
}

// fewDials are too few to say something of.
const fewDials = 20

// lookups tells how peers are found in the DHT.
func lookups(f *Facts) []Finding {
	if f.Health == nil || f.Health.Lookups == nil {
		return nil
	}
	l := f.Health.Lookups
	switch searches := l.Found + l.Failed; {
	case l.Dials >= fewDials && 2*l.Dead > l.Dials:
		return warn("", "%d of %d peers that searches dialled could not be reached, so it takes long to find who serves a model: what this node knows of the network is out of date, or its line loses what it sends", l.Dead, l.Dials)
	case l.Found > 0:
		return ok("the peers of a model are found in %.2f s on average, over %.1f answers; %d of %d searches found none, and %d of %d dials nobody", l.FirstMs/1000, l.Hops, l.Failed, searches, l.Dead, l.Dials)
	}
	return nil
}

// provenText is how it is known that peers can dial the node.
func provenText(r *api.Reachability) string {
	switch {
	case r == nil:
		return ""
	case slices.Contains(r.Claims, "user"):
		return ", as its operator says"
	case r.ProvenUntil != nil:
		return ": some that it had never sent anything to have connected"
	}
	return ""
}

// paths describes the NAT in front of the node, its relays, and how many peers are
// reached directly.
func paths(r *api.Reachability) (out []Finding) {
	var seen []string
	for _, t := range []string{"udp4", "tcp4", "udp6", "tcp6"} {
		if n := r.NAT[t]; n.Observers > 0 {
			seen = append(seen, t+" "+natText(n))
		}
	}
	if len(seen) > 0 {
		out = append(out, ok("as peers see it: %s", strings.Join(seen, "; "))...)
	}
	if len(r.Mapped) > 0 {
		out = append(out, ok("the router forwards %s to this node", strings.Join(r.Mapped, ", "))...)
	}
	if r.UDP == "blocked" {
		out = append(out, warn("let UDP out in the firewall of this machine or its router", "UDP does not get through to peers elsewhere; TCP is slower")...)
	}
	var relays []string
	for _, x := range r.Relays {
		relays = append(relays, fmt.Sprintf("%s (%.0f ms)", x.Peer, x.RTTMs))
	}
	if len(relays) > 0 {
		out = append(out, ok("it can be reached through %s", strings.Join(relays, ", "))...)
	}
	if r.RelayFor {
		out = append(out, ok("it relays for nodes that cannot reach each other")...)
	}
	if r.Direct+r.Relayed > 0 {
		v6 := "no peer elsewhere is connected over IPv6"
		if r.IPv6 {
			v6 = "IPv6 works"
		}
		out = append(out, ok("%d peers are reached directly and %d through relays; %s", r.Direct, r.Relayed, v6)...)
	}
	return out
}

// natText describes a NAT.
func natText(n api.NAT) string {
	switch n.Mapping {
	case "none":
		return n.Outside + ", no NAT"
	case "same":
		return n.Outside + ", one port for all peers: direct paths are usual"
	case "symmetric":
		return n.Outside + ", another port for each peer: direct paths only to peers behind simple routers"
	}
	return n.Outside + ", seen from one network alone"
}

func peers(f *Facts) []Finding {
	h := f.Health
	if h == nil {
		return nil
	}
	var out []Finding
	for _, u := range h.Unreached {
		if !u.Bootstrap {
			continue
		}
		where := strings.Join(u.Addrs, ", ")
		state := warn
		if len(f.Peers) == 0 {
			state = bad
		}
		out = append(out, state(f.newAddress(u), "bootstrap peer %s at %s cannot be reached: %s; check that it runs, and replace ADDRESS with the address that `shoal status` prints there", u.Peer, where, u.Why)...)
	}
	switch {
	case len(f.Peers) > 0:
		return append(out, ok("%d connected", len(f.Peers))...)
	case len(out) > 0:
		return out
	case f.private():
		return noFellows(f)
	case h.Alone:
		state := bad
		if whole(f) {
			state = warn
		}
		return state(f.through("ADDRESS"), "no peers, and nowhere to look for any: pass the address of one, as `shoal status` prints it there, or enable mDNS to search the LAN")
	}
	return warn(f.through("ADDRESS"), "no peers: nobody on this LAN answers mDNS (or a firewall blocks UDP port 5353), and no known peer is up; pass the address of one, as `shoal status` prints it there")
}

// newAddress returns the line that replaces a bootstrap peer's address: in the
// configuration file if that has it, else on the command line.
func (f *Facts) newAddress(u api.Unreached) string {
	for _, a := range f.Config.Bootstrap {
		if !strings.HasSuffix(a, u.Peer) || !slices.Contains(f.Config.Keys, "bootstrap") {
			continue
		}
		cmd := fmt.Sprintf("sed -i.bak %s %s", Quote(fmt.Sprintf("s|%s|ADDRESS|", a)), Quote(f.Config.File))
		if f.Daemon.Answers {
			cmd += " && " + f.restart()
		}
		return cmd
	}
	return f.through("ADDRESS")
}

// whole reports whether the running node knows a model of which all blocks are served.
func whole(f *Facts) bool {
	return f.Daemon.Answers && slices.ContainsFunc(f.Health.Coverage, func(c api.Coverage) bool { return len(c.Missing) == 0 && c.Nodes > 0 })
}

func versions(f *Facts) []Finding {
	if f.Health == nil {
		return nil
	}
	var out []Finding
	for _, p := range f.Health.Strangers {
		state := warn
		if len(f.Health.Strangers) >= len(f.Peers) {
			state = bad
		}
		out = append(out, state("git pull && make", "peer %s (%s) speaks another version of the protocol than this node (%s): the older of the two should upgrade", p.Peer, cmp.Or(p.Version, "version unknown"), f.Version)...)
	}
	if len(out) == 0 && len(f.Peers) > 0 {
		return ok("all peers speak this version of the protocol")
	}
	return out
}

const (
	clockBad  = 2 * time.Minute // beyond it, offers are refused: protocol's clockSkew
	clockWarn = 10 * time.Second
)

func clock(f *Facts) []Finding {
	fix := f.Machine.SetClock
	if f.Health != nil && f.Health.ClockPeers > 0 {
		off := time.Duration(f.Health.ClockOffMs) * time.Millisecond
		side, state := "ahead of", warn
		if off < 0 {
			side = "behind"
		}
		if off.Abs() >= clockBad {
			state = bad
		}
		if off.Abs() >= clockWarn {
			return state(fix, "this clock is at least %s %s those of the %d peers that it was compared with; beyond two minutes, offers are refused", off.Abs().Round(time.Second), side, f.Health.ClockPeers)
		}
	}
	if !f.Built.IsZero() && f.Built.After(f.Now.Add(24*time.Hour)) {
		return bad(fix, "this clock says %s, but the program was built on %s", f.Now.Format(time.DateTime), f.Built.Format(time.DateTime))
	}
	if t := f.Home.Latest; t.After(f.Now.Add(clockBad)) {
		return bad(fix, "this clock says %s, but %s was written at %s: the clock is behind, or was ahead", f.Now.Format(time.DateTime), f.Home.LatestFile, t.Format(time.DateTime))
	}
	if f.Health != nil && f.Health.ClockPeers > 0 {
		return ok("agrees with those of %d peers", f.Health.ClockPeers)
	}
	return ok("no sign that it is wrong, but no peer to compare it with")
}

func blocks(f *Facts) []Finding {
	if f.Health == nil {
		return nil
	}
	var out []Finding
	for _, c := range f.Health.Coverage {
		if len(c.Missing) == 0 {
			out = append(out, ok("%s: all %d blocks are served (nodes: %d)", c.Name, c.Blocks, c.Nodes)...)
		}
		for i, gap := range c.Missing {
			if i == 4 {
				out = append(out, bad("", "%s: %d further gaps", c.Name, len(c.Missing)-i)...)
				break
			}
			what := fmt.Sprintf("%s: blocks %s of %d are served by nobody", c.Name, gap, c.Blocks)
			if len(c.Coming) > 0 {
				what += "; a node is about to serve " + strings.Join(c.Coming, ", ")
			}
			out = append(out, bad(f.another(c.Name, gap), "%s", what)...)
		}
	}
	return out
}

// another returns the line that serves missing blocks: with a second node if the daemon
// runs, which serves its own blocks, else with this home's node.
func (f *Facts) another(model, span string) string {
	serve := []string{"--model", model, "--span", span}
	if !f.Daemon.Answers {
		return f.shoal("node", serve...)
	}
	g := *f
	g.Home.Dir, g.Home.Default = f.Home.Dir+"-2", false
	if f.private() { // it joins with a code
		return fmt.Sprintf("%s $(%s) && %s", g.shoal("join"), f.shoal("invite"), g.shoal("node", append(serve, "--api", "off")...))
	}
	serve = append(serve, f.open()...)
	if a := joinAddress(f.Status.Addrs); a != "" {
		serve = append(serve, "--bootstrap", a)
	}
	return g.shoal("node", append(serve, "--api", "off")...)
}

// joinAddress returns an address with which another node on this machine can join.
func joinAddress(addrs []string) string {
	best := ""
	for _, a := range addrs {
		if strings.HasPrefix(a, "/ip4/") && strings.Contains(a, "/quic-v1/") && (best == "" || strings.HasPrefix(a, "/ip4/127.")) {
			best = a
		}
	}
	return best
}

func serving(f *Facts) []Finding {
	if f.Status == nil || !f.Daemon.Answers {
		return nil
	}
	if f.Health != nil && f.Health.Paused != "" {
		return ok("paused by the rules of lending: %s", f.Health.Paused)
	}
	var out []Finding
	for _, s := range f.Status.Serving {
		if s.Ready {
			out = append(out, ok("%s %d-%d, %d sessions", s.Name, s.From, s.To, s.Sessions)...)
			continue
		}
		fix := ""
		if s.State == "looking for the model" {
			fix = f.shoal("model add", "FILE")
		}
		out = append(out, warn(fix, "%s is not served yet: %s", s.Name, s.State)...)
	}
	if len(out) == 0 {
		return warn(f.restart()+" --model NAME", "this node serves nothing: no model is configured")
	}
	return out
}
