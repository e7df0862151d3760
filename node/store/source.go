package store

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// source is where a model is imported from: one part, or the parts of a split
// model in order.
type source struct {
	parts []string // paths or URLs
	http  bool
	way   *way   // how to reach all parts, if they are URLs
	name  string // for people
}

// reader reads a part from beginning to end.
type reader interface {
	io.ReadCloser
	Size() int64    // of the part, in bytes
	Rest()          // closes the underlying connection or file until the next Read
	Sha256() []byte // of the part, as reported by its origin, or nil
	Mark() Mark
}

var splitName = regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})\.gguf$`)

// hfEndpoint returns the base URL for hf: sources.
func hfEndpoint() string {
	if e := os.Getenv("HF_ENDPOINT"); e != "" {
		return strings.TrimRight(e, "/")
	}
	return "https://huggingface.co"
}

// findSource parses a path, an http(s) URL, or hf:owner/repo/file.gguf. given
// says that a person named it. A path must be that of a file.
func findSource(from string, given bool) (*source, error) {
	s, err := parseSource(from, given)
	if err != nil || s.http {
		return s, err
	}
	st, err := os.Stat(from)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSource, err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a file; name a GGUF file", ErrSource, from)
	}
	return s, nil
}

// parseSource is findSource that does not look at the disk.
func parseSource(from string, given bool) (s *source, err error) {
	s = &source{}
	var base string
	switch {
	case strings.HasPrefix(from, "hf:"):
		parts := strings.SplitN(strings.TrimPrefix(from, "hf:"), "/", 3)
		if len(parts) == 2 && parts[0] != "" && parts[1] != "" {
			return nil, fmt.Errorf("%w: %q names no file; add the name of a file in the repository, as in hf:owner/repo/file.gguf", ErrSource, from)
		}
		if len(parts) != 3 || parts[0] == "" || parts[1] == "" || path.Base(parts[2]) == "." || strings.ContainsAny(from, "?#") {
			return nil, fmt.Errorf("%w: %q: write it as hf:owner/repo/file.gguf", ErrSource, from)
		}
		from = hfEndpoint() + "/" + parts[0] + "/" + parts[1] + "/resolve/main/" + parts[2]
		s.http, base = true, path.Base(parts[2])
	case strings.HasPrefix(from, "http://"), strings.HasPrefix(from, "https://"):
		u, err := url.Parse(from)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("%w: %q is not a URL", ErrSource, shown(from))
		}
		s.http, base = true, path.Base(u.Path)
	default:
		if from, err = filepath.Abs(from); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSource, err)
		}
		base = filepath.Base(from)
	}
	s.parts, s.way = []string{from}, newWay(given || ofEndpoint(from))
	if m := splitName.FindStringSubmatch(base); m != nil {
		n, _ := strconv.Atoi(m[3])
		if n < 1 || n > 9999 {
			return nil, fmt.Errorf("%w: %s: a model in %d parts", ErrSource, shown(from), n)
		}
		at := strings.LastIndex(from, base) // the name is the last part of the path; a query may follow
		if at < 0 {
			return nil, fmt.Errorf("%w: %s: write the name of a split model's part without escapes", ErrSource, shown(from))
		}
		s.parts = nil
		for i := 1; i <= n; i++ {
			s.parts = append(s.parts, from[:at]+fmt.Sprintf("%s-%05d-of-%s.gguf", m[1], i, m[3])+from[at+len(base):])
		}
		base = m[1]
	}
	s.name = slug(strings.TrimSuffix(base, ".gguf"))
	return s, nil
}

// open opens a part for reading.
func (s *source) open(ctx context.Context, i int) (reader, error) {
	if s.http {
		return openHTTP(ctx, s.parts[i], s.way)
	}
	st, err := os.Stat(s.parts[i])
	if err != nil {
		if len(s.parts) > 1 {
			return nil, fmt.Errorf("%w: %w; a split model's parts must lie together", ErrSource, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrSource, err)
	}
	return &fileReader{path: s.parts[i], size: st.Size(), changed: st.ModTime()}, nil
}

// ask is open for what a part's Mark says.
func (s *source) ask(ctx context.Context, i int) (reader, error) {
	if s.http {
		return askHTTP(ctx, s.parts[i], s.way)
	}
	return s.open(ctx, i)
}

// origins returns the parts in the form in which they may be remembered:
// without credentials.
func (s *source) origins() []string {
	var out []string
	for _, p := range s.parts {
		if u, err := url.Parse(p); s.http && err == nil {
			u.User = nil
			p = u.String()
		}
		out = append(out, p)
	}
	return out
}

// shown returns a path or URL in a form fit for messages: a URL may contain
// credentials.
func shown(where string) string {
	if !strings.HasPrefix(where, "http://") && !strings.HasPrefix(where, "https://") {
		return where
	}
	u, err := url.Parse(where)
	if err != nil {
		return "the URL"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// fileReader reads a file that is held open only while it is being read.
type fileReader struct {
	path    string
	size    int64
	changed time.Time
	at      int64
	f       *os.File
}

func (r *fileReader) Read(b []byte) (n int, err error) {
	if r.f == nil {
		if r.f, err = os.Open(r.path); err != nil {
			return 0, err
		}
	}
	n, err = r.f.ReadAt(b, r.at)
	r.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (r *fileReader) Rest() { r.Close() }

func (r *fileReader) Close() error {
	if r.f == nil {
		return nil
	}
	err := r.f.Close()
	r.f = nil
	return err
}

func (r *fileReader) Size() int64    { return r.size }
func (r *fileReader) Sha256() []byte { return nil }
