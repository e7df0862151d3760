package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Kind of failure: what a caller can do about it.
type Kind string

// Kinds. Their texts are the "code" of OpenAI's error object.
const (
	NoRoute      Kind = "no_route"
	Refused      Kind = "refused"
	BadInput     Kind = "invalid_request"
	UnknownModel Kind = "model_not_found"
	TooLong      Kind = "context_length_exceeded"
	Cancelled    Kind = "cancelled"
	Unauthorized Kind = "invalid_api_key"
	Internal     Kind = "internal_error"
)

// Error is a failure with its kind.
type Error struct {
	Kind       Kind
	Message    string
	Param      string // the field at fault, if one is
	RetryAfter time.Duration
}

func (e *Error) Error() string { return e.Message }

// Errorf makes an Error.
func Errorf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// AsError gives any error a kind.
func AsError(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.Canceled):
		return Errorf(Cancelled, "cancelled")
	}
	return Errorf(Internal, "%s", err)
}

func (e *Error) status() int {
	switch e.Kind {
	case NoRoute, Refused:
		return http.StatusServiceUnavailable
	case BadInput, TooLong:
		return http.StatusBadRequest
	case UnknownModel:
		return http.StatusNotFound
	case Unauthorized:
		return http.StatusUnauthorized
	case Cancelled:
		return 499 // the client's own doing, as nginx has it
	}
	return http.StatusInternalServerError
}

// openAIType is the "type" of OpenAI's error object.
func (e *Error) openAIType() string {
	switch e.Kind {
	case BadInput, TooLong, UnknownModel:
		return "invalid_request_error"
	case Unauthorized:
		return "authentication_error"
	case NoRoute, Refused:
		return "service_unavailable"
	}
	return "server_error"
}

// errorBody is OpenAI's error object.
type errorBody struct {
	Error struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    Kind    `json:"code"`
	} `json:"error"`
}

func (e *Error) body() (b errorBody) {
	b.Error.Message, b.Error.Type, b.Error.Code = e.Message, e.openAIType(), e.Kind
	if e.Param != "" {
		b.Error.Param = &e.Param
	}
	return b
}

func writeError(w http.ResponseWriter, err error) {
	e := AsError(err)
	if s := e.status(); s == http.StatusServiceUnavailable {
		wait := e.RetryAfter
		if wait <= 0 {
			wait = 5 * time.Second
		}
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	}
	writeJSON(w, e.status(), e.body())
}
