package bench

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/shoalnet/shoal/cmd/shoal/term"
)

// loadResult is what `shoal bench load --json` prints.
type loadResult struct {
	Model     string    `json:"model"`
	Threads   int       `json:"threads"`
	Loops     int       `json:"loops"`
	Idle      []float64 `json:"idle"` // tokens/s of each second
	Loaded    []float64 `json:"loaded"`
	After     []float64 `json:"after"`
	IdleRate  float64   `json:"idle_rate"`
	LoadRatio target    `json:"loaded_to_idle"` // from the tenth second on
	BackRatio target    `json:"after_to_idle"`
	LoadAfter float64   `json:"loaded_within_s"` // seconds until the ratio held; -1: it did not
	BackAfter float64   `json:"back_within_s"`
}

const (
	settleTime = 10   // seconds in which the engine is to adapt
	loadedPart = 0.4  // of the idle rate beside two busy loops
	backPart   = 0.95 // of the idle rate is all of it, on a machine that is never quite idle
)

func load(b *bench) error {
	res := loadResult{Model: b.model.Name(), Threads: b.Threads, Loops: b.Loops}
	if res.Threads < 1 {
		res.Threads = runtime.NumCPU()
	}
	n := b.Seconds
	if n <= settleTime {
		return UsageError(fmt.Sprintf("--seconds: more than the %d that the engine has to adapt", settleTime))
	}
	e, err := b.engine(true, res.Threads)
	if err != nil {
		return err
	}
	defer e.Close()
	d, err := newDecoder(b.ctx, e, 1)
	if err != nil {
		return err
	}
	if _, err := b.perSecond(d, "warming up", 3); err != nil {
		return err
	}
	if res.Idle, err = b.perSecond(d, "idle", n); err != nil {
		return err
	}
	stop, err := startSpin(res.Loops)
	if err != nil {
		return err
	}
	defer stop()
	if res.Loaded, err = b.perSecond(d, "loaded", n); err != nil {
		return err
	}
	stop()
	if res.After, err = b.perSecond(d, "after", n); err != nil {
		return err
	}
	res.IdleRate = spreadOf(res.Idle).Median
	res.LoadRatio = atLeast(loadedPart, spreadOf(res.Loaded[settleTime:]).Median/res.IdleRate)
	res.BackRatio = atLeast(backPart, spreadOf(res.After[settleTime:]).Median/res.IdleRate)
	res.LoadAfter, res.BackAfter = holdsFrom(res.Loaded, loadedPart*res.IdleRate), holdsFrom(res.After, backPart*res.IdleRate)
	return b.report(res, func(w io.Writer) {
		fmt.Fprintf(w, "idle\t%s\n%d busy loops\t%s\nafter them\t%s\n\n", seconds(res.Idle), res.Loops, seconds(res.Loaded), seconds(res.After))
		fmt.Fprintf(w, "beside the loops %.2f of the idle rate: %s%s\n", res.LoadRatio.Got, res.LoadRatio, within(res.LoadAfter))
		fmt.Fprintf(w, "after them %.2f of the idle rate: %s%s\n", res.BackRatio.Got, res.BackRatio, within(res.BackAfter))
	})
}

// perSecond decodes for n seconds and counts the tokens in each. A token that spans
// several seconds is counted proportionally.
func (b *bench) perSecond(d *decoder, what string, n int) ([]float64, error) {
	out := make([]float64, n)
	begin := time.Now()
	for from := 0.0; from < float64(n); {
		if _, _, err := d.step(b.ctx); err != nil {
			return nil, err
		}
		to := time.Since(begin).Seconds()
		for s := int(from); s < n && float64(s) < to; s++ {
			out[s] += (min(to, float64(s+1)) - max(from, float64(s))) / (to - from)
		}
		if int(to) > int(from) {
			b.progress("%s: second %d of %d, %s tokens/s", what, int(to), n, term.Rate(out[int(from)]))
		}
		from = to
	}
	return out, nil
}

// holdsFrom returns the first second at which the mean of that second and the next two
// reaches the rate; -1: none.
func holdsFrom(rates []float64, least float64) float64 {
	for s := range len(rates) - 2 {
		if (rates[s]+rates[s+1]+rates[s+2])/3 >= least {
			return float64(s)
		}
	}
	return -1
}

func within(s float64) string {
	if s < 0 {
		return ""
	}
	return fmt.Sprintf(", reached after %.0f s", s)
}

func seconds(rates []float64) string {
	var s []string
	for _, r := range rates {
		s = append(s, term.Rate(r))
	}
	return strings.Join(s, " ")
}

// startSpin starts a process of busy loops, which also ends if this process does.
func startSpin(loops int) (stop func(), err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, "bench", "spin", "--loops", strconv.Itoa(loops))
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		in.Close()
		_ = cmd.Wait()
	}, nil
}

// Spin keeps cores busy until standard input ends.
func Spin(loops int) error {
	runtime.GOMAXPROCS(loops + 1)
	for i := range loops {
		go func() {
			for {
				i++
			}
		}()
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
