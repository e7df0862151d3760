package store

import (
	"context"
	"fmt"
	"io"
	"net/http"
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
	name  string // for people
}

var splitName = regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})\.gguf$`)

// findSource understands a path, an http(s) URL, or hf:owner/repo/file.gguf.
func findSource(from string) (*source, error) {
	s := &source{}
	switch {
	case strings.HasPrefix(from, "hf:"):
		parts := strings.SplitN(strings.TrimPrefix(from, "hf:"), "/", 3)
		if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
			return nil, fmt.Errorf("%w: %q: write it as hf:owner/repo/file.gguf", ErrSource, from)
		}
		host := os.Getenv("HF_ENDPOINT")
		if host == "" {
			host = "https://huggingface.co"
		}
		from = strings.TrimRight(host, "/") + "/" + parts[0] + "/" + parts[1] + "/resolve/main/" + parts[2]
		s.http = true
	case strings.HasPrefix(from, "http://"), strings.HasPrefix(from, "https://"):
		s.http = true
	}
	base := filepath.Base(from)
	if s.http {
		u, err := url.Parse(from)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSource, err)
		}
		base = path.Base(u.Path)
	} else {
		st, err := os.Stat(from)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSource, err)
		}
		if st.IsDir() {
			return nil, fmt.Errorf("%w: %s is a directory; name a GGUF file in it", ErrSource, from)
		}
		if from, err = filepath.Abs(from); err != nil {
			return nil, err
		}
	}
	s.parts = []string{from}
	if m := splitName.FindStringSubmatch(base); m != nil {
		base = m[1]
		n, _ := strconv.Atoi(m[3])
		if n < 1 || n > 9999 {
			return nil, fmt.Errorf("%w: %s: a model in %d parts", ErrSource, from, n)
		}
		s.parts = nil
		for i := 1; i <= n; i++ {
			part := fmt.Sprintf("%s-%05d-of-%s.gguf", m[1], i, m[3])
			s.parts = append(s.parts, strings.Replace(from, m[0], part, 1))
		}
	}
	s.name = slug(strings.TrimSuffix(base, ".gguf"))
	return s, nil
}

// open gives a part's content and size.
func (s *source) open(ctx context.Context, part int) (io.ReadCloser, int64, error) {
	where := s.parts[part]
	if s.http {
		return openHTTP(ctx, where)
	}
	f, err := os.Open(where)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrSource, err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("%w: %w", ErrSource, err)
	}
	return f, st.Size(), nil
}

// retries of a broken transfer, each from where it broke off.
const retries = 5

// httpReader reads a URL, going on with a range request when it breaks off.
type httpReader struct {
	ctx  context.Context
	url  string
	etag string
	body io.ReadCloser
	at   int64
	size int64
	left int
}

func openHTTP(ctx context.Context, where string) (io.ReadCloser, int64, error) {
	h := &httpReader{ctx: ctx, url: where, left: retries}
	resp, err := h.get()
	if err != nil {
		return nil, 0, err
	}
	if resp.ContentLength < 0 {
		resp.Body.Close()
		return nil, 0, fmt.Errorf("%w: %s does not tell the file's size", ErrSource, hostOf(where))
	}
	h.body, h.size, h.etag = resp.Body, resp.ContentLength, resp.Header.Get("ETag")
	return h, h.size, nil
}

func (h *httpReader) get() (*http.Response, error) {
	req, err := http.NewRequestWithContext(h.ctx, http.MethodGet, h.url, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSource, err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	if token := os.Getenv("HF_TOKEN"); token != "" && strings.HasSuffix(req.URL.Hostname(), "huggingface.co") {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	want := http.StatusOK
	if h.at > 0 {
		want = http.StatusPartialContent
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", h.at))
		if h.etag != "" && !strings.HasPrefix(h.etag, "W/") {
			req.Header.Set("If-Range", h.etag)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSource, err)
	}
	if resp.StatusCode != want {
		resp.Body.Close()
		if h.at > 0 && resp.StatusCode == http.StatusOK {
			return nil, fmt.Errorf("%w: the file at %s changed during the transfer; try again", ErrSource, hostOf(h.url))
		}
		return nil, fmt.Errorf("%w: %s answers %s", ErrSource, hostOf(h.url), resp.Status)
	}
	return resp, nil
}

func (h *httpReader) Read(b []byte) (int, error) {
	for {
		n, err := h.body.Read(b)
		h.at += int64(n)
		if n > 0 || err == nil {
			return n, nil
		}
		if h.at == h.size {
			return 0, io.EOF
		}
		if h.ctx.Err() != nil {
			return 0, h.ctx.Err()
		}
		if h.left == 0 {
			return 0, fmt.Errorf("%w: the transfer broke off at byte %d of %d: %w", ErrSource, h.at, h.size, err)
		}
		h.left--
		h.body.Close()
		select {
		case <-time.After(time.Duration(retries-h.left) * 500 * time.Millisecond):
		case <-h.ctx.Done():
			return 0, h.ctx.Err()
		}
		resp, err := h.get()
		if err != nil {
			h.body = io.NopCloser(strings.NewReader(""))
			if h.left == 0 {
				return 0, err
			}
			continue
		}
		h.body = resp.Body
	}
}

func (h *httpReader) Close() error { return h.body.Close() }

func hostOf(where string) string {
	if u, err := url.Parse(where); err == nil {
		return u.Host
	}
	return "the server"
}
