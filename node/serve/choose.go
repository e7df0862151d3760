package serve

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/store"
)

// Which engine computes a span. Where the operator has chosen one, that one and no other.
// Else the built-in one where results are to be exact; the library's where the built-in
// lacks the model; of two that can, the one that is faster here by a clear margin, as
// measured when the span is first loaded. A library that is missing, unknown or broken
// costs a message: the built-in engine goes on.

// Auto stands for any engine: the node chooses.
const Auto = "auto"

// Engines are what may compute spans.
type Engines struct {
	Use string // Auto (also if empty), engine.BuiltIn or engine.Llama
	// Library finds what engine.Llama opens, at each load. The error says why there is
	// none. nil: this program has the built-in engine alone.
	Library func() (Library, error)

	// Draft is the model that guesses tokens for spans which begin a model (package draft):
	// Auto, NoDraft (also if empty), or a name, a CID, or something that can be imported.
	Draft string
}

// Check returns an error if Use names no engine.
func (e *Engines) Check() error {
	if use := e.Use; use != "" && use != Auto && use != engine.BuiltIn && use != engine.Llama {
		return fmt.Errorf("%q: %s, %s and %s are known", use, Auto, engine.BuiltIn, engine.Llama)
	}
	return nil
}

// Library is what an engine opens at run time.
type Library struct {
	Dir string // its folder
	ID  string // another one for every version and place
}

// option is an engine that may compute a target.
type option struct {
	name    string
	library Library // of engine.Llama
}

// options are the engines that may compute a model, the built-in one first. The error is
// the header's, or wraps engine.ErrUnsupported and says what is missing.
func (s *Server) options(m *store.Model) ([]option, error) {
	h, err := m.Header()
	if err != nil {
		return nil, err
	}
	if err := engine.Plausible(h); err != nil {
		return nil, err
	}
	builtIn, use := engine.Check(h), s.cfg.Engines.Use
	if m.IsAdapter() {
		builtIn = fmt.Errorf("%w: %s has an adapter (LoRA), and the built-in engine computes none", engine.ErrUnsupported, m.Name())
	}
	if use == engine.BuiltIn && builtIn != nil {
		return nil, remedy.For(fmt.Errorf("%w; the settings allow the built-in engine alone", builtIn), remedy.AnyEngine)
	}
	var out []option
	if use != engine.Llama && builtIn == nil {
		out = append(out, option{name: engine.BuiltIn})
	}
	if use == engine.BuiltIn || use != engine.Llama && builtIn == nil && s.cfg.Exact {
		return out, nil
	}
	lib, err := s.library()
	var gaveUp error
	if err == nil {
		gaveUp = s.broken(m, lib)
	}
	switch {
	case err == nil && gaveUp == nil:
		return append(out, option{engine.Llama, lib}), nil
	case len(out) > 0:
		return out, nil
	case gaveUp != nil:
		return nil, remedy.For(gaveUp, remedy.ReplaceEngine)
	case use == engine.Llama:
		return nil, remedy.For(fmt.Errorf("%w: the settings demand llama.cpp's library, and %w", engine.ErrUnsupported, err), remedy.InstallEngine)
	}
	return nil, remedy.For(fmt.Errorf("%w. llama.cpp's library may compute it, but %w", builtIn, err), remedy.InstallEngine)
}

func (s *Server) library() (Library, error) {
	if s.cfg.Engines.Library == nil {
		return Library{}, errors.New("this program cannot open it")
	}
	return s.cfg.Engines.Library()
}

// brokenKey names a model that a library failed at.
type brokenKey struct{ library, model string }

// computable returns an error that wraps engine.ErrUnsupported if it is known that no
// engine computes a model. Where only its header is missing yet, it may be computable.
func (s *Server) computable(m *store.Model) error {
	if _, err := s.options(m); errors.Is(err, engine.ErrUnsupported) {
		return err
	}
	return nil
}

// broken is why a library was given up for a model; nil: it was not.
func (s *Server) broken(m *store.Model, lib Library) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed[brokenKey{lib.ID, m.ID().String()}]
}

// giveUp notes that a library failed at a target, which the built-in engine computes
// instead. It is told once per reason.
func (s *Server) giveUp(t target, lib Library, err error) {
	err = fmt.Errorf("llama.cpp's library cannot be used: %w", err)
	s.mu.Lock()
	told := false
	for _, was := range s.failed {
		told = told || was.Error() == err.Error()
	}
	s.failed[brokenKey{lib.ID, t.model.ID().String()}] = err
	s.mu.Unlock()
	s.cfg.Log.Warn("the built-in engine computes instead", "model", t.model.Name(), "error", err)
	if !told {
		s.cfg.Events(t.event(Event{Event: "engine", Error: err.Error() + "; the built-in engine computes instead"}))
	}
}

