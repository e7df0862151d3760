package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/swarm"
	"github.com/shoalnet/shoal/protocol"
)

func swarmFlags(more ...cli.Flag) []cli.Flag { return append(more, homeFlag(), jsonFlag()) }

func whichSwarm() cli.Flag {
	return &cli.StringFlag{Name: "swarm", EnvVars: []string{"SHOAL_SWARM"}, Usage: "the swarm's `NAME`, or the beginning of its ID (default: the only one, or the only one founded here)"}
}

func swarmCommand() *cli.Command {
	invite, join := inviteCommand(), joinCommand()
	invite.Description += "\n`shoal invite` is the same."
	join.Description += "\n`shoal join` is the same."
	return &cli.Command{
		Name: "swarm", Usage: "found, join and look after private swarms, in which only members use and serve",
		Description: "Nobody else can connect, see who is a member, or find out what is served. The first start of a node founds one. For example, on two machines:\n\n" +
			"shoal node --model NAME\n" +
			"shoal invite                  prints a code\n" +
			"shoal join CODE               on the other machine\n" +
			"shoal chat                    on any of them",
		Subcommands: []*cli.Command{
			{
				Name: "new", Usage: "found a further swarm, with this machine as its first member",
				Description: "The swarm is its root key: whoever has that decides who is a member. It is the one thing to keep safe and offline.\n" +
					"It is written into this home; --root puts it elsewhere, such as on a stick. This machine can invite and revoke without it; to give others the role invite, and after 60 days to renew its own membership, it is needed again.",
				Flags: swarmFlags(
					&cli.StringFlag{Name: "name", Usage: "what to call the swarm (default: this machine's name)"},
					&cli.StringFlag{Name: "root", Usage: "write the root key into this new `FILE` instead of into the home"},
				),
				Action: newSwarm,
			},
			{Name: "ls", Usage: "list the swarms of this home", Flags: swarmFlags(), Action: listSwarms},
			invite,
			join,
			{Name: "members", Usage: "list the members of a swarm", Flags: swarmFlags(whichSwarm()), Action: listMembers},
			{
				Name: "revoke", Usage: "end a membership: its connections are cut everywhere within seconds; or withdraw a code", ArgsUsage: "MEMBER|CODE",
				Description: "MEMBER is the name of its machine, or its peer ID, or the end of that. Those that it has let in are no members any more, either, and codes with which it came end. Only the root key removes members that may invite. CODE is one that this machine has made.",
				Flags:       swarmFlags(whichSwarm()), Action: revokeMember,
			},
			bridgeCommand(),
			{
				Name: "renew", Usage: "renew this machine's membership with a root key that is kept elsewhere",
				Description: "Only needed on the founder's machine, and only if `shoal swarm new --root` put the root key elsewhere; all others are renewed by themselves.",
				Flags:       swarmFlags(whichSwarm(), &cli.StringFlag{Name: "root", Required: true, Usage: "`FILE` with the root key"}), Action: renewMembership,
			},
			{
				Name: "leave", Usage: "leave a swarm, and forget its keys and members",
				Flags: swarmFlags(whichSwarm(), &cli.BoolFlag{Name: "force", Usage: "even if this home has the swarm's root key, or nobody else may let machines in"}), Action: leaveSwarm,
			},
		},
	}
}

func inviteCommand() *cli.Command {
	return &cli.Command{
		Name: "invite", Usage: "print a code that lets a machine into your swarm", Category: "",
		Description: "Whoever has the code can join with it, so pass it on like a password. It is good once and for a day, unless said otherwise. This machine's node must be running when the other joins.\n" +
			"Roles: use (send prompts), serve (lend), relay (carry others' connections), invite (let others in), bridge (join this swarm with another).",
		Flags: swarmFlags(
			whichSwarm(),
			&cli.StringFlag{Name: "roles", Value: "use,serve", Usage: "what those who join may do: `ROLES` with commas"},
			&cli.IntFlag{Name: "uses", Value: 1, Usage: "how many machines may join with it"},
			&cli.StringFlag{Name: "for", Value: "24h", Usage: "how long it is good, such as 30m, 24h or 7d"},
			&cli.BoolFlag{Name: "qr", Usage: "print it as a QR code even if this is no terminal"},
		),
		Action: runInvite,
	}
}

