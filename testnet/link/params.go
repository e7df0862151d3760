package link

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Params describes one node's link. The zero value means no emulation.
type Params struct {
	RTT  time.Duration // round trip between two nodes with the same Params; each delays what it sends by half
	Rate float64       // upload capacity of a node over all its peers, bit/s; 0 is unlimited
	Loss float64       // chance that a packet sent is lost, 0 <= Loss < 1
	Cuts string        // file of the addresses that cannot be reached now; "": no link is ever cut
}

// maxRTT is beyond any real link; it keeps a wrong unit from hanging a testnet.
const maxRTT = 10 * time.Second

// minRate bounds the time in which the smallest queue (64 KiB) drains.
const minRate = 8e3

// IsZero reports whether there is nothing to emulate.
func (p Params) IsZero() bool { return p == Params{} }

// Parse reads a round-trip time ("40ms"), a rate ("100mbit", "1.5gbit/s") and a
// loss ("0.1%", or 0.001 as a fraction). An empty string leaves its part unset.
func Parse(rtt, rate, loss string) (Params, error) {
	var p Params
	var err error
	if p.RTT, err = parseRTT(rtt); err != nil {
		return Params{}, err
	}
	if p.Rate, err = parseRate(rate); err != nil {
		return Params{}, err
	}
	if p.Loss, err = parseLoss(loss); err != nil {
		return Params{}, err
	}
	return p, nil
}

// ParseString reads what String writes: "rtt=40ms,rate=100mbit,loss=0.1%", any
// part of which may be missing. "cuts=" takes all that follows.
func ParseString(s string) (Params, error) {
	s, cuts := splitCuts(s)
	part := map[string]string{}
	for _, kv := range strings.Split(s, ",") {
		kv = strings.TrimSpace(kv)
		if kv == "" {
			continue
		}
		k, v, ok := strings.Cut(kv, "=")
		k = strings.ToLower(strings.TrimSpace(k))
		switch {
		case !ok || k != "rtt" && k != "rate" && k != "loss":
			return Params{}, fmt.Errorf("link %q: want rtt=, rate= and loss=, as in rtt=40ms,rate=100mbit,loss=0.1%%", kv)
		case part[k] != "":
			return Params{}, fmt.Errorf("link: %s is set twice", k)
		}
		part[k] = strings.TrimSpace(v)
	}
	p, err := Parse(part["rtt"], part["rate"], part["loss"])
	if err == nil {
		p.Cuts = cuts
	}
	return p, err
}

// splitCuts splits the file's name off the end: it may contain commas.
func splitCuts(s string) (rest, cuts string) {
	if cuts, ok := strings.CutPrefix(s, "cuts="); ok {
		return "", cuts
	}
	rest, cuts, _ = strings.Cut(s, ",cuts=")
	return rest, cuts
}

// String formats p as ParseString reads it; "" for the zero value.
func (p Params) String() string {
	var s []string
	if p.RTT > 0 {
		s = append(s, "rtt="+p.RTT.String())
	}
	if p.Rate > 0 {
		s = append(s, "rate="+formatRate(p.Rate))
	}
	if p.Loss > 0 {
		s = append(s, "loss="+formatLoss(p.Loss))
	}
	if p.Cuts != "" {
		s = append(s, "cuts="+p.Cuts)
	}
	return strings.Join(s, ",")
}

// formatLoss prefers a percentage, where it reads back as the same number.
func formatLoss(f float64) string {
	pct := strconv.FormatFloat(f*100, 'g', 10, 64)
	if v, err := strconv.ParseFloat(pct, 64); err == nil && v/100 == f {
		return pct + "%"
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}

func parseRTT(s string) (time.Duration, error) {
	if s == "" || s == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, fmt.Errorf("rtt %q: give a duration with its unit, as in 40ms", s)
	case d < 0:
		return 0, fmt.Errorf("rtt %q: must not be negative", s)
	case d > maxRTT:
		return 0, fmt.Errorf("rtt %q: at most %v", s, maxRTT)
	}
	return d, nil
}

// rateUnits are in bits per second, longest suffix first.
var rateUnits = []struct {
	suffix string
	bits   float64
}{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}

func parseRate(s string) (float64, error) {
	if s == "" || s == "0" || strings.EqualFold(s, "unlimited") {
		return 0, nil
	}
	bad := fmt.Errorf("rate %q: give bits per second with a unit, as in 100mbit (kbit, mbit, gbit)", s)
	l := strings.ToLower(strings.TrimSpace(s))
	l = strings.TrimSuffix(l, "/s")
	if n, ok := strings.CutSuffix(l, "bps"); ok {
		l = n + "bit"
	}
	for _, u := range rateUnits {
		n, ok := strings.CutSuffix(l, u.suffix)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(n), 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return 0, bad
		}
		v *= u.bits
		if v == 0 {
			return 0, nil
		}
		if v < minRate || v > 1e12 {
			return 0, fmt.Errorf("rate %q: must be between %s and 1000gbit", s, formatRate(minRate))
		}
		return v, nil
	}
	if strings.HasSuffix(s, "B") || strings.HasSuffix(s, "B/s") {
		return 0, fmt.Errorf("rate %q: rates are in bits, not bytes, per second: 12.5 MB/s is 100mbit", s)
	}
	return 0, bad
}

// formatRate uses the largest unit that reads back as the same number.
func formatRate(r float64) string {
	for _, u := range rateUnits {
		if v := r / u.bits; v >= 1 && v*u.bits == r {
			return strconv.FormatFloat(v, 'f', -1, 64) + u.suffix
		}
	}
	return strconv.FormatFloat(r, 'f', -1, 64) + "bit"
}

func parseLoss(s string) (float64, error) {
	if s == "" {
		return 0, nil
	}
	n, pct := strings.CutSuffix(strings.TrimSpace(s), "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(n), 64)
	if err != nil || math.IsNaN(v) {
		return 0, fmt.Errorf("loss %q: give a percentage, as in 0.1%%", s)
	}
	if pct {
		v /= 100
	} else if v >= 1 {
		return 0, fmt.Errorf("loss %q: write %s%% for a percentage, or a fraction below 1", s, strings.TrimSpace(n))
	}
	if v < 0 || v >= 1 {
		return 0, fmt.Errorf("loss %q: must be at least 0 and below 100%%", s)
	}
	return v, nil
}
