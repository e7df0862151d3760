package doctor

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/home"
)

// State is the result of a check.
type State string

const (
	OK   State = "ok"
	Warn State = "warn" // it works, but could work better or may soon fail
	Bad  State = "bad"
)

// Finding is one result of a check.
type Finding struct {
	Check string `json:"check"`
	State State  `json:"state"`
	What  string `json:"what"`
	Fix   string `json:"fix,omitempty"` // a shell command, or what a person must do
}

// Facts are the input of the checks.
type Facts struct {
	Program string // as invoked
	Version string
	Slow    string // what is wrong with its build; "": nothing
	Home    Home
	Config  Config
	Machine Machine
	Daemon  Daemon
	Now     time.Time
	Built   time.Time // when the program's source was committed; zero: not known

	API   Listener   // from the settings, if no daemon is running
	Ports []Listener // likewise, for peers

	Who    string   // may use the node, from its next start on if it does not run; "": not known
	Kept   bool     // strangers, among others, because the home was in the open network before it had to be chosen
	Broken []string // why swarms of the home cannot be used

	// From the daemon, or from a light client that looked for peers; nil: not available.
	Status *api.Status
	Health *api.Health
	Peers  []api.Peer

	Models []Model // in the store

	Library Library // of llama.cpp
}

// Config holds the effective settings, and what is wrong with them.
type Config struct {
	File      string // path of the configuration file, which may not exist
	Present   bool
	Err       string // why it cannot be used
	Line      int    // of the file, or 0
	Key, Near string // the setting at fault, and the one that was probably meant
	Env       string // the environment variable that sets it, if not the file
	Keys      []string

	API       string
	APIKey    bool
	NoKey     bool  // other machines can reach the API, and are refused because there is no key
	Memory    int64 // bytes lent
	Quota     int64
	NoMDNS    bool
	Bootstrap []string
	Engine    string // auto, ggml or llama
	LlamaDir  string // the folder of llama.cpp's library, if one is named
}

// Daemon is the node of the home.
type Daemon struct {
	Word    bool   // api.json exists: a node is running, or did not shut down cleanly
	PID     int    // from api.json
	Alive   bool   // a process with that PID holds the store's lock
	Answers bool   // and its API answers
	Code    int    // if not, HTTP status of its answer to a request without the token
	API     string // from api.json
	Socket  string // likewise
}

// Listener is an address that a node will listen on.
type Listener struct {
	Addr  string // host:port
	Flag  string // the flag that sets it
	Kept  bool   // picked at an earlier start; replaced if taken
	Err   string // why it cannot; "": it can
	Taken bool
	Owner Process // of a taken port, if visible
	Free  int     // another port that is free
}

// Model in the store.
type Model struct {
	ID, Name string
	Held     int64    // bytes
	Pinned   bool     // all or part of it
	Wanted   bool     // a node with these settings serves it
	Blocks   int      // 0: not known
	Damaged  []string // shards: header, embedding, block N, output
	Leaves   int      // damaged
	Foreign  string   // why the built-in engine does not compute it; "": it does, or that is not known
	Doubts   []string // why its answers may be worse than its makers', a sentence each
	Err      string   // why it cannot be read at all
}

// Examine runs all checks that the facts allow.
func Examine(f *Facts) []Finding {
	var all []Finding
	for _, check := range []struct {
		name string
		of   func(*Facts) []Finding
	}{
		{"build", build}, {"config", config}, {"home", homeDir}, {"key", key}, {"daemon", daemon}, {"store", storeLock}, {"models", models}, {"disk", disk}, {"memory", memory},
		{"engine", engines}, {"library", library}, {"fence", fences}, {"gpu", gpu}, {"api", apiAddress}, {"ports", ports}, {"udp", udp}, {"reach", reach}, {"lookups", lookups}, {"access", access}, {"peers", peers}, {"versions", versions}, {"clock", clock}, {"blocks", blocks}, {"serving", serving},
	} {
		for _, v := range check.of(f) {
			v.Check = check.name
			all = append(all, v)
		}
	}
	return all
}

// Worst returns the worst state among the findings.
func Worst(all []Finding) State {
	worst := OK
	for _, v := range all {
		if v.State == Bad || worst == OK {
			worst = v.State
		}
	}
	return worst
}

func ok(format string, args ...any) []Finding {
	return []Finding{{State: OK, What: fmt.Sprintf(format, args...)}}
}

func warn(fix, format string, args ...any) []Finding {
	return []Finding{{State: Warn, What: fmt.Sprintf(format, args...), Fix: fix}}
}

func bad(fix, format string, args ...any) []Finding {
	return []Finding{{State: Bad, What: fmt.Sprintf(format, args...), Fix: fix}}
}

var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// Quote quotes s as one word for a shell.
func Quote(s string) string {
	if plain.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// shoal returns a command line of this program for this home. Flags come before
// arguments.
func (f *Facts) shoal(command string, args ...string) string {
	line := append([]string{f.Program}, strings.Fields(command)...)
	if !f.Home.Default {
		line = append(line, "--home", f.Home.Dir)
	}
	line = append(line, args...)
	for i := range line {
		line[i] = Quote(line[i])
	}
	return strings.Join(line, " ")
}

// set returns the line that sets a value in the configuration file and restarts a
// running daemon to apply it.
func (f *Facts) set(key, value string) string {
	file := f.Config.File
	line := fmt.Sprintf("%s = %q", key, value)
	cmd := fmt.Sprintf("echo %s >> %s", Quote(line), Quote(file))
	if slices.Contains(f.Config.Keys, key) {
		cmd = fmt.Sprintf("sed -i.bak %s %s", Quote(fmt.Sprintf(`s|^ *"*%s"* *=.*|%s|`, key, line)), Quote(file))
	}
	if f.Daemon.Answers {
		cmd += " && " + f.restart()
	}
	return cmd
}

func (f *Facts) restart() string { return f.shoal("drain") + " && " + f.shoal("node") }

func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

func (f *Facts) files() home.Home { return home.Home(f.Home.Dir) }
