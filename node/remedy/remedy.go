// Package remedy names what would mend an error, for whoever talks to people.
//
// Below cmd no message names a flag or a command: the same error reaches a person
// at a terminal, a page, a program that has a node in it, and a client of the HTTP
// API, who type different things. Where only a command or a setting helps, the
// error carries a Kind and its data, and cmd says what to type.
package remedy

import "errors"

// Kind of remedy. The list is append-only: the HTTP API carries it.
type Kind string

// Kinds, with their arguments.
const (
	AddModel      Kind = "add_model"     // bring a model from a file or an address
	ListModels    Kind = "list_models"   // see what models there are here
	SearchModels  Kind = "search_models" // see what names can be pulled
	ServeModel    Kind = "serve_model"   // MODEL: serve it at a node
	FreeSpace     Kind = "free_space"    // remove what nobody needs, or models
	FetchFirst    Kind = "fetch_first"   // fetch what is lacking before an export
	RaiseQuota    Kind = "raise_quota"   // lend more disk, pin, or stop serving
	RaiseMemory   Kind = "raise_memory"  // lend more memory
	PeerAddress   Kind = "peer_address"  // where to find a node's address or peer ID
	NamePeer      Kind = "name_peer"     // name a node to join at, or start one here
	OtherPeer     Kind = "other_peer"    // name another node to join at
	ListenPort    Kind = "listen_port"   // choose another port for peers
	APIAddress    Kind = "api_address"   // choose another address for the API
	APIKey        Kind = "api_key"       // ask callers of the API for a key, or say that none is needed
	APIToken      Kind = "api_token"     // how a caller gives the token
	OtherHome     Kind = "other_home"    // stop the node that has this home, or choose another
	TrustCatalog  Kind = "trust_catalog" // KEY: trust the catalogue's key
	SignCatalog   Kind = "sign_catalog"  // sign a catalogue, or mark it as one's own
	MakeKey       Kind = "make_key"      // make a key for catalogues
	ChooseDevice  Kind = "choose_device" // choose another device
	CallChildMain Kind = "call_child"    // a program that has a node in it must call engine.ChildMain first
	Setting       Kind = "setting"       // NAME: correct this setting of the node

	AddKey         Kind = "add_key"         // make a key for callers of the API, or say that none is needed
	MetricsAddress Kind = "metrics_address" // choose another address for metrics
	KeysFile       Kind = "keys_file"       // mend or remove the file of keys
	OwnPage        Kind = "own_page"        // open the page as the node's owner
	InstallEngine  Kind = "install_engine"  // install llama.cpp's library
	ReplaceEngine  Kind = "replace_engine"  // install llama.cpp's library in place of the one that is here
	AnyEngine      Kind = "any_engine"      // allow any engine
	NotExact       Kind = "not_exact"       // ask without exactness
	ServeExact     Kind = "serve_exact"     // start nodes that are exact, or ask without exactness
	RawPrompt      Kind = "raw_prompt"      // MODEL: have it continue a text without a chat template
	NameBase       Kind = "name_base"       // name the model that an adapter adds to

	FoundSwarm   Kind = "found_swarm"   // found a swarm, or join one
	NewCode      Kind = "new_code"      // have the inviter make another code
	NameSwarm    Kind = "name_swarm"    // say which swarm
	ListMembers  Kind = "list_members"  // see who is a member
	LeaveFounder Kind = "leave_founder" // leave although the root key is lost
	RenewSwarm   Kind = "renew_swarm"   // SWARM, FILE: renew this node's membership with the root key
	ListBridges  Kind = "list_bridges"  // see which bridges there are
	AskBridge    Kind = "ask_bridge"    // make a bridge in the right order
	BridgeRoot   Kind = "bridge_root"   // name the file with the swarm's root key
	LeaveLast    Kind = "leave_last"    // leave although nobody else can let machines in
	UseRule      Kind = "use_rule"      // let prompts go to more nodes
	AsWhom       Kind = "as_whom"       // whom rules can be tested as
)

// Error is an error with its remedy. It is safe for concurrent use.
type Error struct {
	Err  error
	Kind Kind
	Args []string // as the Kind says
}

// For gives an error its remedy. A nil error stays nil.
func For(err error, kind Kind, args ...string) error {
	if err == nil {
		return nil
	}
	return &Error{err, kind, args}
}

// Of is the outermost remedy of an error; nil if it has none.
func Of(err error) *Error {
	var e *Error
	errors.As(err, &e)
	return e
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap is the error without its remedy.
func (e *Error) Unwrap() error { return e.Err }
