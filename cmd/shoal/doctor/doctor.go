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

// State of what was checked.
type State string

const (
	OK   State = "ok"
	Warn State = "warn" // it works, and could work better, or soon may not
	Bad  State = "bad"
)

// Finding is what one check says.
type Finding struct {
	Check string `json:"check"`
	State State  `json:"state"`
	What  string `json:"what"`
	Fix   string `json:"fix,omitempty"` // a line for a shell, or what a person must do
}

// Facts are what the checks look at.
type Facts struct {
	Program string // as it was called
	Version string
	Slow    string // what is wrong with how it was built; "": nothing
	Home    Home
	Config  Config
	Machine Machine
	Daemon  Daemon
	Now     time.Time
	Built   time.Time // when the program's source was committed; zero: not known

	API   Listener   // of the settings, if no daemon runs
	Ports []Listener // likewise, for peers

	// Of the daemon, or of a light client that looked around; nil: not to be had.
	Status *api.Status
	Health *api.Health
	Peers  []api.Peer

	Models []Model // in the store
}

// Config is what the settings come to.
type Config struct {
	File      string // the configuration file, whether it is there or not
	Present   bool
	Err       string // why it cannot be used
	Line      int    // of the file, or 0
	Key, Near string // the setting at fault, and the one that was perhaps meant
	Env       string // the variable that it comes from, if it is not the file
	Keys      []string

	API       string
	APIKey    bool
	Memory    int64 // bytes lent
	Quota     int64
	NoMDNS    bool
	Bootstrap []string
}

// Daemon is the node of the home.
type Daemon struct {
	Word    bool   // api.json is there: one runs, or has not left in order
	PID     int    // that it names
	Alive   bool   // a process has that PID, and the store's lock
	Answers bool   // and its API answers
	Code    int    // HTTP status with which it answers somebody without the token, if not
	API     string // that it names
	Socket  string // likewise
}

// Listener is an address that a node will listen on.
type Listener struct {
	Addr  string // host:port
	Flag  string // that sets it
	Kept  bool   // drawn at an earlier start, and replaced if it is taken
	Err   string // why not; "": it can
	Taken bool
	Owner Process // of a port that is taken, as far as it can be seen
	Free  int     // a port instead
}

// Model in the store.
type Model struct {
	ID, Name string
	Held     int64    // bytes
	Pinned   bool     // or some of it
	Wanted   bool     // a node with these settings serves it
	Blocks   int      // 0: not known
	Damaged  []string // shards: header, embedding, block N, output
	Leaves   int      // damaged
	Err      string   // why it cannot be read at all
}

// Examine checks everything there are facts of.
func Examine(f *Facts) []Finding {
	var all []Finding
	for _, check := range []struct {
		name string
		of   func(*Facts) []Finding
	}{
		{"build", build}, {"config", config}, {"home", homeDir}, {"key", key}, {"daemon", daemon}, {"store", storeLock}, {"models", models}, {"disk", disk}, {"memory", memory},
		{"engine", engines}, {"fence", fences}, {"gpu", gpu}, {"api", apiAddress}, {"ports", ports}, {"udp", udp}, {"reach", reach}, {"peers", peers}, {"versions", versions}, {"clock", clock}, {"blocks", blocks}, {"serving", serving},
	} {
		for _, v := range check.of(f) {
			v.Check = check.name
			all = append(all, v)
		}
	}
	return all
}

// Worst is the worst state of the findings.
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

// Quote makes one word of a shell's.
func Quote(s string) string {
	if plain.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// shoal is a command line of this program for this home. Flags stand before
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

// set is the line that gives a setting a value in the configuration file, and
// has a daemon that runs take it up.
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
