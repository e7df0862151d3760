package ahead

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"
	"time"
)

// FuzzRunner: whatever the tokens, the measures and the order of the calls, a Runner keeps
// its bounds, its books balance, and it guesses nothing but tokens that it has seen.
func FuzzRunner(f *testing.F) {
	f.Add([]byte("abcabcabcabcabc"), []byte("abcabc"), []byte("\x00a\x01\x01\x01\x00b\x00c\x00a\x01\x01\x02\x00b\x03\x01\x00c"))
	f.Add([]byte{}, []byte("the expected text"), []byte("\x00t\x01\x00h\x01\x01\x00e\x01\x00x\x01\x00e\x00x\x00p\x01\x01\x00e\x00c"))
	f.Add([]byte("no"), []byte{}, []byte("\x00a\x05\x01\x04\x00abcde\x01\x01\x01\x01\x00b\x01\x01\x00x\x05\x01\x04\x01abcde\x01\x00"))
	f.Add([]byte("aaaaaaaa"), []byte{}, []byte("\x00a\x01\x01\x01\x01\x01\x01\x01\x00a\x00b\x01\x01"))
	f.Fuzz(func(t *testing.T, prompt, expect, calls []byte) {
		const most, inFlight = 64, 8
		r := New(Config{MaxInFlight: inFlight, MaxTokens: most, End: func(y int32) bool { return y == 'z' }, Trials: NewTrials(1)})
		known := map[int32]bool{}
		tokens := func(b []byte) (out []int32) {
			for _, x := range b {
				out = append(out, int32(x))
				known[int32(x)] = true
			}
			return out
		}
		r.Prompt(tokens(prompt))
		r.Expect(tokens(expect))
		var line []int32
		final, kept, sent, now := 0, 0, 0, time.Unix(0, 0)
		for len(calls) > 1 && final < most {
			op, arg := calls[0], calls[1]
			calls = calls[2:]
			now = now.Add(time.Duration(arg) * time.Millisecond)
			switch op % 6 {
			case 0:
				m, n := hostile(calls)
				calls = calls[n:]
				hit := r.Token(int32(arg), now, m)
				if want := len(line) > 0 && line[0] == int32(arg); hit != want {
					t.Fatalf("Token reports %v with %v in flight and %d final", hit, line, arg)
				}
				known[int32(arg)] = true
				final++
				if hit {
					line = line[1:]
					kept++
				} else {
					line = nil
				}
			case 1, 2:
				guess, ok := r.Next(now, op%6 == 2)
				if !ok {
					continue
				}
				line = append(line, guess)
				sent++
				switch {
				case op%6 == 2:
					t.Fatal("a guess behind rows that wait")
				case final == 0 || final+len(line) >= most || len(line) > inFlight:
					t.Fatalf("guess %d after %d final tokens", len(line), final)
				case guess == 'z' || !known[guess]:
					t.Fatalf("token %d is guessed", guess)
				}
			case 3:
				r.Restart()
				line = nil
			case 4:
				n := min(len(calls), 5)
				r.Hint(final-int(arg%4), tokens(calls[:n]))
				calls = calls[n:]
			case 5:
				r.Drafts(time.Duration(arg) * 10 * time.Millisecond)
			}
			c := r.Counts()
			if c.Sent != sent || c.Kept != kept || c.Wrong != sent-kept-len(line) || r.InFlight() != len(line) || c.Saved < 0 {
				t.Fatalf("%+v, %d in flight; %d were sent, %d kept, %d are in flight", c, r.InFlight(), sent, kept, len(line))
			}
		}
	})
}

// hostile makes measures of bytes, and reports how many it took.
func hostile(b []byte) (m Measures, n int) {
	if len(b) < 32 || b[0]&0x80 == 0 {
		return Measures{Trip: 100 * time.Millisecond, RowUs: 1000}, 0
	}
	u := func(i int) uint64 { return binary.LittleEndian.Uint64(b[i:]) }
	return Measures{
		Trip: time.Duration(u(0)), PriceUs: uint32(u(8)), RowUs: uint32(u(8) >> 32),
		Busy: math.Float64frombits(u(16)), Floor: math.Float64frombits(u(24)),
	}, 32
}

// FuzzTable: the table finds what a search of the whole text finds.
func FuzzTable(f *testing.F) {
	f.Add([]byte("abcdabcdab"), 3)
	f.Add([]byte("aaaaaaaaaa"), 0)
	f.Add([]byte("abcabxabcaby"), 8)
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		if len(text) > hops {
			return
		}
		var own table
		var all []int32
		for _, x := range text {
			all = append(all, int32(x&3)) // so that there are matches
		}
		own.add(all...)
		tail := all[max(0, len(all)-longest):]
		if 0 <= cut && cut < len(tail) {
			tail = slices.Concat(tail[cut:], tail[:cut]) // another text's
		}
		at, length := own.find(tail)
		if length == 0 {
			if at != 0 {
				t.Fatalf("at %d, of no length", at)
			}
			for end := shortest; end < len(all); end++ {
				if own.match(end, tail) >= shortest {
					t.Fatalf("the match before %d is not found", end)
				}
			}
			return
		}
		if at >= len(all) || own.match(at, tail) != length || length < shortest {
			t.Fatalf("at %d, length %d", at, length)
		}
		// The newest of the longest of those that are looked at, which are the newest.
		left := candidates
		for end := len(all) - 1; end > 0 && left > 0; end-- {
			m := own.match(end, tail)
			if m >= shortest {
				left--
			}
			if m > length || m == length && end > at {
				t.Fatalf("a match of %d before %d is preferred to one of %d before %d", length, at, m, end)
			}
		}
	})
}
