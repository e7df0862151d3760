package api

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// InProcess returns a Client of a handler in this process, for commands that run their
// own node: requests and answers are the same, but go over a pipe.
func InProcess(h http.Handler, token string) *Client {
	return &Client{Base: "http://127.0.0.1", Token: token, HTTP: &http.Client{Transport: inProcess{h}}}
}

// inProcess calls a handler as if over a connection: the answer's body streams,
// and the handler's context ends when the request's does or the body is closed.
type inProcess struct{ h http.Handler }

// RoundTrip implements http.RoundTripper.
func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	pr, pw := io.Pipe()
	w := &pipeWriter{header: http.Header{}, body: pw, ready: make(chan struct{}), trailer: http.Header{}}
	in := r.Clone(ctx)
	in.RequestURI = r.URL.RequestURI()
	in.RemoteAddr = "127.0.0.1:0"
	in.Proto, in.ProtoMajor, in.ProtoMinor = "HTTP/1.1", 1, 1
	if in.Host == "" {
		in.Host = r.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	stop := context.AfterFunc(ctx, func() { _ = pw.CloseWithError(ctx.Err()) })
	go func() {
		broken := io.ErrUnexpectedEOF
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				panic(p)
			}
			stop()
			w.WriteHeader(http.StatusOK) // no handler writes after it has returned
			w.endTrailer()
			_ = in.Body.Close()
			_ = pw.CloseWithError(broken)
			cancel()
		}()
		t.h.ServeHTTP(w, in)
		broken = nil
	}()
	select {
	case <-w.ready:
	case <-ctx.Done():
		cancel()
		return nil, ctx.Err()
	}
	return &http.Response{
		Status: strconv.Itoa(w.status) + " " + http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Trailer: w.trailer, Body: pipeBody{pr, cancel}, ContentLength: -1, Request: r,
	}, nil
}

// pipeBody ends the handler when it is closed.
type pipeBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b pipeBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// pipeWriter is the handler's end. Only the handler's goroutine uses it.
type pipeWriter struct {
	header, sent, trailer http.Header
	body                  *io.PipeWriter
	status                int
	ready                 chan struct{} // closed once status and sent are set
}

func (w *pipeWriter) Header() http.Header { return w.header }
func (w *pipeWriter) FlushError() error   { return nil } // a pipe does not buffer

func (w *pipeWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status, w.sent = status, w.header.Clone()
		w.sent.Del("Trailer")
		close(w.ready)
	}
}

func (w *pipeWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// endTrailer fills in the declared trailers. The reader may read them after the end of
// the body, which comes later.
func (w *pipeWriter) endTrailer() {
	for _, name := range strings.Split(w.header.Get("Trailer"), ",") {
		name = http.CanonicalHeaderKey(strings.TrimSpace(name))
		if v, ok := w.header[name]; ok && name != "" {
			w.trailer[name] = v
		}
	}
}
