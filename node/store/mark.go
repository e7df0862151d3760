package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Mark tells versions of a source apart, by what can be known without reading it: sizes
// and times of files, entity tags and dates of an origin. "" is that of a source which
// does not say, and equals none.
type Mark string

// mark is that of the parts as they are read now. The headers must have been.
func (im *importer) mark() (all Mark) {
	for _, p := range im.parts {
		one := p.rest.Mark()
		if one == "" {
			return ""
		}
		all += one + "\n"
	}
	return all
}

// MarkOf asks a source for its mark, and reads nothing of it. listed is as in
// AddOptions. Errors wrap ErrSource, or are ctx's.
func MarkOf(ctx context.Context, from string, listed bool) (all Mark, err error) {
	src, err := findSource(from, !listed)
	if err != nil {
		return "", err
	}
	for i := range src.parts {
		r, err := src.ask(ctx, i)
		if err != nil {
			return "", fmt.Errorf("%s: %w", shown(src.parts[i]), err)
		}
		one := r.Mark()
		_ = r.Close()
		if one == "" {
			return "", nil
		}
		all += one + "\n"
	}
	return all, nil
}

// DirMark is the mark of a directory of files.
func DirMark(dir string) Mark {
	var all []string
	list, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	for _, e := range list {
		if st, err := e.Info(); err == nil && st.Mode().IsRegular() {
			all = append(all, fmt.Sprintf("%q %s", e.Name(), fileMark(st.Size(), st.ModTime())))
		}
	}
	return Mark(strings.Join(all, "\n"))
}

func fileMark(size int64, changed time.Time) Mark {
	return Mark(fmt.Sprintf("%d bytes of %d", size, changed.UnixNano()))
}

// Mark implements reader.
func (r *fileReader) Mark() Mark { return fileMark(r.size, r.changed) }

// Mark implements reader.
func (h *httpReader) Mark() Mark {
	if h.etag == "" && h.modified == "" && h.sha == nil {
		return ""
	}
	return Mark(fmt.Sprintf("%d bytes of %q %q %x", h.size, h.etag, h.modified, h.sha))
}

// From returns the model that was added from a source and knows so, the last added
// first; nil if there is none. Nothing is asked of the source, which may be gone.
func (s *Store) From(source string) *Model { return addedFrom(source, s.Models()) }

// addedFrom is Store.From among some models.
func addedFrom(source string, models []*Model) *Model {
	src, err := parseSource(source, true)
	if err != nil {
		return nil
	}
	var found *Model
	for _, m := range models {
		origins, added := m.Origins(), m.added()
		all := !slices.ContainsFunc(src.origins(), func(o string) bool { return !slices.Contains(origins, o) })
		if all && (found == nil || added.After(found.added())) {
			found = m
		}
	}
	return found
}

func (m *Model) added() time.Time {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.rec.Added
}

// Source returns a source in the one form in which it is remembered: a path as an
// absolute one, and an address without its user.
func Source(from string) string {
	if src, err := parseSource(from, true); err == nil && src.http && len(src.parts) == 1 {
		return src.origins()[0]
	}
	if abs, err := filepath.Abs(from); err == nil && !strings.Contains(from, "://") && !strings.HasPrefix(from, "hf:") {
		return abs
	}
	return from
}

// delayed is an answer of an origin that names when to come again.
type delayed struct {
	error
	after time.Duration
}

func (d delayed) Unwrap() error { return d.error }

// Delay is for how long an origin's answer, which is now an error, asks its clients to
// wait; 0: it does not say.
func Delay(err error) time.Duration {
	var d delayed
	errors.As(err, &d)
	return d.after
}
