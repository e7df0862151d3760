package lend

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"testing/fstest"
)

// tree is a made-up /proc or the like.
func tree(files map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

// stat is a process's line, with time in four parts.
func stat(pid int, name string, parent, ticks int) string {
	return fmt.Sprintf("%d (%s) S %d 1 1 0 -1 4194560 100 200 3 4 %d %d %d %d 25 5 9 0 1234 99 7 18446744073709551615 0 0\n",
		pid, name, parent, ticks-6, 1, 2, 3)
}

// cpu is the first lines of /proc/stat.
func cpu(user, nice, system, idle, iowait, irq, softirq, steal int) string {
	line := fmt.Sprintf("%d %d %d %d %d %d %d %d 7 7\n", user, nice, system, idle, iowait, irq, softirq, steal)
	return "cpu  " + line + "cpu0 " + line + "intr 12 0 0\nctxt 99\n"
}

func TestLoad(t *testing.T) {
	// The node is 10; engines 20 and 21, and 30 below 20; 40 and 41 are others'.
	before := map[string]string{
		"stat":      cpu(1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000),
		"1/stat":    stat(1, "init", 0, 100),
		"10/stat":   stat(10, "shoal", 1, 100),
		"20/stat":   stat(20, "shoal) S 1 (", 10, 100),
		"21/stat":   stat(21, "shoal engine-child", 10, 100),
		"30/stat":   stat(30, "helper", 20, 100),
		"40/stat":   stat(40, "cc1 (10)", 41, 100),
		"41/stat":   stat(41, "make", 1, 100),
		"50/status": "not this one",
		"51/stat":   "half a li",
		"uptime":    "1 2",
		"self/stat": stat(10, "shoal", 1, 100000),
	}
	for _, c := range []struct {
		name   string
		change map[string]string // "" is a file that goes
		want   float64
	}{
		{"nothing ran, and no time went by", nil, -1},
		{"idle", map[string]string{"stat": cpu(1000, 1000, 1000, 2000, 1000, 1000, 1000, 1000)}, 0},
		{"others", map[string]string{"stat": cpu(1400, 1000, 1100, 1500, 1000, 1000, 1000, 1000)}, 0.5},
		{"others' nice programs", map[string]string{"stat": cpu(1000, 1500, 1000, 1500, 1000, 1000, 1000, 1000)}, 0.5},
		{"waiting, interrupts and stolen time", map[string]string{"stat": cpu(1100, 1000, 1000, 1500, 1100, 1100, 1100, 1100)}, 0.1},
		{"the node alone", map[string]string{"stat": cpu(1000, 1500, 1000, 1500, 1000, 1000, 1000, 1000),
			"10/stat": stat(10, "shoal", 1, 200), "20/stat": stat(20, "shoal", 10, 200), "21/stat": stat(21, "shoal", 10, 200), "30/stat": stat(30, "helper", 20, 300)}, 0},
		{"the node and others", map[string]string{"stat": cpu(1000, 1800, 1000, 1200, 1000, 1000, 1000, 1000),
			"21/stat": stat(21, "shoal", 10, 500), "40/stat": stat(40, "cc1", 41, 500)}, 0.4},
		{"an engine ends, and its time is its parent's", map[string]string{"stat": cpu(1000, 1500, 1000, 1500, 1000, 1000, 1000, 1000),
			"21/stat": "", "10/stat": stat(10, "shoal", 1, 100+100+500)}, 0},
		{"an engine begins", map[string]string{"stat": cpu(1000, 1500, 1000, 1500, 1000, 1000, 1000, 1000),
			"22/stat": stat(22, "shoal", 10, 200)}, 0.3},
		{"a descendant leaves the tree with all its time", map[string]string{"stat": cpu(1000, 1200, 1000, 1800, 1000, 1000, 1000, 1000),
			"21/stat": stat(21, "shoal", 1, 300)}, 0.2},
		{"the node's clock is ahead", map[string]string{"stat": cpu(1010, 1000, 1000, 1990, 1000, 1000, 1000, 1000),
			"10/stat": stat(10, "shoal", 1, 150)}, 0},
		{"iowait goes back", map[string]string{"stat": cpu(1500, 1000, 1000, 2000, 500, 1000, 1000, 1000)}, 0.5},
	} {
		fsys := tree(before)
		m := &Machine{Proc: fsys, PID: 10}
		if r, err := m.Read(); err != nil || r.Others >= 0 {
			t.Fatalf("%s: the first reading: %+v %v", c.name, r, err)
		}
		for name, text := range c.change {
			fsys[name] = &fstest.MapFile{Data: []byte(text)}
			if text == "" {
				delete(fsys, name)
			}
		}
		r, err := m.Read()
		if err != nil || fmt.Sprintf("%.4f", r.Others) != fmt.Sprintf("%.4f", c.want) {
			t.Errorf("%s: others %v, not %v (%v)", c.name, r.Others, c.want, err)
		}
	}
}

func TestLoadErrors(t *testing.T) {
	good := map[string]string{"stat": cpu(1, 1, 1, 1, 1, 1, 1, 1), "10/stat": stat(10, "shoal", 1, 10)}
	for name, files := range map[string]map[string]string{
		"empty":    {},
		"hidden":   {"10/stat": good["10/stat"]}, // as with ProcSubset=pid
		"no self":  {"stat": good["stat"], "1/stat": stat(1, "init", 0, 10)},
		"no cores": {"stat": "cpu0 1 2 3 4\n", "10/stat": good["10/stat"]},
		"few":      {"stat": "cpu 1 2 3\n", "10/stat": good["10/stat"]},
		"words":    {"stat": "cpu a b c d\n", "10/stat": good["10/stat"]},
	} {
		m := &Machine{Proc: tree(files), PID: 10}
		for range 2 {
			if r, err := m.Read(); err == nil || r.Others >= 0 {
				t.Errorf("%s: %+v %v", name, r, err)
			}
		}
	}
	// Old kernels have fewer columns.
	m := &Machine{Proc: tree(map[string]string{"stat": "cpu 1 2 3 4\n", "10/stat": good["10/stat"]}), PID: 10}
	if _, err := m.Read(); err != nil {
		t.Error(err)
	}
	if r, err := (&Machine{}).Read(); err != nil || r.Others >= 0 || r.Battery {
		t.Errorf("where nothing is read: %+v %v", r, err)
	}
}

func TestBattery(t *testing.T) {
	mains := func(online string) map[string]string {
		return map[string]string{"AC/type": "Mains\n", "AC/online": online + "\n"}
	}
	battery := func(status string) map[string]string {
		return map[string]string{"BAT0/type": "Battery\n", "BAT0/status": status + "\n", "BAT0/scope": "System\n"}
	}
	usb := func(online string) map[string]string {
		return map[string]string{"ucsi/type": "USB\n", "ucsi/online": online + "\n"}
	}
	for _, c := range []struct {
		name  string
		files []map[string]string
		want  bool
	}{
		{"nothing", nil, false},
		{"a desktop with odd mains", []map[string]string{mains("0")}, false},
		{"plugged in", []map[string]string{mains("1"), battery("Charging")}, false},
		{"a weak charger", []map[string]string{mains("1"), battery("Discharging")}, false},
		{"unplugged", []map[string]string{mains("0"), battery("Discharging")}, true},
		{"no mains shown", []map[string]string{battery("Discharging")}, true},
		{"full", []map[string]string{battery("Full")}, false},
		{"kept from charging", []map[string]string{battery("Not charging")}, false},
		{"by USB-C", []map[string]string{mains("0"), usb("2"), battery("Discharging")}, false},
		{"USB-C empty", []map[string]string{usb("0"), battery("Discharging")}, true},
		{"a mouse", []map[string]string{{"hid/type": "Battery\n", "hid/status": "Discharging\n", "hid/scope": "Device\n"}}, false},
		{"a UPS", []map[string]string{{"ups/type": "UPS\n", "ups/status": "Discharging\n"}}, true},
		{"two batteries", []map[string]string{battery("Full"), {"BAT1/type": "Battery\n", "BAT1/status": "Discharging\n"}}, true},
		{"files missing", []map[string]string{{"BAT0/type": "Battery\n"}, {"AC/type": "Mains\n"}, {"x/online": "1\n"}}, false},
	} {
		files := map[string]string{}
		for _, f := range c.files {
			for name, text := range f {
				files[name] = text
			}
		}
		r, err := (&Machine{Power: tree(files)}).Read()
		if err != nil || r.Battery != c.want {
			t.Errorf("%s: on battery: %v (%v)", c.name, r.Battery, err)
		}
	}
}

// TestThisMachine reads the real files.
func TestThisMachine(t *testing.T) {
	rules := Rules{PauseLoad: 0.5}
	if runtime.GOOS != "linux" {
		if rules.Unmeasured() == nil || (Rules{OnBattery: true}).Unmeasured() != nil {
			t.Error("what is not measured is not said")
		}
		return
	}
	if err := rules.Unmeasured(); err != nil {
		t.Fatal(err)
	}
	m := rules.machine()
	for range 3 {
		if r, err := m.Read(); err != nil || r.Others > 1 {
			t.Fatalf("%+v %v", r, err)
		}
	}
	child := exec.Command("sleep", "100")
	if err := child.Start(); err != nil {
		t.Skip(err)
	}
	procs, err := m.procs()
	_ = child.Process.Kill()
	_ = child.Wait()
	if err != nil || procs[child.Process.Pid].parent != os.Getpid() {
		t.Errorf("the child is not seen: %v", err)
	}
}

func FuzzParseCPU(f *testing.F) {
	f.Add([]byte(cpu(1, 2, 3, 4, 5, 6, 7, 8)))
	f.Add([]byte("cpu 1 2 3 4"))
	f.Add([]byte("cpu 18446744073709551615 1 1 1"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if busy, total, err := parseCPU(raw); err == nil && busy > total {
			t.Fatalf("%d of %d", busy, total)
		}
	})
}

func FuzzParseProc(f *testing.F) {
	f.Add([]byte(stat(20, "a) S 1 (b", 10, 100)))
	f.Add([]byte(")"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if p, err := parseProc(raw); err == nil && p.ticks > 4*maxTicks {
			t.Fatal(p)
		}
	})
}

// FuzzMachine: two readings of any processes end, and give a part.
func FuzzMachine(f *testing.F) {
	f.Add(10, 20, 20, 10, "Battery", "Discharging")
	f.Add(10, 10, 1, 1, "Mains", "1")
	f.Fuzz(func(t *testing.T, parent1, parent2, ticks1, ticks2 int, kind, status string) {
		fsys := tree(map[string]string{
			"stat": cpu(1, 2, 3, 4, 5, 6, 7, 8), "10/stat": stat(10, kind, parent1, 100), "20/stat": stat(20, status, parent2, ticks1),
			"BAT0/type": kind, "BAT0/status": status, "BAT0/online": status, "BAT0/scope": status,
		})
		m := &Machine{Proc: fsys, Power: fsys, PID: 10}
		_, _ = m.Read()
		fsys["stat"] = &fstest.MapFile{Data: []byte(cpu(ticks1, ticks2, 9, 9, 9, 9, 9, 9))}
		fsys["20/stat"] = &fstest.MapFile{Data: []byte(stat(20, kind, parent1, ticks2))}
		if r, _ := m.Read(); r.Others > 1 || r.Others < 0 && r.Others != -1 {
			t.Fatal(r)
		}
	})
}