func joinCommand() *cli.Command {
	return &cli.Command{
		Name: "join", Usage: "join a swarm with the code of an invitation", ArgsUsage: "CODE",
		Description: "Upper or lower case, spaces and line breaks in CODE do not matter; with - it is read from standard input.\n" +
			"A running node is in the swarm at once; otherwise the next start is, and `shoal chat` asks its machines right away. A home that has not been started yet founds no swarm of its own then.",
		Flags:  swarmFlags(&cli.StringFlag{Name: "name", EnvVars: []string{"SHOAL_NAME"}, Usage: "what to call this machine there, if no node is running (default: the host's name)"}),
		Action: runJoin,
	}
}

// swarmBook is a running node's swarms, or those of a home without one.
type swarmBook interface {
	Swarms(context.Context) ([]api.Swarm, error)
	NewSwarm(context.Context, api.NewSwarmRequest) (*api.Swarm, error)
	JoinSwarm(ctx context.Context, code string) (*api.Swarm, error)
	Invite(ctx context.Context, swarm string, req api.InviteRequest) (*api.Invitation, error)
	Members(ctx context.Context, swarm string) ([]api.Member, error)
	Revoke(ctx context.Context, swarm, member string) (*api.Revoked, error)
	RenewSwarm(ctx context.Context, swarm, rootFile string) (*api.Swarm, error)
	LeaveSwarm(ctx context.Context, swarm string, force bool) (*api.Swarm, error)

	Bridges(ctx context.Context, swarm string) ([]api.Bridge, error)
	AskBridge(ctx context.Context, swarm string) (*api.BridgeRequest, error)
	NewBridge(ctx context.Context, swarm string, req api.NewBridgeRequest) (*api.Bridge, error)
	AcceptBridge(context.Context, api.AcceptBridgeRequest) (*api.Bridge, error)
	RevokeBridge(ctx context.Context, swarm string, req api.RevokeBridgeRequest) (*api.Bridge, error)
}

// homeSwarms are the swarms in a home whose node does not run.
type homeSwarms struct{ swarm.Owner }

func (h homeSwarms) Swarms(context.Context) ([]api.Swarm, error) { return h.Owner.Swarms(), nil }

func (h homeSwarms) NewSwarm(_ context.Context, req api.NewSwarmRequest) (*api.Swarm, error) {
	return h.Owner.NewSwarm(req)
}

func (h homeSwarms) Members(_ context.Context, s string) ([]api.Member, error) {
	return h.Owner.Members(s)
}

func (h homeSwarms) Revoke(_ context.Context, s, member string) (*api.Revoked, error) {
	return h.Owner.Revoke(s, member)
}

func (h homeSwarms) RenewSwarm(_ context.Context, s, rootFile string) (*api.Swarm, error) {
	return h.Owner.RenewSwarm(s, rootFile)
}

func (h homeSwarms) LeaveSwarm(_ context.Context, s string, force bool) (*api.Swarm, error) {
	return h.Owner.LeaveSwarm(s, force)
}

