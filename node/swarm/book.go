package swarm

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// Config is how the swarms of a home are kept.
type Config struct {
	Home    string // of the node
	Machine string // this machine's name, which fellow members are told; "": none
	Log     *slog.Logger
	Events  func(Event)      // what people may want to know of; nil: nobody
	Now     func() time.Time // nil: time.Now
}

// Event is something that a person may want to know of.
type Event struct {
	Kind  string // member: a machine has redeemed a code; refused: it has not; removed: this node is no member any more; stale: the revocation list is old
	Swarm string // its name
	Peer  string // whom it is about
	Name  string // of that machine, if known
	Error string // why
}

// Hosts runs the networks of swarms, in a daemon. The calls are made one at a time, and
// without locks.
type Hosts interface {
	// Enter opens the network of a swarm that was joined or made, and attaches it (see
	// Swarm.Attach).
	Enter(*Swarm) error
	// Exit closes the network of a swarm that was left.
	Exit(*Swarm)

	// EnterBridge opens the network of a bridge, and attaches it (see Bridge.Attach); it may
	// run beside the calls above, but not beside these: ExitBridge closes it, and ChangeBridge
	// says that it has another record.
	EnterBridge(*Bridge) error
	ExitBridge(*Bridge)
	ChangeBridge(*Bridge)
}

// Book is the swarms of a home. It is safe for concurrent use.
type Book struct {
	cfg  Config
	dir  string     // of the folders
	work sync.Mutex // held by what makes, joins or leaves swarms, before mu

	bridgeWork sync.Mutex  // held while networks of bridges are opened and closed, before mu
	tending    atomic.Bool // that is to be looked at in the background

	mu      sync.Mutex
	swarms  []*Swarm // by age
	hosts   Hosts    // nil: no daemon
	joining map[member.SwarmID]bool
	running map[string]*entered // bridges, by the ID of their networks
}

// Open reads the swarms of a home, which may have none, and removes what a crash has left.
// No other process may be at work in the home. A folder that is damaged does not keep the
// others from being used: broken has an error for each, which names it.
func Open(cfg Config) (b *Book, broken []error, err error) { return open(cfg, true) }

// Look is Open beside another process, perhaps: it removes nothing. The book is for
// reading.
func Look(cfg Config) (b *Book, broken []error, err error) { return open(cfg, false) }