// crashes is how often a library may end its process at a model that nothing else computes
// before it is given up for it: a crash may be of the moment.
const crashes = 2

// crashed counts a failure in which a library, the only engine for a target, ended its
// process. From the last one on its error wraps engine.ErrUnsupported, so that the target
// waits for another library; and options returns it.
func (s *Server) crashed(t target, lib Library, err error) error {
	if !errors.Is(err, engine.ErrLost) || killed(err) {
		return err
	}
	key := brokenKey{lib.ID, t.model.ID().String()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.crashes[key]++; s.crashes[key] < crashes {
		return err
	}
	err = fmt.Errorf("%w: llama.cpp's library ends its process at it: %w", engine.ErrUnsupported, err)
	s.failed[key] = err
	return err
}

// loaded is an engine that computes a target.
type loaded struct {
	engine engine.Engine
	cfg    engine.Config
	measured
}

// open loads a target into the engine that is best for it, and notes whether another one
// was given up. Its errors are those of load and calibrate.
func (s *serving) open(ctx context.Context, t target) (*loaded, error) {
	l, err := s.openBest(ctx, t)
	var gaveUp error
	if err == nil && l.cfg.Engine == engine.BuiltIn && s.srv.cfg.Engines.Use != engine.BuiltIn {
		if lib, none := s.srv.library(); none == nil {
			gaveUp = s.srv.broken(t.model, lib)
		}
	}
	s.update(func() { s.gaveUp = gaveUp })
	return l, err
}

func (s *serving) openBest(ctx context.Context, t target) (*loaded, error) {
	options, err := s.srv.options(t.model)
	if err != nil {
		return nil, err
	}
	if len(options) == 2 && !s.srv.cutsBy(engine.Llama, t.model).Allows(t.span) {
		options = options[:1] // the library cannot compute the span apart from others
	}
	if len(options) == 2 {
		switch s.srv.verdicts.of(s.srv.question(t, options[1].library)) {
		case "":
			return s.compare(ctx, t, options[0], options[1])
		case engine.BuiltIn:
			options = options[:1]
		case engine.Llama:
			slices.Reverse(options) // the built-in engine stands in where the library fails
		}
	}
	l, err := s.openWith(ctx, t, options[0])
	if err == nil || ctx.Err() != nil || !mayGiveUp(err) {
		return l, err
	}
	if len(options) == 1 {
		if options[0].name == engine.Llama {
			err = remedy.For(s.srv.crashed(t, options[0].library, err), remedy.ReplaceEngine)
		}
		return nil, err
	}
	s.srv.giveUp(t, options[0].library, err)
	return s.openWith(ctx, t, options[1])
}

// mayGiveUp reports that another engine may do what one could not.
func mayGiveUp(err error) bool {
	var missing *store.Missing
	var small noRoom
	return !errors.As(err, &missing) && !errors.As(err, &small) && !errors.Is(err, engine.ErrMemory) && !errors.Is(err, engine.ErrNoChild) && !errors.Is(err, store.ErrFull)
}

// openWith loads a target into one engine and measures it.
func (s *serving) openWith(ctx context.Context, t target, o option) (*loaded, error) {
	e, cfg, err := s.load(ctx, t, o)
	if err != nil {
		return nil, err
	}
	m, err := calibrate(ctx, e)
	if err != nil {
		_ = e.Close()
		return nil, err
	}
	return &loaded{e, cfg, m}, nil
}

// compare measures the built-in engine and the library's, keeps the verdict, and returns
// the winner, loaded. On a machine that is too busy to tell, the verdict counts for this
// load alone.
func (s *serving) compare(ctx context.Context, t target, builtIn, library option) (*loaded, error) {
	s.set("measuring which engine is faster")
	first, err := s.openWith(ctx, t, builtIn)
	if err != nil {
		return nil, err
	}
	ours, calm, err := race(ctx, first.engine)
	_ = first.engine.Close()
	if err != nil {
		return nil, err
	}
	second, err := s.openWith(ctx, t, library)
	var theirs measured
	if err == nil {
		var steady bool
		if theirs, steady, err = race(ctx, second.engine); err != nil {
			_ = second.engine.Close()
		}
		calm = calm && steady
	}
	if err != nil {
		if ctx.Err() != nil || !mayGiveUp(err) {
			return nil, err
		}
		s.srv.giveUp(t, library.library, err)
		return s.openWith(ctx, t, builtIn)
	}
	faster := s.srv.verdicts.decide(s.srv.question(t, library.library), ours.cost(), theirs.cost(), calm)
	s.srv.cfg.Log.Info("measured which engine is faster", "model", t.model.Name(), "blocks", t.span, "engine", faster, "built-in", ours.cost(), "library", theirs.cost(), "steady", calm)
	if faster == engine.Llama {
		return second, nil
	}
	_ = second.engine.Close()
	return s.openWith(ctx, t, builtIn)
}