// withSwarms calls do with the swarms of the home: those of the running node if there is
// one. Unless do only lists them, nobody else may be at work in the home meanwhile: a chat
// without a daemon has the swarms in memory, and would write its own lists over the new.
func withSwarms(c *cli.Context, do func(swarmBook) error) error {
	dir := c.String("home")
	if cl := running(c.Context, dir); cl != nil {
		return do(cl)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	open := swarm.Look
	if what := c.Command.Name; what != "ls" && what != "members" {
		open = swarm.Open
		var alone *store.Store
		err := whenFree(dir, func() (err error) {
			alone, err = store.Open(home.Home(dir).Store(), store.Options{})
			return err
		})
		if err != nil {
			return err
		}
		defer alone.Close()
	}
	var given string
	if c.Command.Name == "join" { // elsewhere --name is not the machine's
		given = c.String("name")
	}
	name, err := machineName(dir, given)
	if err != nil {
		return err
	}
	b, broken, err := open(swarm.Config{Home: dir, Machine: name, Log: slog.Default()})
	if err != nil {
		return err
	}
	for _, err := range broken {
		remark(c.App.ErrWriter, "shoal: warning: "+err.Error())
	}
	return do(homeSwarms{swarm.Owner{Book: b}})
}

// machineName is what a home's machine is called: as given, as in the configuration file,
// or as the host.
func machineName(dir, given string) (string, error) {
	var file struct {
		Name string `toml:"name"`
	}
	path := home.Home(dir).Config()
	if _, err := toml.DecodeFile(path, &file); err != nil && !os.IsNotExist(err) {
		return "", usageError{fmt.Sprintf("the configuration file %s: %s", path, err)}
	}
	host, _ := os.Hostname() // a machine need not have a name
	return protocol.MachineName(cmp.Or(given, os.Getenv("SHOAL_NAME"), file.Name, host)), nil
}

// namesFellows adds to events about fellow members what they call their machines.
func namesFellows(b *swarm.Book, emit func(node.Event)) func(node.Event) {
	return func(e node.Event) {
		if id, err := peer.Decode(e.Peer); err == nil && e.Machine == "" {
			e.Machine = b.MachineName(id)
		}
		emit(e)
	}
}

// swarmText is an event of a swarm in words.
func swarmText(e node.Event) string {
	who, name := machineText(e.Machine, e.Peer), cell(e.Name)
	switch e.Event {
	case "member":
		return fmt.Sprintf("%s has joined swarm %s", who, name)
	case "refused":
		return fmt.Sprintf("%s tried to join swarm %s, and was refused: %s", who, name, cell(e.Error))
	case "removed":
		return fmt.Sprintf("this machine was removed from swarm %s; `shoal join CODE` lets it in again with a new code", name)
	}
	return fmt.Sprintf("swarm %s: %s", name, cell(e.Error))
}

// asked wraps a command that takes the named arguments and deals with swarms.
func asked[T any](c *cli.Context, do func(swarmBook, []string) (T, error), show func(io.Writer, T) error, names ...string) error {
	if err := noEmpty(c, "swarm"); err != nil {
		return err
	}
	args, err := arguments(c, names...)
	if err != nil {
		return err
	}
	var v T
	err = withSwarms(c, func(b swarmBook) (err error) {
		v, err = do(b, args)
		return err
	})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, v)
	}
	return show(c.App.Writer, v)
}

func newSwarm(c *cli.Context) error {
	if err := noEmpty(c, "name", "root"); err != nil {
		return err
	}
	root := c.String("root")
	if root != "" {
		var err error
		if root, err = filepath.Abs(root); err != nil {
			return err
		}
	}
	note := closing(c)
	return asked(c, func(b swarmBook, _ []string) (*api.Swarm, error) {
		return b.NewSwarm(c.Context, api.NewSwarmRequest{Name: c.String("name"), RootFile: root})
	}, func(w io.Writer, s *api.Swarm) error {
		fmt.Fprintf(w, "founded swarm %s (%s)\n", cell(s.Name), s.ID[:8])
		at := cmp.Or(s.RootFile, home.Home(c.String("home")).Swarm(s.ID))
		remark(w, fmt.Sprintf("Its root key is in %s. That is the one thing to keep offline: whoever has it decides who is a member, and without it nobody does.", cell(at)))
		remark(w, "`shoal invite` prints a code that lets another machine in.")
		return afterwards(w, s, note)
	})
}

