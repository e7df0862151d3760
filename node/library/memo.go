package library

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"sync"

	"github.com/shoalnet/shoal/node/files"
)

// memo is a map that is kept in a file of the home. It is safe for concurrent use.
type memo[V comparable] struct {
	path string
	mode os.FileMode

	saving sync.Mutex // held while the file is written, which may take a while
	mu     sync.Mutex
	of     map[string]V
}

// openMemo reads a memo; what says what it remembers. A file that does not exist is an
// empty one.
func openMemo[V comparable](path string, mode os.FileMode, what string) (*memo[V], error) {
	of, err := readMemo[V](path, what)
	return &memo[V]{path: path, mode: mode, of: of}, err
}

func readMemo[V comparable](path, what string) (map[string]V, error) {
	raw, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return map[string]V{}, nil
	}
	if err != nil {
		return nil, err
	}
	var of map[string]V
	if json.Unmarshal(raw, &of) != nil || of == nil { // null is no map
		return nil, fmt.Errorf("%s, which remembers %s, is damaged; remove it to forget that", path, what)
	}
	return of, nil
}

func (m *memo[V]) get(key string) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.of[key]
	return v, ok
}

func (m *memo[V]) set(key string, v V) error {
	m.mu.Lock()
	old, known := m.of[key]
	m.of[key] = v
	m.mu.Unlock()
	if known && old == v {
		return nil
	}
	return m.save()
}

// forget removes the entries whose value is one of those. If the file cannot be
// written, they are back after a restart, which does no harm.
func (m *memo[V]) forget(those func(V) bool) {
	m.mu.Lock()
	before := len(m.of)
	maps.DeleteFunc(m.of, func(_ string, v V) bool { return those(v) })
	changed := len(m.of) != before
	m.mu.Unlock()
	if changed {
		_ = m.save()
	}
}

func (m *memo[V]) save() error {
	m.saving.Lock()
	defer m.saving.Unlock()
	m.mu.Lock()
	raw, err := json.MarshalIndent(m.of, "", "  ")
	m.mu.Unlock()
	if err != nil {
		return err
	}
	return files.Replace(m.path, append(raw, '\n'), m.mode)
}
