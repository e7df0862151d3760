package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/swarm"
	"github.com/shoalnet/shoal/protocol/member"
)

// Which networks a home begins in: package swarm's documentation has the rules.

// choiceOf reads --open, and the setting once the configuration file has been read.
func choiceOf(c *cli.Context) swarm.Choice {
	switch {
	case !c.IsSet("open"):
		return swarm.Unsaid
	case c.Bool("open"):
		return swarm.BeOpen
	}
	return swarm.BeClosed
}

// said is the choice that a setting states; nil: none.
func said(open *bool) swarm.Choice {
	switch {
	case open == nil:
		return swarm.Unsaid
	case *open:
		return swarm.BeOpen
	}
	return swarm.BeClosed
}

// foresee returns which networks the home's next start begins in, for commands that start
// nothing. It goes by --open, if the command has that, the environment and the
// configuration file.
func foresee(c *cli.Context) (st swarm.Start, err error) {
	var file struct {
		Open *bool `toml:"open"`
	}
	dir := c.String("home")
	if _, err := toml.DecodeFile(home.Home(dir).Config(), &file); err != nil && !os.IsNotExist(err) {
		return st, err
	}
	if open, err := strconv.ParseBool(os.Getenv("SHOAL_OPEN")); err == nil {
		file.Open = &open
	}
	return swarm.Foresee(swarm.Config{Home: dir}, cmp.Or(choiceOf(c), said(file.Open)))
}

// foreseenText says who may use a node after such a start.
func foreseenText(st *swarm.Start) string {
	var list []api.Network
	for _, s := range (swarm.Owner{Book: st.Book}).Swarms() {
		list = append(list, api.Network{Swarm: s.ID, Name: s.Name, Members: s.Members, Founder: s.Founder})
	}
	switch {
	case !st.Private:
		list = append(list, api.Network{})
	case len(list) == 0 && len(st.Broken) == 0:
		return "only your own machines and those you let in; it founds a swarm for that"
	}
	return networksText(list, false)
}

// begin has a node decide on its networks once no other process is at work in its home.
// What it has decided is in the result as soon as the node is made. With found, a home
// that would be in none founds a swarm.
func begin(cfg *node.Config, choice swarm.Choice, found bool, warn io.Writer) (*swarm.Start, error) {
	name, err := machineName(cfg.Home, cfg.Name)
	if err != nil {
		return nil, err
	}
	st, say := new(swarm.Start), cfg.Events
	of := swarm.Config{Home: cfg.Home, Machine: name, Log: cfg.Log, Events: func(e swarm.Event) {
		if say != nil {
			say(node.Event{Event: e.Kind, Peer: e.Peer, Name: e.Swarm, Machine: e.Name, Error: e.Error})
		}
	}}
	cfg.Begin = func(cfg *node.Config) (err error) {
		if *st, err = swarm.Begin(of, choice, found); err != nil {
			return err
		}
		for _, err := range st.Broken {
			remark(warn, "shoal: warning: "+err.Error())
		}
		cfg.Swarms, cfg.Private = st.Book, st.Private
		return nil
	}
	return st, nil
}

// keptText says that a home is open although nobody has chosen that.
const keptText = "It is open because it was before homes had a swarm of their own: `shoal config set open true` keeps it so, and `shoal config set open false` gives it a swarm of its own at the next start"

// sayKept says so on a terminal, for commands whose output others read.
func sayKept(st *swarm.Start, w io.Writer) {
	if st.Kept && isTerminal(w) {
		remark(w, "This home is in the open network. "+keptText)
	}
}

// foundedText is what there is to know of the swarm that a first start has founded. A
// root key that is lost or stolen cannot be replaced, so it says how to keep it.
func foundedText(dir string, s *swarm.Swarm) string {
	return fmt.Sprintf("This first start has founded swarm %s. Its root key in %s decides who is a member: `shoal backup FILE` saves it, and keep that file offline",
		cell(s.Name()), filepath.Join(home.Home(dir).Swarm(s.ID().String()), "root"))
}

// lonely is the error for a command that has nobody to ask.
func lonely(dir string, st *swarm.Start, why error) error {
	switch swarms := st.Book.Swarms(); {
	case !st.Private || !errors.Is(why, network.ErrAlone):
		return api.Errorf(api.NoRoute, "no node is running in %s, and %w", dir, why)
	case len(swarms) > 0:
		names := make([]string, len(swarms))
		for i, s := range swarms {
			names[i] = cell(s.Name())
		}
		return api.Errorf(api.NoRoute, "no node is running in %s, and no other machine of swarm %s answers: their nodes must be running and reachable from here, and `shoal doctor` looks for the reason; `shoal run MODEL` serves a model on this machine", dir, strings.Join(names, " or "))
	}
	return api.Errorf(api.NoRoute, "no node is running in %s, and no peer was found, since this home is in no swarm: `shoal run MODEL` serves a model on this machine and chats with it, `shoal join CODE` joins machines that serve one, and --open asks strangers", dir)
}

// mayInvite reports whether a home can let others into one of its swarms.
func mayInvite(st *swarm.Start) bool {
	return slices.ContainsFunc(st.Book.Swarms(), func(s *swarm.Swarm) bool { return s.Certificate().Roles.Has(member.Invite) })
}

// startNotes are what a person should know of the networks that a node begins in.
func startNotes(cfg *node.Config, st *swarm.Start) (notes []string) {
	if st.Kept {
		notes = append(notes, keptText)
	}
	if st.Founded == nil {
		return notes
	}
	notes = append(notes, foundedText(cfg.Home, st.Founded))
	if len(cfg.Bootstrap) > 0 {
		notes = append(notes, "The peers that --bootstrap names are not in it: --open joins the open network, too, and `shoal join CODE` a swarm that somebody else has founded")
	}
	return notes
}