// afterwards says what is still to be done after a swarm was founded or joined.
func afterwards(w io.Writer, s *api.Swarm, note string) error {
	switch {
	case s.Warning != "":
		remark(w, "warning: "+cell(s.Warning))
	case !s.Running && !s.Founder && slices.Contains(s.Roles, "use"):
		remark(w, "`shoal chat` asks its machines now; `shoal node --model NAME` lends this one, too")
	case !s.Running:
		remark(w, "The node is in it from its next start on: `shoal node`")
	}
	if note != "" {
		remark(w, note)
	}
	return nil
}

// closing returns what to say if a home in the open network, which nobody has chosen, is
// about to get a swarm: its next start is in that alone. "" if nothing.
func closing(c *cli.Context) string {
	if st, err := foresee(c); err != nil || !st.Kept {
		return ""
	}
	return "This home was open to strangers. From its next start on it is not, unless `shoal config set open true` says so"
}

func listSwarms(c *cli.Context) error {
	return asked(c, func(b swarmBook, _ []string) ([]api.Swarm, error) { return b.Swarms(c.Context) }, func(w io.Writer, list []api.Swarm) error {
		if len(list) == 0 {
			remark(c.App.ErrWriter, "no swarms; `shoal swarm new` founds one, and `shoal join CODE` joins another's")
			return nil
		}
		t := newTable(w)
		fmt.Fprintln(t, "NAME\tID\tMEMBERS\tCONNECTED\tROLES\tCODES OUT\tMEMBER UNTIL\tNOTES")
		for _, s := range list {
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%d\t%s\t%s\n", cell(s.Name), s.ID[:8], s.Members, s.Connected, strings.Join(s.Roles, ","), s.Codes, s.Expires.Local().Format(time.DateOnly), strings.Join(swarmNotes(s), ", "))
		}
		return t.Flush()
	})
}

// swarmNotes are what is special about a swarm, in words.
func swarmNotes(s api.Swarm) (notes []string) {
	if s.Founder {
		notes = append(notes, "founded here")
	}
	if s.Revoked {
		notes = append(notes, "this machine was removed")
	}
	if s.Stale {
		notes = append(notes, "revocation list is old")
	}
	if !s.Running {
		notes = append(notes, "not running")
	}
	return notes
}

// noEmpty refuses flags that were given without a value, as by a script whose variable is
// not set: taken for none, they would mean another swarm, or the root key in the home.
func noEmpty(c *cli.Context, flags ...string) error {
	for _, name := range flags {
		if c.IsSet(name) && strings.TrimSpace(c.String(name)) == "" {
			return usageError{fmt.Sprintf("--%s needs a value", name)}
		}
	}
	return nil
}

func runInvite(c *cli.Context) error {
	if err := noEmpty(c, "roles"); err != nil {
		return err
	}
	life, err := parseDays("--for", c.String("for"))
	if err != nil {
		return err
	}
	req := api.InviteRequest{Roles: splitList([]string{c.String("roles")}), Uses: c.Int("uses"), For: life.Seconds()}
	if req.Uses < 1 {
		return usageError{"--uses must be at least 1"}
	}
	return asked(c, func(b swarmBook, _ []string) (*api.Invitation, error) {
		return b.Invite(c.Context, c.String("swarm"), req)
	}, func(w io.Writer, v *api.Invitation) error {
		terminal := isTerminal(w)
		if terminal {
			remark(w, fmt.Sprintf("This code lets %s into swarm %s (%s), until %s. Pass it on like a password. On the other machine:",
				count(v.Uses, "machine"), cell(v.Swarm), strings.Join(v.Roles, ", "), v.Expires.Local().Format("Jan 2, 15:04")))
			fmt.Fprint(w, "\nshoal join ")
		}
		if _, err := fmt.Fprintln(w, v.Code); err != nil {
			return err
		}
		if terminal || c.Bool("qr") {
			if err := printQR(w, v.Code); err != nil {
				return err
			}
		}
		if !v.Running {
			remark(c.App.ErrWriter, "Nobody can join until this machine's node runs: `shoal node`")
		}
		return nil
	})
}

