package session_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/stage"
)

// stall is the longest time between two tokens of an answer in which a stage is lost. When,
// which one and how follows from seed alone.
func stall(t *testing.T, seed uint64, guess func(int) stage.Guesser, prompt, want []int32) (longest time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 5))
		f := fleetOf(t, &pipeline{guess: guess, inFlight: 32, delay: time.Millisecond}, 9, 3, 3, 6)
		f.lag = 20 * time.Millisecond
		i, fault, at, after := rng.IntN(3), rng.IntN(3), 1+rng.IntN(len(want)-30), time.Duration(rng.IntN(60))*time.Millisecond
		fail := func() {
			switch fault {
			case 0:
				f.engines[i].breakNow()
			case 1:
				f.mu.Lock()
				f.cut[[2]peer.ID{nodeID(i), nodeID((i + 1) % 3)}] = true
				f.mu.Unlock()
				return
			case 2:
				go f.stages[i].Close(errors.New("killed"))
			}
			f.set(f.down, nodeID(i), true)
		}
		last := time.Now()
		got, out, err := f.ask(t.Context(), prompt, len(want), func(token int) {
			if token > 1 {
				longest = max(longest, time.Since(last))
			}
			if last = time.Now(); token == at {
				time.AfterFunc(after, fail)
			}
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("seed %d, fault %d of stage %d: %v\n%v\n%v\n%+v", seed, fault, i, err, got, want, out.Recoveries)
		}
		f.mu.Lock()
		clear(f.cut)
		f.mu.Unlock()
		for _, s := range f.stages {
			s.Close(nil)
		}
		time.Sleep(time.Minute) // all that waits gives up
	})
	return longest
}

// A stage that is lost while guesses are on their way holds an answer up no longer than it
// does without guesses.
func TestAheadStall(t *testing.T) {
	prompt := someTokens(5, 40)
	want, err := newPipeline(t, 9, 3, 6).ask(t.Context(), prompt, 60)
	if err != nil {
		t.Fatal(err)
	}
	const kills = 100
	var all [2][]time.Duration
	var sum [2]time.Duration
	for i, guess := range []func(int) stage.Guesser{nil, knowing(0.9, 16, prompt, want)} {
		for seed := range uint64(kills) {
			d := stall(t, seed, guess, prompt, want)
			all[i], sum[i] = append(all[i], d), sum[i]+d
		}
		slices.Sort(all[i])
		t.Logf("guesses %v: mean %s, median %s, longest %s", guess != nil, sum[i]/kills, all[i][kills/2], all[i][kills-1])
	}
	if sum[1] > sum[0]*105/100 {
		t.Errorf("%s on average, without guesses %s", sum[1]/kills, sum[0]/kills)
	}
}
