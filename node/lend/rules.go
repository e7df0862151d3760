package lend

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Rules are an owner's. The zero value lends always, but not on battery.
type Rules struct {
	Pause      Pause         // by the owner's word, whatever else holds
	Hours      Hours         // empty: always
	PauseLoad  float64       // part of the machine's cores that others use; 0: off
	PauseAfter time.Duration // how long it must last; 0: DefaultPauseAfter
	OnBattery  bool          // lend on battery too
	Resume     time.Duration // quiet time before lending again; 0: DefaultResume
}

const (
	// DefaultPauseLoad stands for "half of the machine": a program that wants
	// just half, or has to share with the engine, is seen to use a little less.
	// See the package's description.
	DefaultPauseLoad = 0.4

	// DefaultPauseAfter outlasts the start of a program, and is soon enough for
	// who begins to work.
	DefaultPauseAfter = 15 * time.Second

	// DefaultResume outlasts the gaps in someone's work.
	DefaultResume = 2 * time.Minute

	// DefaultInterval between readings puts three into DefaultPauseAfter.
	DefaultInterval = 5 * time.Second

	// quietPart of PauseLoad is where quiet begins.
	quietPart = 0.75
)

// Equal reports whether two sets of rules are the same.
func (r Rules) Equal(o Rules) bool {
	return r.Pause.String() == o.Pause.String() && r.Hours.String() == o.Hours.String() && r.PauseLoad == o.PauseLoad && r.PauseAfter == o.PauseAfter && r.OnBattery == o.OnBattery && r.Resume == o.Resume
}

// Check says what is wrong with the rules.
func (r Rules) Check() error {
	switch {
	case math.IsNaN(r.PauseLoad) || r.PauseLoad < 0 || r.PauseLoad > 1:
		return fmt.Errorf("pausing at a load of %v: it is a part of the machine's cores, 0 (off) to 1 (all)", r.PauseLoad)
	case r.PauseAfter < 0:
		return fmt.Errorf("pausing after %s of load: it must be more than nothing", r.PauseAfter)
	case r.Resume < 0:
		return fmt.Errorf("resuming after %s of quiet: it must be more than nothing", r.Resume)
	}
	return nil
}

func (r Rules) pauseAfter() time.Duration { return cmp.Or(max(0, r.PauseAfter), DefaultPauseAfter) }
func (r Rules) resume() time.Duration     { return cmp.Or(max(0, r.Resume), DefaultResume) }

// Unmeasured says why the rules on load and battery have no effect on this
// machine; nil if they have, or if there are none.
func (r Rules) Unmeasured() error {
	if r.PauseLoad == 0 && r.OnBattery {
		return nil
	}
	if runtime.GOOS != "linux" {
		return fmt.Errorf("load and battery are not measured on %s: only the hours pause lending", runtime.GOOS)
	}
	if r.PauseLoad == 0 {
		return nil
	}
	if _, err := r.machine().Read(); err != nil {
		return fmt.Errorf("load by others cannot be measured: %w", err)
	}
	return nil
}

// machine is this one, as far as the rules ask for it.
func (r Rules) machine() *Machine {
	m := &Machine{PID: os.Getpid()}
	if runtime.GOOS != "linux" {
		return m
	}
	if r.PauseLoad > 0 {
		m.Proc = os.DirFS("/proc")
	}
	if !r.OnBattery {
		m.Power = os.DirFS("/sys/class/power_supply")
	}
	return m
}

// ParseLoad reads a part of the machine's cores: 40%, 0.4, or off.
func ParseLoad(s string) (float64, error) {
	text := strings.ToLower(strings.TrimSpace(s))
	if text == "off" {
		return 0, nil
	}
	num, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
	if err == nil && percent {
		v /= 100
	}
	// A bare 40 is not taken for a percentage: 1 would have two meanings.
	if err != nil || !(v >= 0 && v <= 1) {
		return 0, fmt.Errorf("load %q: write a part of the machine's cores like 40%% or 0.4, or off", s)
	}
	return v, nil
}
