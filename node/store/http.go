package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/node/ranges"
)

const (
	retries    = 5                // in a row, with no byte received in between
	retryPause = time.Second      // mean pause before the first retry
	retryMost  = 5 * time.Second  // longest pause before a retry
	stall      = 60 * time.Second // without a byte: the transfer is considered broken
)

// httpReader reads a URL, resuming with a range request where a transfer
// breaks. All bytes that it returns are of one version of the file: a version
// that neither an entity tag nor a date identifies is not resumed.
type httpReader struct {
	ctx    context.Context
	url    string
	client *http.Client
	retry  backoff.Backoff

	body     io.ReadCloser // nil: not open
	idle     *time.Timer   // aborts a stalled transfer
	at, size int64
	end      int64 // where the open body ends, in bytes of the file
	etag     string
	modified string
	sha      []byte
	told     int64 // size in bytes that the origin reports; 0: unknown
	failed   int   // failed attempts in a row
	head     bool  // only what the file is is asked, not the file
}

func openHTTP(ctx context.Context, where string, over *way) (reader, error) {
	return connectHTTP(ctx, where, over, false)
}

// askHTTP is openHTTP where nothing of the file is wanted: HEAD, or, since signed
// addresses often allow GET alone, a GET of which nothing is read.
func askHTTP(ctx context.Context, where string, over *way) (reader, error) {
	r, err := connectHTTP(ctx, where, over, true)
	if errors.As(err, &permanent{}) {
		return connectHTTP(ctx, where, over, false)
	}
	return r, err
}

func connectHTTP(ctx context.Context, where string, over *way, head bool) (reader, error) {
	h := &httpReader{ctx: ctx, url: where, size: -1, head: head, retry: backoff.Backoff{First: retryPause, Most: retryMost}}
	h.client = &http.Client{CheckRedirect: h.redirect, Transport: over.transport()}
	for {
		err := h.connect()
		if err == nil {
			return h, nil
		}
		if err := h.again(err); err != nil {
			return nil, err
		}
	}
}

// redirect notes the file's hash and size, which Hugging Face sends before it
// redirects to its storage servers.
func (h *httpReader) redirect(req *http.Request, via []*http.Request) error {
	if req.Response != nil {
		h.noteHash(req.Response.Header)
	}
	return followable(req, via)
}

func (h *httpReader) noteHash(head http.Header) {
	tag := strings.Trim(head.Get("X-Linked-ETag"), `"`)
	if sum, err := hex.DecodeString(tag); err == nil && len(sum) == len(digest{}) {
		h.sha = sum
	}
	if n, err := strconv.ParseInt(head.Get("X-Linked-Size"), 10, 64); err == nil && n > 0 {
		h.told = n
	}
}

// permanent is an error that a retry would not change.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// connect requests the file from the current position on.
func (h *httpReader) connect() error {
	ctx, cancel := context.WithCancelCause(h.ctx)
	idle := time.AfterFunc(stall, func() { cancel(fmt.Errorf("no data for %s", stall)) })
	give := func(err error) error {
		idle.Stop()
		cancel(nil)
		return err
	}
	method := http.MethodGet
	if h.head {
		method = http.MethodHead
	}
	req, err := http.NewRequestWithContext(ctx, method, h.url, nil)
	if err != nil {
		return give(permanent{errors.New("it is not a URL")})
	}
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "shoal")
	Authorize(req)
	if h.at > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", h.at))
		if tag := h.validator(); tag != "" {
			req.Header.Set("If-Range", tag)
		}
	}
	resp, err := h.client.Do(req)
	if err != nil {
		var ue *url.Error // its text has the URL, which may be signed
		if errors.As(err, &ue) {
			err = ue.Err
		}
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return give(err)
	}
	if err := h.accept(resp); err != nil {
		resp.Body.Close()
		return give(err)
	}
	h.body, h.idle = cancelled{resp.Body, func() { _ = give(nil) }}, idle
	return nil
}

// validator returns the value for If-Range.
func (h *httpReader) validator() string {
	if h.etag != "" && !strings.HasPrefix(h.etag, "W/") {
		return h.etag
	}
	return h.modified
}