func runJoin(c *cli.Context) error {
	code := strings.Join(c.Args().Slice(), "")
	switch code {
	case "":
		return usageError{fmt.Sprintf("`%s` takes the CODE that `shoal invite` prints", commandName(c))}
	case "-":
		raw, err := io.ReadAll(io.LimitReader(os.Stdin, 16<<10))
		if err != nil {
			return err
		}
		code = string(raw)
	}
	var s *api.Swarm
	note := closing(c)
	err := withSwarms(c, func(b swarmBook) (err error) {
		defer waitingFor(c.App.ErrWriter, "asking the inviter")()
		s, err = b.JoinSwarm(c.Context, code)
		return err
	})
	if err != nil {
		return err
	}
	w := c.App.Writer
	if c.Bool("json") {
		return printJSON(w, s)
	}
	fmt.Fprintf(w, "joined swarm %s (%s) with %s: %s\n", cell(s.Name), s.ID[:8], count(max(0, s.Members-1), "other member"), strings.Join(s.Roles, ", "))
	return afterwards(w, s, note)
}

func listMembers(c *cli.Context) error {
	return asked(c, func(b swarmBook, _ []string) ([]api.Member, error) { return b.Members(c.Context, c.String("swarm")) }, func(w io.Writer, list []api.Member) error {
		t := newTable(w)
		fmt.Fprintln(t, "MEMBER\tROLES\tSTATE\tUNTIL\tID")
		for _, m := range list {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", machineText(m.Name, m.Peer), strings.Join(m.Roles, ","), memberState(m), m.Expires.Local().Format(time.DateOnly), m.Peer)
		}
		return t.Flush()
	})
}

func memberState(m api.Member) string {
	switch {
	case m.Revoked:
		return "removed"
	case m.Self:
		return "this machine"
	case m.Connected:
		return "connected"
	case m.Expires.Before(time.Now()):
		return "expired"
	case m.Seen != nil:
		return "last seen " + m.Seen.Local().Format("2006-01-02 15:04")
	}
	return "not seen yet"
}

func revokeMember(c *cli.Context) error {
	return asked(c, func(b swarmBook, args []string) (*api.Revoked, error) {
		return b.Revoke(c.Context, c.String("swarm"), args[0])
	}, func(w io.Writer, r *api.Revoked) error {
		if r.Code != "" {
			_, err := fmt.Fprintf(w, "the code %s… lets nobody in any more\n", r.Code)
			return err
		}
		fmt.Fprintf(w, "%s is no member any more\n", machineText(r.Member.Name, r.Member.Peer))
		for _, m := range r.Also {
			fmt.Fprintf(w, "nor is %s, which it had let in: invite it again if it should be\n", machineText(m.Name, m.Peer))
		}
		return nil
	}, "MEMBER|CODE")
}

func renewMembership(c *cli.Context) error {
	if err := noEmpty(c, "root"); err != nil {
		return err
	}
	root, err := filepath.Abs(c.String("root"))
	if err != nil {
		return err
	}
	return asked(c, func(b swarmBook, _ []string) (*api.Swarm, error) {
		return b.RenewSwarm(c.Context, c.String("swarm"), root)
	}, func(w io.Writer, s *api.Swarm) error {
		_, err := fmt.Fprintf(w, "this machine is a member of %s until %s\n", cell(s.Name), s.Expires.Local().Format(time.DateOnly))
		return err
	})
}

func leaveSwarm(c *cli.Context) error {
	return asked(c, func(b swarmBook, _ []string) (*api.Swarm, error) {
		return b.LeaveSwarm(c.Context, c.String("swarm"), c.Bool("force"))
	}, func(w io.Writer, s *api.Swarm) error {
		_, err := fmt.Fprintf(w, "left swarm %s\n", cell(s.Name))
		return err
	})
}
