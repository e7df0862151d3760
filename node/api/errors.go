package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/remedy"
)

// Kind of failure: what a caller can do about it.
type Kind string

// Kinds, each with its HTTP status. Their texts are the "code" of OpenAI's error object;
// the list is append-only.
const (
	NoRoute      Kind = "no_route"                // 503: nobody serves some blocks
	Refused      Kind = "refused"                 // 503: no room, or not lending now: see RetryAfter
	BadInput     Kind = "invalid_request"         // 400: see Param
	UnknownModel Kind = "model_not_found"         // 404
	TooLong      Kind = "context_length_exceeded" // 400
	Cancelled    Kind = "cancelled"               // 499
	Unauthorized Kind = "invalid_api_key"         // 401
	Internal     Kind = "internal_error"          // 500
	Forbidden    Kind = "forbidden"               // 403: not allowed for this host name, origin or address
	NotFound     Kind = "not_found"               // 404: no such endpoint
	BadMethod    Kind = "method_not_allowed"      // 405
	TooLarge     Kind = "request_too_large"       // 413
	BadMedia     Kind = "unsupported_media_type"  // 415
	RateLimited  Kind = "rate_limit_exceeded"     // 429: see RetryAfter
	NoText       Kind = "not_supported_by_model"  // 501: the model generates no text

	NoPrevious Kind = "previous_response_not_found" // 400: never kept, or not any more; OpenAI's word
	NoThread   Kind = "thread_not_found"            // 404: likewise; Anthropic's word
)

// statuses has every kind.
var statuses = map[Kind]int{
	NoRoute: http.StatusServiceUnavailable, Refused: http.StatusServiceUnavailable,
	BadInput: http.StatusBadRequest, TooLong: http.StatusBadRequest,
	UnknownModel: http.StatusNotFound, NotFound: http.StatusNotFound,
	Unauthorized: http.StatusUnauthorized, Forbidden: http.StatusForbidden,
	BadMethod: http.StatusMethodNotAllowed, TooLarge: http.StatusRequestEntityTooLarge,
	BadMedia: http.StatusUnsupportedMediaType, RateLimited: http.StatusTooManyRequests, NoPrevious: http.StatusBadRequest, NoThread: http.StatusNotFound,
	Cancelled: 499, // the client disconnected; nginx's code
	Internal:  http.StatusInternalServerError,
	NoText:    http.StatusNotImplemented,
}

// Error is a failure and its kind.
type Error struct {
	Kind       Kind
	Message    string
	Param      string // the field at fault, if one is
	RetryAfter time.Duration
	Lack       *Lack // what is missing, if an export is refused
	Err        error // the cause, of which only the remedy crosses the wire
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Err }

// Is lets errors.Is find an Error by its kind: errors.Is(err, &Error{Kind: NoRoute}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Message == "" && t.Kind == e.Kind
}

// Errorf creates an Error, whose cause is the error (or errors) that %w wraps.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), Err: err}
}

// AsError converts any error into one with a kind. If err wraps an Error, the result has
// that Error's kind and details, and err's text and remedy, which are more specific.
func AsError(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		if text := err.Error(); text != e.Message || remedy.Of(err) != remedy.Of(e) {
			return &Error{Kind: e.Kind, Message: text, Param: e.Param, RetryAfter: e.RetryAfter, Lack: e.Lack, Err: err}
		}
		return e
	case errors.Is(err, context.Canceled):
		return &Error{Kind: Cancelled, Message: "cancelled", Err: err}
	}
	return &Error{Kind: Internal, Message: err.Error(), Err: err}
}

func (e *Error) status() int {
	if s, ok := statuses[e.Kind]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// openAIType returns the "type" of OpenAI's error object.
func (e *Error) openAIType() string {
	switch e.status() {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusServiceUnavailable:
		return "service_unavailable"
	case http.StatusInternalServerError, 499:
		return "server_error"
	}
	return "invalid_request_error"
}

// errorBody is OpenAI's error object, as a whole answer or a line of a stream.
type errorBody struct {
	Error wireError `json:"error"`
}

type wireError struct {
	Message      string  `json:"message"`
	Type         string  `json:"type"`
	Param        *string `json:"param"`
	Code         Kind    `json:"code"`
	RetryAfterMs int64   `json:"retry_after_ms,omitempty"`
	Lack         *Lack   `json:"missing,omitempty"`

	Remedy *wireRemedy `json:"remedy,omitempty"`
}

// wireRemedy is the error's remedy; the client that talks to a person puts it into
// words.
type wireRemedy struct {
	Kind remedy.Kind `json:"kind"`
	Args []string    `json:"args,omitempty"`
}

func (e *Error) body() errorBody {
	b := wireError{Message: e.Message, Type: e.openAIType(), Code: e.Kind, RetryAfterMs: e.RetryAfter.Milliseconds(), Lack: e.Lack}
	if e.Param != "" {
		b.Param = &e.Param
	}
	if r := remedy.Of(e); r != nil {
		b.Remedy = &wireRemedy{r.Kind, r.Args}
	}
	return errorBody{b}
}

// failure returns the error in a body. An unknown code comes from another program that
// answers at this address, or a newer node.
func (w wireError) failure() *Error {
	e := &Error{Kind: w.Code, Message: w.Message, RetryAfter: time.Duration(w.RetryAfterMs) * time.Millisecond, Lack: w.Lack}
	if _, ok := statuses[e.Kind]; !ok {
		e.Kind = Internal
	}
	if w.Param != nil {
		e.Param = *w.Param
	}
	if w.Remedy != nil {
		e.Err = remedy.For(errors.New(w.Message), w.Remedy.Kind, w.Remedy.Args...)
	}
	return e
}

func writeError(w http.ResponseWriter, r *http.Request, err error) {
	e := AsError(err)
	switch e.status() {
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		wait := e.RetryAfter
		if wait <= 0 {
			wait = 5 * time.Second
		}
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="shoal"`)
	}
	if speaksAnthropic(r) {
		nameRequest(w)
		status, _ := e.anthropicStatus()
		writeJSON(w, status, e.anthropic(w.Header().Get("X-Request-Id")))
		return
	}
	if strings.HasPrefix(r.URL.Path, "/api/") {
		writeJSON(w, e.status(), ollamaError{e.Message})
		return
	}
	writeJSON(w, e.status(), e.body())
}

// badParam is the error for a bad field of the request; the message follows its name.
func badParam(param, format string, args ...any) *Error {
	return &Error{Kind: BadInput, Param: param, Message: strings.TrimSpace(param + " " + fmt.Sprintf(format, args...))}
}
