package lend

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Machine reads load and power from files in the form of Linux's. What is nil
// is not read.
type Machine struct {
	Proc  fs.FS // as /proc
	Power fs.FS // as /sys/class/power_supply
	PID   int   // whose load, with that of its descendants, is not others'

	last *sample
}

// sample is processor time since the machine's start, in the kernel's ticks.
type sample struct{ busy, total, ours uint64 }

// Read tells the state since the call before. The first one knows no load yet.
func (m *Machine) Read() (Reading, error) {
	r := Reading{Others: -1, Battery: m.Power != nil && onBattery(m.Power)}
	if m.Proc == nil {
		return r, nil
	}
	now, err := m.sample()
	if err != nil {
		return r, err
	}
	if m.last != nil {
		r.Others = others(*m.last, *now)
	}
	m.last = now
	return r, nil
}

func (m *Machine) sample() (*sample, error) {
	raw, err := fs.ReadFile(m.Proc, "stat")
	if err != nil {
		return nil, err
	}
	var s sample
	if s.busy, s.total, err = parseCPU(raw); err != nil {
		return nil, fmt.Errorf("/proc/stat: %w", err)
	}
	s.ours, err = m.ours()
	return &s, err
}

// others is the part of the machine that others had between two samples;
// negative if no time went by.
func others(before, after sample) float64 {
	total := grown(before.total, after.total)
	if total == 0 {
		return -1
	}
	busy, ours := grown(before.busy, after.busy), grown(before.ours, after.ours)
	if ours > busy { // the two are not read at the same instant
		ours = busy
	}
	return min(1, float64(busy-ours)/float64(total))
}

// grown: a counter may go back a little (iowait does, and a descendant that
// leaves the tree takes its time along); that is no time.
func grown(before, after uint64) uint64 {
	if after < before {
		return 0
	}
	return after - before
}

// parseCPU reads the first line of /proc/stat: the time of all cores in
// programs, and in all.
func parseCPU(raw []byte) (busy, total uint64, err error) {
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) < 5 || fields[0] != "cpu" {
		return 0, 0, errors.New("it does not begin with the time of all cores")
	}
	// user nice system idle iowait irq softirq steal; the guests' time that
	// follows is in user and nice already.
	for i, f := range fields[1:min(len(fields), 9)] {
		n, err := parseTicks(f)
		if err != nil {
			return 0, 0, err
		}
		if i < 3 {
			busy += n
		}
		total += n
	}
	return busy, total, nil
}

// maxTicks keeps sums from overflowing; no machine has run so long.
const maxTicks = 1 << 56

func parseTicks(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > maxTicks {
		return 0, fmt.Errorf("%q is not a time", s)
	}
	return n, nil
}

// proc is one process: its time, and its children's whom it has waited for.
type proc struct {
	parent int
	ticks  uint64
}

// ours is the time of our process and all below it.
func (m *Machine) ours() (uint64, error) {
	procs, err := m.procs()
	if err != nil {
		return 0, err
	}
	if _, ok := procs[m.PID]; !ok {
		return 0, fmt.Errorf("/proc does not show this process, %d", m.PID)
	}
	children := map[int][]int{}
	for pid, p := range procs {
		children[p.parent] = append(children[p.parent], pid)
	}
	var sum uint64
	for todo := []int{m.PID}; len(todo) > 0; {
		pid := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if p, ok := procs[pid]; ok { // once each, whatever the files say
			sum += p.ticks
			todo = append(todo, children[pid]...)
			delete(procs, pid)
		}
	}
	return sum, nil
}

// procs reads all processes. One that ends meanwhile is left out.
func (m *Machine) procs() (map[int]proc, error) {
	entries, err := fs.ReadDir(m.Proc, ".")
	if err != nil {
		return nil, err
	}
	procs := map[int]proc{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid <= 0 {
			continue
		}
		raw, err := fs.ReadFile(m.Proc, e.Name()+"/stat")
		if err != nil {
			continue
		}
		if p, err := parseProc(raw); err == nil {
			procs[pid] = p
		}
	}
	return procs, nil
}

// parseProc reads /proc/PID/stat. The program's name, in parentheses, may hold
// anything, parentheses too.
func parseProc(raw []byte) (p proc, err error) {
	end := bytes.LastIndexByte(raw, ')')
	fields := strings.Fields(string(raw[end+1:]))
	if end < 0 || len(fields) < 15 {
		return p, errors.New("not the state of a process")
	}
	if p.parent, err = strconv.Atoi(fields[1]); err != nil {
		return proc{}, fmt.Errorf("parent: %w", err)
	}
	for _, f := range fields[11:15] { // utime stime cutime cstime
		n, err := parseTicks(f)
		if err != nil {
			return proc{}, err
		}
		p.ticks += n
	}
	return p, nil
}