// accept checks a response, and skips to the current position if the server
// does not support ranges.
func (h *httpReader) accept(resp *http.Response) error {
	switch code := resp.StatusCode; {
	case code == http.StatusOK, code == http.StatusPartialContent && h.at > 0:
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return permanent{fmt.Errorf("the server answers %s; if the model asks for a login, set HF_TOKEN", resp.Status)}
	case code == http.StatusTooManyRequests, code >= 500:
		err := delayed{fmt.Errorf("the server answers %s", resp.Status), backoff.RetryAfter(resp.Header)}
		if err.after > retryMost {
			return permanent{err} // whoever waits so long does something else meanwhile
		}
		return err
	default:
		return permanent{fmt.Errorf("the server answers %s", resp.Status)}
	}
	etag, modified := resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
	if h.size < 0 {
		if err := plainFile(resp); err != nil {
			return permanent{err}
		}
		h.noteHash(resp.Header)
		if h.told > 0 && h.told != resp.ContentLength {
			return permanent{fmt.Errorf("the origin says that the file has %d bytes but its storage sends %d; try again later", h.told, resp.ContentLength)}
		}
		h.size, h.etag, h.modified = resp.ContentLength, etag, modified
		h.end = h.size
		return nil
	}
	h.end = h.size
	if resp.StatusCode == http.StatusPartialContent {
		if header := resp.Header.Get("Content-Range"); header != "" {
			part, err := ranges.Parse(header)
			if err == nil {
				err = part.Fits(h.at, h.size, h.size)
			}
			if err != nil {
				return permanent{fmt.Errorf("%w; it may have changed during the transfer: try again", err)}
			}
			h.end = part.To
		}
		if resp.ContentLength >= 0 && resp.ContentLength != h.end-h.at || h.another(etag, modified) {
			return permanent{errors.New("the file changed during the transfer; try again")}
		}
		return nil
	}
	same := resp.ContentLength == h.size && etag == h.etag && modified == h.modified && (etag != "" || modified != "")
	if !same {
		return permanent{errors.New("the file changed during the transfer, or its server cannot resume it; try again")}
	}
	_, err := io.CopyN(io.Discard, resp.Body, h.at)
	return err
}

// plainFile returns an error unless an answer to a request for a whole file may be
// one.
func plainFile(resp *http.Response) error {
	if how := resp.Header.Get("Content-Encoding"); how != "" && !strings.EqualFold(how, "identity") {
		return fmt.Errorf("the server sends the file compressed (%.20q), though it was asked not to", how)
	}
	if resp.ContentLength >= 0 {
		return nil
	}
	if kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); strings.EqualFold(strings.TrimSpace(kind), "text/html") {
		return errors.New("the server answers with an HTML page; it may be a page about the file (take the address of the download), or one that asks for a login")
	}
	return errors.New("the server does not report the file's size")
}

// another reports whether a tag, or a date where there is no tag, belongs to
// another version: some servers ignore If-Range.
func (h *httpReader) another(etag, modified string) bool {
	if etag != "" && h.etag != "" {
		return etag != h.etag
	}
	return modified != "" && h.modified != "" && modified != h.modified
}

// trusted reports whether a host may receive the user's Hugging Face token.
func trusted(u *url.URL) bool {
	if e, err := url.Parse(hfEndpoint()); err == nil && u.Scheme == e.Scheme && u.Host == e.Host {
		return true
	}
	host := u.Hostname()
	return u.Scheme == "https" && (host == "huggingface.co" || strings.HasSuffix(host, ".huggingface.co"))
}

func (h *httpReader) Read(b []byte) (int, error) {
	if h.at == h.size {
		return 0, io.EOF
	}
	for {
		var err error
		if h.body == nil {
			err = h.connect()
		}
		if err == nil {
			h.idle.Reset(stall)
			var n int
			n, err = h.body.Read(b[:min(int64(len(b)), h.end-h.at)])
			h.at += int64(n)
			if n > 0 {
				h.failed = 0
				h.retry.Reset()
				return n, nil
			}
			if h.at == h.end { // the server sent less than it was asked for, as it may: the next request goes on
				h.Rest()
				continue
			}
			if err == nil {
				continue
			}
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			h.Rest()
		}
		if err := h.again(err); err != nil {
			return 0, fmt.Errorf("at byte %d of %d: %w", h.at, h.size, err)
		}
	}
}

// again waits before the next attempt, or returns the error if there is none.
func (h *httpReader) again(err error) error {
	if h.ctx.Err() != nil {
		return context.Cause(h.ctx)
	}
	var p permanent
	var dns *net.DNSError
	never := h.size < 0 && (errors.Is(err, syscall.ECONNREFUSED) || errors.As(err, &dns) && dns.IsNotFound) // probably a typo, not a temporary failure
	near := errors.Is(err, ErrNear)
	if h.failed++; never || near || errors.As(err, &p) || h.failed > retries {
		return fmt.Errorf("%w: %w", ErrSource, err)
	}
	if h.retry.Wait(h.ctx) != nil {
		return context.Cause(h.ctx)
	}
	return nil
}

func (h *httpReader) Size() int64    { return h.size }
func (h *httpReader) Sha256() []byte { return h.sha }

func (h *httpReader) Rest() {
	if h.body != nil {
		h.body.Close()
		h.body = nil
	}
}

func (h *httpReader) Close() error {
	h.Rest()
	h.client.CloseIdleConnections()
	return nil
}

// cancelled is a response body that cancels its request when closed.
type cancelled struct {
	io.ReadCloser
	cancel func()
}

func (c cancelled) Close() error {
	c.cancel()
	return c.ReadCloser.Close()
}