func open(cfg Config, sweep bool) (b *Book, broken []error, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Events == nil {
		cfg.Events = func(Event) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	b = &Book{cfg: cfg, dir: home.Home(cfg.Home).Swarms(), joining: map[member.SwarmID]bool{}, running: map[string]*entered{}}
	list, err := os.ReadDir(b.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	for _, e := range list {
		path := filepath.Join(b.dir, e.Name())
		switch _, err := member.ParseSwarmID(e.Name()); {
		case err == nil && e.IsDir():
			if sweep {
				files.Sweep(path)
			}
			s, err := b.load(path)
			if err != nil {
				broken = append(broken, fmt.Errorf("a swarm cannot be used: %w; restore its folder from a backup, or remove it and join again", err))
				continue
			}
			b.swarms = append(b.swarms, s)
		case strings.HasPrefix(e.Name(), leftPrefix), b.givenUp(e): // a crash left it, or nobody goes on with it
			if sweep {
				_ = os.RemoveAll(path)
			}
		}
	}
	slices.SortFunc(b.swarms, func(x, y *Swarm) int {
		return cmp.Or(x.since().Compare(y.since()), strings.Compare(x.ID().String(), y.ID().String()))
	})
	return b, broken, nil
}

// The names of folders that are not, or no longer, those of a swarm.
const (
	newPrefix     = ".new-"
	joinPrefix    = ".join-"
	leftPrefix    = ".left-"
	damagedPrefix = ".damaged-" // kept, in case its owner wants something of it
)

// givenUp reports whether a folder is that of a swarm that was to be founded or joined so
// long ago that no code for it can be good any more.
func (b *Book) givenUp(e fs.DirEntry) bool {
	if !strings.HasPrefix(e.Name(), joinPrefix) && !strings.HasPrefix(e.Name(), newPrefix) {
		return false
	}
	st, err := e.Info()
	return err == nil && b.cfg.Now().Sub(st.ModTime()) > maxTicket
}

// Run has a daemon run the networks of all swarms, those joined later included. The error
// is the first of Enter; the other swarms are entered all the same.
func (b *Book) Run(hosts Hosts) error {
	b.work.Lock()
	defer b.work.Unlock()
	b.mu.Lock()
	b.hosts = hosts
	b.mu.Unlock()
	var first error
	for _, s := range b.Swarms() {
		s.renewOwn(b.cfg.Now()) // it may have expired while no daemon ran
		if err := hosts.Enter(s); err != nil && first == nil {
			first = fmt.Errorf("swarm %s: %w", s.Name(), err)
		}
	}
	b.tendNow()
	return first
}

// Swarms returns the swarms of the home, the oldest first.
func (b *Book) Swarms() []*Swarm {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.swarms)
}

// Errors of picking a swarm or a member by what a person writes.
var (
	ErrNone      = errors.New("this home is in no swarm")
	ErrUnknown   = errors.New("there is no such swarm")
	ErrAmbiguous = errors.New("that names more than one")
)

// Pick returns the swarm with a name, or with an ID that begins so. With "" it is the only
// one, or the only one that was founded here. Errors wrap ErrNone, ErrUnknown and
// ErrAmbiguous.
func (b *Book) Pick(name string) (*Swarm, error) {
	all := b.Swarms()
	if len(all) == 0 {
		return nil, ErrNone
	}
	found := slices.DeleteFunc(slices.Clone(all), func(s *Swarm) bool { return !s.called(name) })
	if name == "" && len(all) > 1 {
		found = slices.DeleteFunc(slices.Clone(all), func(s *Swarm) bool { return !s.Founder() })
	}
	if len(found) == 1 {
		return found[0], nil
	}
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = fmt.Sprintf("%s (%s)", s.Name(), s.ID().String()[:8])
	}
	if len(found) == 0 && name != "" {
		return nil, fmt.Errorf("%w as %q: this home is in %s", ErrUnknown, name, strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("%w: this home is in %s; say which", ErrAmbiguous, strings.Join(names, ", "))
}

// called reports whether a person may mean the swarm by a name.
func (s *Swarm) called(name string) bool {
	return name == "" || strings.EqualFold(s.Name(), name) || len(name) >= 4 && strings.HasPrefix(s.ID().String(), strings.ToLower(name))
}

// First returns the oldest swarm; nil: there is none, or no book.
func (b *Book) First() *Swarm {
	if b == nil || len(b.Swarms()) == 0 {
		return nil
	}
	return b.Swarms()[0]
}

// MachineName returns what a fellow member of any swarm calls its machine; "": the peer is
// none, or has told nothing, or there is no book.
func (b *Book) MachineName(p peer.ID) string {
	if b == nil {
		return ""
	}
	for _, s := range b.Swarms() {
		if name := s.machineName(p); name != "" {
			return name
		}
	}
	return ""
}

// New founds a swarm; with name "" it is called like the machine. Its root key is written
// into the file rootFile, an absolute path, which must not exist, or, if that is "", into
// the home. Errors wrap ErrName and ErrRootFile, or are those of writing; on one from
// Hosts.Enter the swarm is returned, too.
func (b *Book) New(name, rootFile string) (*Swarm, error) {
	b.work.Lock()
	defer b.work.Unlock()
	if name = strings.TrimSpace(name); name == "" {
		name = b.freeName(cmp.Or(b.cfg.Machine, "home"))
	}
	if err := b.mayName(name); err != nil {
		return nil, err
	}
	_, root, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	key, self, err := newKey()
	if err != nil {
		return nil, err
	}
	a := about{Name: name, Root: member.PublicKey(root)}
	if a.View, err = member.NewView(); err != nil {
		return nil, err
	}
	own, err := member.KeyOf(self)
	if err != nil {
		return nil, err
	}
	now := b.cfg.Now()
	issuer := member.Issuer{Root: a.Root, Key: root}
	cert, err := issuer.Issue(own, member.AllRoles, now, member.Life)
	if err != nil {
		return nil, err
	}
	list, err := issuer.Revoke(member.Lists{}, nil, nil, now) // its age shows members that the founder is at work
	if err != nil {
		return nil, err
	}
	content := map[string][]byte{aboutFile: a.marshal(), certificateFile: cert.Marshal(), listFile: member.Lists{ByRoot: list}.Marshal()}
	if content[keyFile], err = crypto.MarshalPrivateKey(key); err != nil {
		return nil, err
	}
	if rootFile == "" {
		content["root"] = marshalRoot(root)
	} else if err := keepApart(rootFile, marshalRoot(root)); err != nil {
		return nil, err
	}
	s, err := b.take(a.Root.Swarm(), newPrefix+a.Root.Swarm().String(), content)
	if s == nil && rootFile != "" { // the key of nothing, at a place where the next attempt writes
		err = errors.Join(err, os.Remove(rootFile))
	}
	return s, err
}

// keepApart writes a root key into a file of its own, which must not exist yet. Errors wrap
// ErrRootFile.
func keepApart(path string, raw []byte) error {
	if !filepath.IsAbs(path) { // it would be relative to wherever the node was started
		return fmt.Errorf("%w: %q is no absolute path", ErrRootFile, path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRootFile, err)
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = files.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRootFile, errors.Join(err, os.Remove(path)))
	}
	return nil
}

// ErrRootFile is wrapped by errors about the file into which a root key is to be written.
var ErrRootFile = errors.New("the file for the root key")

// ErrName is wrapped by errors about a name that a swarm cannot have.
var ErrName = errors.New("the swarm's name")

func (b *Book) mayName(name string) error {
	if name != swarmName(name) {
		return fmt.Errorf("%w %q: write at most %d bytes, without control characters", ErrName, name, protocol.MaxMachineName)
	}
	if slices.ContainsFunc(b.Swarms(), func(s *Swarm) bool { return strings.EqualFold(s.Name(), name) }) {
		return fmt.Errorf("%w %q: this home is in a swarm of that name already", ErrName, name)
	}
	return nil
}

// freeName returns a name that no swarm of this home has: name, or its beginning and a
// number. Of as many numbers as there are swarms, and one more, one is free.
func (b *Book) freeName(name string) string {
	base := strings.TrimRight(name, "0123456789-")
	base = strings.ToValidUTF8(base[:min(len(base), maxName-8)], "") // a letter may have been cut
	free := name
	for i := range len(b.Swarms()) + 1 {
		if b.mayName(free) == nil {
			break
		}
		free = fmt.Sprintf("%s-%d", base, i+2)
	}
	return free
}

// take makes a folder of a new swarm's files, in one step, and begins to use it. at is the
// folder in which they are gathered, which may have some already.
func (b *Book) take(id member.SwarmID, at string, content map[string][]byte) (*Swarm, error) {
	tmp, dir := filepath.Join(b.dir, at), filepath.Join(b.dir, id.String())
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return nil, err
	}
	for name, raw := range content {
		if err := files.Replace(filepath.Join(tmp, name), raw, 0o600); err != nil {
			return nil, err
		}
	}
	// Before the swarm is there: a home that leaves it must not be open again for that.
	if err := os.Remove(home.Home(b.cfg.Home).Kept()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return nil, err
	}
	if err := files.SyncDir(b.dir); err != nil {
		return nil, err
	}
	s, err := b.load(dir)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.swarms = append(b.swarms, s)
	hosts := b.hosts
	b.mu.Unlock()
	if hosts == nil {
		return s, nil
	}
	if err := hosts.Enter(s); err != nil {
		return s, fmt.Errorf("the swarm is kept, but its network cannot be opened: %w", err)
	}
	b.tendSoon() // a bridge from here to this swarm is not needed any more
	return s, nil
}

