package proc

import (
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
)

// After Shed little of the program is resident, and all of it works, also in threads
// that run meanwhile.
func TestShed(t *testing.T) {
	code := func() (kib int64) {
		raw, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Skip("no /proc:", err)
		}
		for line := range strings.Lines(string(raw)) {
			if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
				for _, c := range rest {
					if c >= '0' && c <= '9' {
						kib = 10*kib + int64(c-'0')
					}
				}
			}
		}
		return kib
	}
	before := code()
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for range 2 {
		busy.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
					if x := make([]int, 100+rand.IntN(100)); len(x) < 100 {
						t.Error("it computes wrongly")
					}
				}
			}
		})
	}
	for range 20 {
		Shed()
	}
	close(stop)
	busy.Wait()
	Shed()
	if after := code(); after >= before {
		t.Errorf("%d KiB of files are resident, before: %d", after, before)
	}
}

func TestParseMapping(t *testing.T) {
	m, ok := parseMapping("00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/a program")
	if !ok || m.begin != 0x400000 || m.end != 0x452000 || m.access != "r-xp" || m.path != "/usr/bin/a" {
		t.Errorf("%+v, %v", m, ok)
	}
	for _, line := range []string{"", "Rss:    4 kB", "VmFlags: rd ex mr mw me sd", "1-", "9-1 r-xp 0 0 0"} {
		if m, ok := parseMapping(line); ok {
			t.Errorf("%q is %+v", line, m)
		}
	}
}
