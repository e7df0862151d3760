package standing

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/files"
)

const (
	saveEvery = 30 * time.Second
	maxFile   = 2 << 20 // bytes; a full book takes a quarter of it
	maxWhy    = 120     // bytes
)

// file is the stored form of the book.
type file struct {
	Since int               `json:"since_newcomer"`
	Peers map[string]*entry `json:"peers"`
}

// Open reads the book from a file, which need not exist; with path "" the book
// is kept only in memory. A file that cannot be read is replaced by a new book,
// with a warning in the log.
func Open(path string, log *slog.Logger) *Book {
	b := &Book{path: path, log: log, peers: map[peer.ID]*entry{}, answers: map[answerKey]answer{}, saved: time.Now()}
	if path == "" {
		return b
	}
	f, err := os.Open(path)
	if err == nil {
		err = b.read(f)
		_ = f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the record of peers cannot be read; starting a new one", "file", path, "error", err)
	}
	return b
}

// read fills an empty book, skipping invalid entries.
func (b *Book) read(r io.Reader) error {
	raw, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return err
	}
	if len(raw) > maxFile {
		return fmt.Errorf("it has more than %d bytes", maxFile)
	}
	var f file
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(&f); err != nil {
		return err
	}
	now := time.Now()
	b.since = min(max(0, f.Since), turns)
	for name, e := range f.Peers {
		if id, err := peer.Decode(name); err == nil && e != nil {
			e.mend(now)
			b.peers[id] = e
		}
	}
	if len(b.peers) > maxPeers {
		b.trim(now)
	}
	return nil
}

// mend clamps an entry's values to valid ones. Its times must be past: if the
// clock was set back, marks would otherwise never decay.
func (e *entry) mend(now time.Time) {
	past := func(t time.Time) time.Time {
		if t.After(now) {
			return now
		}
		return t
	}
	e.Since, e.Seen = past(e.Since), past(e.Seen)
	e.Done, e.Failed, e.Work = min(max(0, e.Done), most), min(max(0, e.Failed), most), min(max(0, e.Work), most)
	for _, ratio := range []*float64{&e.Decode, &e.Prefill} {
		if *ratio != 0 {
			*ratio = min(max(*ratio, leastRatio), mostRatio)
		}
	}
	for f := range e.Marks {
		m := &e.Marks[f]
		m.Weight, m.At = min(max(0, m.Weight), mostMarks), past(m.At)
	}
	e.Why = clip(e.Why)
}

func clip(why string) string { return strings.ToValidUTF8(why[:min(len(why), maxWhy)], "") }

// trim forgets peers until there is room again. Called with mu held.
func (b *Book) trim(now time.Time) {
	type named struct {
		id peer.ID
		*entry
	}
	list := make([]named, 0, len(b.peers))
	for id, e := range b.peers {
		if e.Done == 0 && now.Sub(e.Seen) > longUnseen {
			delete(b.peers, id)
			continue
		}
		list = append(list, named{id, e})
	}
	slices.SortFunc(list, func(x, y named) int { // those to be forgotten first come first
		return cmp.Or(cmp.Compare(min(1, x.Done), min(1, y.Done)), y.Since.Compare(x.Since), cmp.Compare(x.Work, y.Work))
	})
	for _, x := range list[:max(0, len(list)-maxPeers)] {
		delete(b.peers, x.id)
	}
}

// Close writes the book for the next start. Errors are those of writing the
// file.
func (b *Book) Close() error { return b.save(0) }

// save writes the file atomically, unless the last write was less than every
// ago.
func (b *Book) save(every time.Duration) error {
	b.writing.Lock()
	defer b.writing.Unlock()
	raw, err := b.page(every)
	if raw == nil && err == nil {
		return nil
	}
	if err == nil {
		err = files.Replace(b.path, raw, 0o600)
	}
	if err != nil {
		b.log.Warn("the record of peers cannot be written", "error", err)
		return fmt.Errorf("writing the record of peers: %w", err)
	}
	return nil
}

// page returns the file's new content, or nil if there is nothing to write now.
func (b *Book) page(every time.Duration) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.path == "" || !b.changed || time.Since(b.saved) < every {
		return nil, nil
	}
	b.saved, b.changed = time.Now(), false
	if len(b.peers) > maxPeers {
		b.trim(b.saved)
	}
	f := file{Since: b.since, Peers: make(map[string]*entry, len(b.peers))}
	for id, e := range b.peers {
		f.Peers[id.String()] = e
	}
	return json.MarshalIndent(f, "", " ")
}
