package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/protocol/gguf"
)

const exitCodes = `Exit codes:
   0    done
   1    failure
   2    the command line is wrong
   3    no route: nobody serves some blocks of the model
   4    refused: peers are full or leaving, or the disk is full
   5    bad input: a file, a prompt, or the name of a model
   130  cancelled`

// status is an exit code by itself: there is nothing to print.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// exitCode prints an error in one line, with what to type, and returns the process's
// exit code. command is what was run, such as shoal model pin.
func exitCode(ctx context.Context, err error, command string, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	var code status
	if errors.As(err, &code) {
		return int(code)
	}
	if errors.Is(err, context.Canceled) || ctx.Err() != nil {
		fmt.Fprintln(stderr, "shoal: cancelled")
		return 130
	}
	if errors.Is(err, errUsage) || errors.Is(err, node.ErrConfig) {
		remark(stderr, fmt.Sprintf("shoal: %s; see `%s --help`", withRemedy(err), command))
		return 2
	}
	remark(stderr, "shoal: "+withRemedy(err))
	var e *api.Error
	switch {
	case errors.As(err, &e):
		switch e.Kind {
		case api.NoRoute:
			return 3
		case api.Refused:
			return 4
		case api.BadInput, api.TooLong, api.UnknownModel:
			return 5
		case api.Cancelled:
			return 130
		}
	case errors.Is(err, store.ErrFull):
		return 4
	case errors.Is(err, gguf.ErrFormat), errors.Is(err, store.ErrSource), errors.Is(err, engine.ErrUnsupported), errors.Is(err, text.ErrVocabulary):
		return 5
	}
	return 1
}
