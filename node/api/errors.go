package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"
)

// Kind of an error. The text crosses the wire as OpenAI's "code" (but for those
// that OpenAI has its own word for); the list is append-only.
type Kind string

// The kinds, with the HTTP status that each becomes.
const (
	Internal     Kind = "internal"                // 500: a fault of shoal's or of a stage
	BadInput     Kind = "bad_input"               // 400: the caller can mend it; Param says where
	TooLong      Kind = "context_length_exceeded" // 400: prompt and answer do not fit the context
	UnknownModel Kind = "model_not_found"         // 404
	NotFound     Kind = "not_found"               // 404: no such address
	NoRoute      Kind = "no_route"                // 503: some blocks are served by nobody
	Busy         Kind = "busy"                    // 503: no room now, see RetryAfter
	Refused      Kind = "refused"                 // 403: a peer, or this node, does not lend to the caller
	Forbidden    Kind = "forbidden"               // 403: the API refuses this origin, host or caller
	Unauthorized Kind = "invalid_api_key"         // 401
	TooLarge     Kind = "too_large"               // 413: the request's body
	MediaType    Kind = "unsupported_media_type"  // 415
	BadMethod    Kind = "method_not_allowed"      // 405
	Cancelled    Kind = "cancelled"               // 499: the caller went away, or the node stops
	Unavailable  Kind = "unavailable"             // 502: the client could not reach the API at all
)

// Error is what went wrong, for code and for people.
type Error struct {
	Kind       Kind
	Message    string        // says what to do, where there is something
	Param      string        // the field of the request that is at fault, e.g. "messages[0].content"
	RetryAfter time.Duration // 0: no hint
	Err        error         // the cause; stays in this process
}

// Errorf makes an Error; %w sets its cause.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), Err: errors.Unwrap(err)}
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Err }

// Is lets errors.Is find an Error by its kind alone: errors.Is(err, &Error{Kind: NoRoute}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Message == "" && t.Kind == e.Kind
}

// KindOf is the kind of the Error that err wraps. A context's end is Cancelled,
// any other error Internal, nil "".
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	return asError(err).Kind
}

// asError is err as an *Error. The outer message is kept: who wraps an Error
// does so to say more.
func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		if msg := err.Error(); msg != e.Message {
			c := *e
			c.Message, c.Err = msg, err
			return &c
		}
		return e
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &Error{Kind: Cancelled, Message: "the request was cancelled", Err: err}
	}
	return &Error{Kind: Internal, Message: err.Error(), Err: err}
}

// Status is the HTTP status of a kind.
func (k Kind) Status() int {
	switch k {
	case BadInput, TooLong:
		return http.StatusBadRequest
	case UnknownModel, NotFound:
		return http.StatusNotFound
	case NoRoute, Busy:
		return http.StatusServiceUnavailable
	case Refused, Forbidden:
		return http.StatusForbidden
	case Unauthorized:
		return http.StatusUnauthorized
	case TooLarge:
		return http.StatusRequestEntityTooLarge
	case MediaType:
		return http.StatusUnsupportedMediaType
	case BadMethod:
		return http.StatusMethodNotAllowed
	case Cancelled:
		return 499 // nginx's "client closed request": there is no standard one
	case Unavailable:
		return http.StatusBadGateway
	}
	return http.StatusInternalServerError
}

// kindOfStatus is the kind of an answer that carries no code of ours.
func kindOfStatus(status int) Kind {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return BadInput
	case http.StatusNotFound:
		return NotFound
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return Busy
	case http.StatusForbidden:
		return Forbidden
	case http.StatusUnauthorized:
		return Unauthorized
	case http.StatusRequestEntityTooLarge:
		return TooLarge
	case http.StatusUnsupportedMediaType:
		return MediaType
	case http.StatusMethodNotAllowed:
		return BadMethod
	case 499:
		return Cancelled
	case http.StatusBadGateway:
		return Unavailable
	}
	return Internal
}

// openAIType is the "type" that OpenAI's clients know.
func (k Kind) openAIType() string {
	switch status := k.Status(); {
	case status == http.StatusUnauthorized:
		return "authentication_error"
	case status == http.StatusForbidden:
		return "permission_error"
	case status < 499:
		return "invalid_request_error"
	}
	return "server_error"
}

// ErrorBody is an error as it crosses the wire, in OpenAI's shape.
type ErrorBody struct {
	Error WireError `json:"error"`
}

// WireError is the inside of ErrorBody.
type WireError struct {
	Message      string  `json:"message"`
	Type         string  `json:"type"`
	Param        *string `json:"param"`
	Code         *string `json:"code"`
	RetryAfterMs int64   `json:"retry_after_ms,omitempty"`
}

// wire is the error as it is sent.
func (e *Error) wire() WireError {
	w := WireError{Message: strings.ToValidUTF8(e.Message, "?"), Type: e.Kind.openAIType(), RetryAfterMs: e.RetryAfter.Milliseconds()}
	if w.Message == "" {
		w.Message = string(e.Kind)
	}
	if e.Param != "" {
		w.Param = &e.Param
	}
	code := string(e.Kind)
	w.Code = &code
	return w
}

// unwire is the error as it arrived; status is the answer's, 0 inside a stream.
func (w WireError) unwire(status int) *Error {
	e := &Error{Message: w.Message, RetryAfter: time.Duration(w.RetryAfterMs) * time.Millisecond}
	if w.Param != nil {
		e.Param = *w.Param
	}
	if w.Code != nil && known[Kind(*w.Code)] {
		e.Kind = Kind(*w.Code)
	} else {
		e.Kind = kindOfStatus(status)
	}
	return e
}

var known = func() map[Kind]bool {
	m := map[Kind]bool{}
	for _, k := range []Kind{Internal, BadInput, TooLong, UnknownModel, NotFound, NoRoute, Busy, Refused, Forbidden,
		Unauthorized, TooLarge, MediaType, BadMethod, Cancelled, Unavailable} {
		m[k] = true
	}
	return m
}()

// retryAfter is the header's value, whole seconds and at least one; "" for none.
func (e *Error) retryAfter() string {
	if e.Kind.Status() != http.StatusServiceUnavailable {
		return ""
	}
	d := e.RetryAfter
	if d <= 0 {
		d = 2 * time.Second
	}
	return fmt.Sprint(int64(math.Ceil(d.Seconds())))
}