// Leave forgets a swarm: its keys, certificate and members. Without force, the error is
// ErrFounder if the swarm's root key is here, and ErrLastInviter if no other member is
// known to let machines in.
func (b *Book) Leave(s *Swarm, force bool) error {
	switch {
	case force:
	case s.Founder():
		return ErrFounder
	case s.lastInviter():
		return ErrLastInviter
	}
	b.work.Lock()
	defer b.work.Unlock()
	return b.drop(s)
}

// drop is Leave. It is called with b.work held.
func (b *Book) drop(s *Swarm) error {
	b.mu.Lock()
	hosts, here := b.hosts, slices.Contains(b.swarms, s)
	b.swarms = slices.DeleteFunc(b.swarms, func(x *Swarm) bool { return x == s })
	b.mu.Unlock()
	if !here {
		return ErrUnknown
	}
	if hosts != nil {
		b.endBridges(hosts, s)
		hosts.Exit(s)
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	away := filepath.Join(b.dir, leftPrefix+filepath.Base(s.dir))
	if err := os.Rename(s.dir, away); err != nil {
		return err
	}
	return errors.Join(files.SyncDir(b.dir), os.RemoveAll(away))
}

// Why a swarm is not left without force.
var (
	ErrFounder     = errors.New("the swarm's root key is in this home, and nobody could be let in or revoked without it")
	ErrLastInviter = errors.New("no other member is known that may let machines in and renew memberships, and a root key that is kept elsewhere is of use only to a member")
)

// lastInviter reports whether this node is the only known member that may let others in.
// The role is given with the root key alone, so where that is not in this home it is in
// another's, whose node has the role, or was put elsewhere by the founder, on this machine.
func (s *Swarm) lastInviter() bool {
	now := s.book.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.cert.Roles.Has(member.Invite) || s.lists.Has(s.cert) {
		return false
	}
	for _, m := range s.members {
		if c := m.Certificate; c.Roles.Has(member.Invite) && !s.lists.Has(c) && now.Before(c.Expires()) {
			return false
		}
	}
	return true
}

func newKey() (crypto.PrivKey, peer.ID, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	id, err := peer.IDFromPrivateKey(key)
	return key, id, err
}
