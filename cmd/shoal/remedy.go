package main

import (
	"strings"

	"github.com/shoalnet/shoal/node/remedy"
)

// remedies is what to type against an error, for each kind: below this package no
// message names a flag or a command. Words in capitals are replaced by the
// arguments of the remedy, in the order of their names.
var remedies = map[remedy.Kind]struct {
	text string
	args []string
}{
	remedy.AddModel:      {text: "`shoal model add` brings models from files and addresses"},
	remedy.ListModels:    {text: "`shoal model ls` lists the models here"},
	remedy.SearchModels:  {text: "`shoal model search` lists names that can be pulled"},
	remedy.ServeModel:    {text: "`shoal node --model MODEL` fetches and serves it", args: []string{"MODEL"}},
	remedy.FreeSpace:     {text: "`shoal model gc` and `shoal model rm` free some space"},
	remedy.FetchFirst:    {text: "with --fetch they are fetched first"},
	remedy.RaiseQuota:    {text: "see --quota and `shoal model pin`"},
	remedy.RaiseMemory:   {text: "raise --memory"},
	remedy.PeerAddress:   {text: "`shoal status` of that node prints it"},
	remedy.NamePeer:      {text: "--bootstrap names one, and `shoal node --model NAME` starts one"},
	remedy.OtherPeer:     {text: "see --bootstrap"},
	remedy.ListenPort:    {text: "see --listen-port"},
	remedy.APIAddress:    {text: "see --api"},
	remedy.APIKey:        {text: "ask for a key with --api-key-file FILE, or say --api-open if everybody may"},
	remedy.APIToken:      {text: "shoal's own commands take it from there with --home DIR, or with --api from --api-token-file FILE"},
	remedy.OtherHome:     {text: "`shoal drain` stops a node, and --home chooses another directory"},
	remedy.TrustCatalog:  {text: "if you trust it, say --catalog-key KEY", args: []string{"KEY"}},
	remedy.SignCatalog:   {text: "`shoal model catalog sign` signs it"},
	remedy.MakeKey:       {text: "`shoal model catalog keygen` makes one"},
	remedy.ChooseDevice:  {text: "see --device"},
	remedy.CallChildMain: {text: "the program must call engine.ChildMain first"},
	remedy.Setting:       {text: "it is set with --NAME", args: []string{"NAME"}},
}

// withRemedy is an error's text for a person, with what to type, if anything helps. A
// kind of remedy that only a newer node knows is left out.
func withRemedy(err error) string {
	r := remedy.Of(err)
	if r == nil {
		return err.Error()
	}
	of, ok := remedies[r.Kind]
	if !ok {
		return err.Error()
	}
	text := of.text
	for i, name := range of.args[:min(len(of.args), len(r.Args))] {
		text = strings.ReplaceAll(text, name, r.Args[i])
	}
	return err.Error() + "; " + text
}
