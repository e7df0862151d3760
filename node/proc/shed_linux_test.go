package proc

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
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

// After ShedFile none of a file's pages is resident, and all are as before.
func TestShedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a model, with a space")
	want := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(want)
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mapped, err := unix.Mmap(int(f.Fd()), 0, len(want), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mapped) }()
	resident := func() (kib int) {
		smaps, err := os.ReadFile("/proc/self/smaps")
		if err != nil {
			t.Skip("no /proc:", err)
		}
		_, ours, ok := strings.Cut(string(smaps), path+"\n")
		_, rss, found := strings.Cut(ours, "\nRss:")
		if _, err := fmt.Sscan(rss, &kib); err != nil || !ok || !found {
			t.Fatalf("no mapping of %s", path)
		}
		return kib
	}
	if resident() == 0 {
		t.Skip("the system maps nothing in advance")
	}
	ShedFile(path)
	if kib := resident(); kib > 0 {
		t.Errorf("%d KiB are resident", kib)
	}
	if !bytes.Equal(mapped, want) {
		t.Error("it is another file")
	}
}

func TestParseMapping(t *testing.T) {
	m, ok := parseMapping("00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/a program")
	if !ok || m.begin != 0x400000 || m.end != 0x452000 || m.access != "r-xp" || m.path != "/usr/bin/a program" {
		t.Errorf("%+v, %v", m, ok)
	}
	for _, line := range []string{"", "Rss:    4 kB", "VmFlags: rd ex mr mw me sd", "1-", "9-1 r-xp 0 0 0"} {
		if m, ok := parseMapping(line); ok {
			t.Errorf("%q is %+v", line, m)
		}
	}
}
