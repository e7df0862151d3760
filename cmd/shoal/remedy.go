package main

import (
	"strings"

	"github.com/shoalnet/shoal/node/remedy"
)

// remedies holds what to type for each kind of remedy, since no message of another
// package names a flag or a command. args lists the words of text that a remedy's
// arguments replace, in their order.
var remedies = map[remedy.Kind]struct {
	text string
	args []string
}{
	remedy.AddModel:      {text: "`shoal model add` imports models from files and URLs"},
	remedy.ListModels:    {text: "`shoal model ls` lists the models here"},
	remedy.SearchModels:  {text: "`shoal search` lists names that can be pulled"},
	remedy.ServeModel:    {text: "`shoal node --model MODEL` fetches and serves it", args: []string{"MODEL"}},
	remedy.FreeSpace:     {text: "`shoal model gc` and `shoal model rm` free space"},
	remedy.FetchFirst:    {text: "`shoal model export --fetch` does so"},
	remedy.RaiseQuota:    {text: "see --quota and `shoal model pin`"},
	remedy.RaiseMemory:   {text: "raise --memory"},
	remedy.PeerAddress:   {text: "`shoal status` of that node prints it"},
	remedy.NamePeer:      {text: "`shoal run MODEL` serves a model on this machine and chats with it, `shoal node --model MODEL` keeps it served, `shoal join CODE` joins machines that serve one, and --open with --bootstrap asks strangers"},
	remedy.OtherPeer:     {text: "see --bootstrap"},
	remedy.ListenPort:    {text: "see --listen-port"},
	remedy.APIAddress:    {text: "see --api"},
	remedy.APIKey:        {text: "require a key with --api-key-file FILE, or allow everyone with --api-open"},
	remedy.APIToken:      {text: "shoal's own commands read it from the home that --home DIR names, or, with --api, from --api-token-file FILE"},
	remedy.OtherHome:     {text: "`shoal drain` stops a node, and --home chooses another directory"},
	remedy.TrustCatalog:  {text: "if you trust it, pass --catalog-key KEY", args: []string{"KEY"}},
	remedy.SignCatalog:   {text: "`shoal model catalog sign` signs it"},
	remedy.MakeKey:       {text: "`shoal model catalog keygen` makes one"},
	remedy.ChooseDevice:  {text: "see --device"},
	remedy.CallChildMain: {text: "the program must call engine.ChildMain first"},
	remedy.AddKey:        {text: "`shoal key add NAME` makes one, and --api-open admits everyone"},

	remedy.MetricsAddress: {text: "see --metrics"},
	remedy.KeysFile:       {text: "restore it from a backup, or remove it and make the keys again with `shoal key add`"},

	remedy.Setting:       {text: "it is set with --NAME", args: []string{"NAME"}},
	remedy.InstallEngine: {text: "`shoal engine install` fetches it, and `shoal engine ls` shows what is here"},
	remedy.ReplaceEngine: {text: "`shoal engine test` tries what is here, and `shoal engine install` fetches a build that is known to work, which counts unless another folder is named"},
	remedy.AnyEngine:     {text: "`--engine auto` allows others"},
	remedy.NameBase:      {text: "`shoal model add ADAPTER.gguf --base MODEL`"},
	remedy.NotExact:      {text: "ask without --exact"},
	remedy.ServeExact:    {text: "`shoal node --exact` serves exact ones, and without --exact any of them answers"},
	remedy.RawPrompt:     {text: "`shoal prompt --raw --model MODEL TEXT` has it continue a text", args: []string{"MODEL"}},

	remedy.FoundSwarm:   {text: "`shoal swarm new` founds one, and `shoal join CODE` joins another"},
	remedy.NewCode:      {text: "`shoal invite` on the inviter's machine prints one"},
	remedy.NameSwarm:    {text: "see --swarm"},
	remedy.ListMembers:  {text: "`shoal swarm members` lists them"},
	remedy.LeaveFounder: {text: "`shoal backup` keeps it, and --force leaves all the same"},
	remedy.LeaveLast:    {text: "`shoal backup` keeps this membership, and --force leaves all the same"},
	remedy.RenewSwarm:   {text: "`shoal swarm renew --swarm SWARM --root FILE`", args: []string{"SWARM", "FILE"}},
	remedy.ListBridges:  {text: "`shoal swarm bridge ls` lists them"},
	remedy.AskBridge:    {text: "`shoal swarm bridge request` prints a request on the side that wants to use, `shoal swarm bridge new --to REQUEST` a code on the side that lends, and `shoal swarm bridge accept CODE` takes that"},
	remedy.BridgeRoot:   {text: "--root FILE names the file with it"},

	remedy.UseRule: {text: "`shoal config set use swarm` or `shoal config set use anybody` lets prompts go further, for one model as in \"llama*: anybody\"; `shoal policy ls` lists the rules"},

	remedy.AsWhom: {text: "--as takes a peer ID, a member's machine, SWARM or SWARM/ROLE, strangers, members, guests, guests of NAME, or trusted"},

	remedy.OwnPage: {text: "`shoal page` on the node's machine prints a link that allows it"},
}

// withRemedy returns an error's text for a person, followed by what to type if the
// error has a remedy. A kind that only a newer node knows is left out.
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
