package swarm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/home"
)

// Choice is what a home's owner has said about the open network.
type Choice int

const (
	Unsaid   Choice = iota // nothing
	BeOpen                 // to be in it
	BeClosed               // not to be in it
)

// Start is which networks a home begins in.
type Start struct {
	Book    *Book
	Broken  []error // swarms that cannot be used: see Open
	Private bool    // it is not in the open network
	Kept    bool    // it is in the open network, which nobody has chosen: see the package's documentation
	Founded *Swarm  // the swarm that was founded for this start; nil: none
}

// Begin reads the swarms of a home and decides which networks it begins in, as the
// package's documentation says under "The first start". With found, a home that would be
// in no network gets a swarm of its own. No other process may be at work in the home. The
// errors are those of reading and writing there.
func Begin(cfg Config, choice Choice, found bool) (st Start, err error) {
	if st.Book, st.Broken, err = Open(cfg); err != nil {
		return st, err
	}
	st.decide(choice)
	switch {
	case found && st.empty():
		st.Founded, err = st.Book.New("", "")
	case !st.Private && !st.Kept:
		err = remember(home.Home(cfg.Home))
	}
	return st, err
}

// Foresee is Begin beside another process, perhaps: it founds nothing, and changes nothing.
func Foresee(cfg Config, choice Choice) (st Start, err error) {
	if st.Book, st.Broken, err = Look(cfg); err != nil {
		return st, err
	}
	st.decide(choice)
	return st, nil
}

func (s *Start) decide(choice Choice) {
	some := len(s.Book.Swarms())+len(s.Broken) > 0 // a home whose swarm cannot be used is not open for that
	s.Kept = choice == Unsaid && !some && wasOpen(home.Home(s.Book.cfg.Home))
	s.Private = choice != BeOpen && !s.Kept
}

// Copy writes into another home what a client needs to be in the swarm as this node, for a
// moment in which no other process is: neither the root key nor the codes that are out.
func (s *Swarm) Copy(dir string) error {
	to := home.Home(dir).Swarm(s.ID().String())
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, name := range []string{keyFile, aboutFile, certificateFile, listFile, membersFile, peersFile} {
		raw, err := readFile(s.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), raw, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// empty reports whether the home would be in no network. One whose swarms cannot be used
// has some to be restored.
func (s *Start) empty() bool {
	return s.Private && len(s.Book.Swarms()) == 0 && len(s.Broken) == 0
}

// wasOpen reports whether a home was in the open network before homes had swarms of their
// own: it has a key for that, which nothing else needs, and nobody has chosen it since, nor
// founded or joined a swarm.
func wasOpen(h home.Home) bool {
	is := func(path string) bool {
		_, err := os.Stat(path)
		return !errors.Is(err, fs.ErrNotExist)
	}
	return is(h.Key()) && (!is(h.Swarms()) || is(h.Kept()) && !is(h.Chosen()))
}

// stayOpen has such a home remain one while a swarm is joined, which may come to nothing.
func stayOpen(h home.Home) error {
	if !wasOpen(h) {
		return nil
	}
	if err := os.MkdirAll(h.Swarms(), 0o700); err != nil {
		return err
	}
	return files.Replace(h.Kept(), []byte("open\n"), 0o600)
}

// remember notes that the open network was chosen, so that a later start for which nobody
// chooses it does not take the home for one that was open before.
func remember(h home.Home) error {
	if _, err := os.Stat(h.Chosen()); err == nil {
		return nil
	}
	if err := os.MkdirAll(h.Swarms(), 0o700); err != nil {
		return err
	}
	return files.Replace(h.Chosen(), []byte("open\n"), 0o600)
}
