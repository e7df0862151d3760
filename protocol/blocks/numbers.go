package blocks

import "math"

// numbers reads an architecture's keys in whatever type a file has them.
type numbers struct {
	md   Metadata
	arch string
}

// one returns a number; of a list, the largest. What is missing, negative or absurd is
// the default.
func (n numbers) one(key string, otherwise int64) int64 {
	v := n.md.Value(n.arch + "." + key)
	if x, ok := whole(v); ok {
		return x
	}
	list, ok := wholes(v)
	if !ok || len(list) == 0 {
		return otherwise
	}
	most := int64(0)
	for _, x := range list {
		most = max(most, x)
	}
	return most
}

// array returns a list; false if there is none.
func (n numbers) array(key string) ([]int64, bool) { return wholes(n.md.Value(n.arch + "." + key)) }

// list returns a number for each block: of a list, its elements, of a number, that one
// throughout; the default for blocks that have none.
func (m *Model) list(key string, otherwise int64) []int64 {
	out := make([]int64, len(m.Blocks))
	list, ok := m.array(key)
	for i := range out {
		switch {
		case !ok:
			out[i] = m.one(key, otherwise)
		case i < len(list):
			out[i] = list[i]
		default:
			out[i] = otherwise
		}
	}
	return out
}

// whole returns a whole number from 0 to maxNumber, of any type. A flag is 0 or 1.
func whole(v any) (int64, bool) {
	f := math.NaN()
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case uint8:
		f = float64(v)
	case int8:
		f = float64(v)
	case uint16:
		f = float64(v)
	case int16:
		f = float64(v)
	case uint32:
		f = float64(v)
	case int32:
		f = float64(v)
	case uint64:
		f = float64(v)
	case int64:
		f = float64(v)
	case float32:
		f = float64(v)
	case float64:
		f = v
	}
	return int64(f), f >= 0 && f <= maxNumber && f == math.Trunc(f)
}

// wholes returns a list of whole numbers of any type; those that are none count as 0.
func wholes(v any) ([]int64, bool) {
	switch v := v.(type) {
	case []bool:
		return all(v), true
	case []uint8:
		return all(v), true
	case []int8:
		return all(v), true
	case []uint16:
		return all(v), true
	case []int16:
		return all(v), true
	case []uint32:
		return all(v), true
	case []int32:
		return all(v), true
	case []uint64:
		return all(v), true
	case []int64:
		return all(v), true
	case []float32:
		return all(v), true
	case []float64:
		return all(v), true
	}
	return nil, false
}

func all[T any](list []T) []int64 {
	out := make([]int64, min(len(list), maxBlocks))
	for i := range out {
		if n, ok := whole(list[i]); ok {
			out[i] = n
		}
	}
	return out
}
