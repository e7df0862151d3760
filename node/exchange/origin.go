package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/node/ranges"
	"github.com/shoalnet/shoal/protocol"
)

const (
	originAtOnce = 4                // requests to an origin
	originRun    = 16               // leaves in a request, at most
	originFirst  = 2                // while its rate is not known
	headTime     = 30 * time.Second // for an answer to begin
)

// origin is one of a model's files as it lies on a server or on this machine.
type origin struct {
	f     *fetch
	at    Origin
	http  bool
	whole atomic.Bool // it does not support ranges: all that is needed is read in one request
	cl    *http.Client
}

func newOrigin(f *fetch, at Origin) *origin {
	o := &origin{f: f, at: at, http: strings.HasPrefix(at.Where, "http://") || strings.HasPrefix(at.Where, "https://")}
	t := at.Transport
	if t == nil {
		t = http.DefaultTransport.(*http.Transport)
	}
	t = t.Clone()
	t.DisableCompression, t.ResponseHeaderTimeout, t.MaxConnsPerHost = true, headTime, originAtOnce
	t.ForceAttemptHTTP2, t.TLSNextProto = false, nil // ranges share no connection
	o.cl = &http.Client{Transport: t, CheckRedirect: at.Redirect}
	return o
}

// name is the origin as people may see it, without a URL's credentials.
func (o *origin) name() string {
	if !o.http {
		return o.at.Where
	}
	u, err := url.Parse(o.at.Where)
	if err != nil {
		return "the origin"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

func (o *origin) workers() int       { return originAtOnce }
func (o *origin) mayAsk(n Need) bool { return n.File == o.at.File }

// batch is what comes in half a second, so that requests are few. Over a slow link
// it is a single leaf: a member that joins the swarm cannot see what is on its way,
// and asks for it as well.
func (o *origin) batch(rate float64) int {
	if rate == 0 {
		return originFirst
	}
	return int(max(1, min(originRun, rate/originAtOnce/2/protocol.LeafSize)))
}

// get reads leaves, which are in the order of the file.
func (o *origin) get(ctx context.Context, ask []Need, got func(i int, data []byte) error) error {
	if !o.http {
		return o.read(ctx, ask, got)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &rangeReader{o: o, ctx: ctx, to: ask[len(ask)-1].Offset + int64(ask[len(ask)-1].Size)}
	if err := r.open(ask[0].Offset); err != nil {
		return err
	}
	defer r.close()
	stalled := time.AfterFunc(stallTime, cancel)
	defer stalled.Stop()
	beat := func(time.Time) error { stalled.Reset(stallTime); return nil }
	for i, n := range ask {
		if err := skip(r, n.Offset-r.at, beat); err != nil {
			return err
		}
		if err := o.f.leafFrom(ctx, r, n, beat, func(data []byte) error { return got(i, data) }); err != nil {
			return err
		}
	}
	return nil
}

// rangeReader reads a range of the file, in several requests if the server sends
// less at once than it is asked for.
type rangeReader struct {
	o    *origin
	ctx  context.Context
	to   int64 // end of the range
	body io.ReadCloser
	at   int64 // offset in the file of what is read next
	end  int64 // of the body, as the server told
}

// open asks for the range from an offset on. A server that does not support
// ranges begins at 0.
func (r *rangeReader) open(from int64) (err error) {
	r.body, r.at, r.end, err = r.o.request(r.ctx, from, r.to)
	return err
}

func (r *rangeReader) close() {
	if r.body != nil {
		r.body.Close()
	}
}

func (r *rangeReader) Read(b []byte) (int, error) {
	if r.at == r.end {
		if r.at >= r.to {
			return 0, io.EOF
		}
		from := r.at
		r.body.Close()
		if err := r.open(from); err != nil {
			return 0, err
		}
		if r.at != from {
			return 0, later{errors.New("it has stopped answering with ranges"), 0}
		}
	}
	n, err := r.body.Read(b[:min(int64(len(b)), r.end-r.at)])
	r.at += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil // there may be more in the next request
	}
	return n, err
}

// skip discards bytes that are not needed.
func skip(r io.Reader, n int64, beat func(time.Time) error) error {
	for n > 0 {
		k := min(n, protocol.LeafSize)
		_ = beat(time.Time{})
		if _, err := io.CopyN(io.Discard, r, k); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// request asks for a range. It returns the body and the offsets in the file
// between which it lies: from 0 on from a server that does not support ranges.
func (o *origin) request(ctx context.Context, from, to int64) (body io.ReadCloser, at, end int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.at.Where, nil)
	if err != nil {
		return nil, 0, 0, permanent{errors.New("it is no URL")}
	}
	req.Header.Set("User-Agent", "shoal")
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
	if o.f.x.opt.Authorize != nil {
		o.f.x.opt.Authorize(req)
	}
	resp, err := o.cl.Do(req)
	if err != nil {
		var ue *url.Error // its text has the URL, which may be signed
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, 0, 0, err
	}
	if at, end, err = o.accept(resp, from, to); err != nil {
		resp.Body.Close()
		return nil, 0, 0, err
	}
	return resp.Body, at, end, nil
}

// accept checks an answer and returns the offsets between which its body lies. It
// fails with permanent or later.
func (o *origin) accept(resp *http.Response, from, to int64) (at, end int64, err error) {
	switch code := resp.StatusCode; {
	case code == http.StatusPartialContent:
		part, err := ranges.Parse(resp.Header.Get("Content-Range"))
		if err == nil {
			err = part.Fits(from, to, o.at.Size)
		}
		if err != nil {
			return 0, 0, permanent{err}
		}
		return from, part.To, nil
	case code == http.StatusOK:
		if err := o.wholeFile(resp); err != nil {
			return 0, 0, permanent{err}
		}
		if from == 0 && to == o.at.Size || o.whole.Swap(true) {
			return 0, o.at.Size, nil
		}
		return 0, 0, later{errors.New("it knows no ranges"), 0} // it is asked again at once, for all that is needed
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code >= 500:
		return 0, 0, later{fmt.Errorf("the server answers %s", resp.Status), backoff.RetryAfter(resp.Header)}
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return 0, 0, permanent{fmt.Errorf("the server answers %s; if the model asks for a login, set HF_TOKEN", resp.Status)}
	default:
		return 0, 0, permanent{fmt.Errorf("the server answers %s", resp.Status)}
	}
}

// wholeFile returns an error if an answer that is not a range cannot be the file.
func (o *origin) wholeFile(resp *http.Response) error {
	if how := resp.Header.Get("Content-Encoding"); how != "" && !strings.EqualFold(how, "identity") {
		return fmt.Errorf("it sends the file compressed (%.20q), though it was asked not to", how)
	}
	if resp.ContentLength == o.at.Size {
		return nil
	}
	if kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); strings.EqualFold(strings.TrimSpace(kind), "text/html") {
		return errors.New("it answers with an HTML page in place of the file; perhaps it asks for a login")
	}
	if resp.ContentLength >= 0 {
		return fmt.Errorf("the file there has %d bytes now, the model's has %d", resp.ContentLength, o.at.Size)
	}
	return nil
}

// read reads leaves from a file of this machine.
func (o *origin) read(ctx context.Context, ask []Need, got func(i int, data []byte) error) error {
	file, err := os.Open(o.at.Where)
	if err != nil {
		return permanent{err}
	}
	defer file.Close()
	if st, err := file.Stat(); err != nil || st.Size() != o.at.Size {
		return permanent{errors.Join(err, errors.New("the file has another size now"))}
	}
	for i, n := range ask {
		r := io.NewSectionReader(file, n.Offset, int64(n.Size))
		beat := func(time.Time) error { return nil }
		if err := o.f.leafFrom(ctx, r, n, beat, func(data []byte) error { return got(i, data) }); err != nil {
			return err
		}
	}
	return nil
}
