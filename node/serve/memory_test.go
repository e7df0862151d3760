package serve

import "testing"

// What Go keeps to is what the engines leave.
func TestGoShare(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, c := range []struct {
		total   int64
		engines []int64
		want    int64
	}{
		{16 * gib, nil, 14 * gib},
		{16 * gib, []int64{8 * gib}, 6*gib - 48*mib},
		{16 * gib, []int64{4 * gib, 4 * gib}, 6*gib - 96*mib},
		{16 * gib, []int64{15 * gib}, 2 * gib},                // more than there is
		{500 * mib, []int64{80 * mib}, 500*mib*7/8 - 128*mib}, // a small container with the model inside
		{256 * mib, []int64{200 * mib}, 64 * mib},
	} {
		if got := goShare(c.total, c.engines); got != c.want {
			t.Errorf("of %d MiB with engines of %v: %d MiB, want %d", c.total/mib, c.engines, got/mib, c.want/mib)
		}
	}
}
