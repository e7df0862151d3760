package lend

import (
	"cmp"
	"context"
	"time"
)

// Watch reads the machine every interval (0: DefaultInterval) until ctx ends,
// and calls tell at once and then with each change of whether to lend, or of the
// reason why not. Rules from changed (nil: none come) replace the earlier ones at
// once. The calls of tell come from this goroutine.
func Watch(ctx context.Context, rules Rules, changed <-chan Rules, interval time.Duration, tell func(lend bool, why string)) {
	watch(ctx, rules, changed, interval, rules.machine(), tell)
}

func watch(ctx context.Context, rules Rules, changed <-chan Rules, interval time.Duration, m *Machine, tell func(lend bool, why string)) {
	tick := time.NewTicker(cmp.Or(max(0, interval), DefaultInterval))
	defer tick.Stop()
	d := NewDecider(rules)
	var told bool
	var lent, reason = false, ""
	for ctx.Err() == nil {
		// A load that cannot be read changes nothing; Rules.Unmeasured is for
		// telling the owner.
		r, _ := m.Read()
		lend, why := d.Decide(time.Now(), r)
		if !told || lend != lent || why != reason {
			told, lent, reason = true, lend, why
			tell(lend, why)
		}
		select {
		case <-tick.C:
		case rules := <-changed:
			m = rules.machine()
			d.Change(rules)
		case <-ctx.Done():
		}
	}
}
