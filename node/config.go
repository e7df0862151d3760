package node

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/fence"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/lend"
	"github.com/shoalnet/shoal/node/lend/policy"
	"github.com/shoalnet/shoal/node/library"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/node/swarm"
	"github.com/shoalnet/shoal/protocol"
)

// Config is all that an operator decides. The zero value with a Home is a node
// that serves nothing.
type Config struct {
	Home        string        // data directory
	Version     string        // of the software, for peers
	Name        string        // of this machine, which only trusted peers are told; "": the host's name
	ListenPort  int           // QUIC and TCP; 0: drawn once and kept in Home
	ListenAddrs []string      // multiaddrs, instead of ListenPort on all interfaces
	Bootstrap   []string      // multiaddrs with /p2p/
	API         string        // host:port of the local HTTP API; "": none but the socket in Home
	APIKey      string        // required of API clients; "": none
	APIOpen     bool          // other machines may use the API without a key
	Metrics     string        // host:port for metrics and probes alone; "": none
	APIHosts    []string      // host names accepted in API requests besides loopback's; "*": any
	APIOrigins  []string      // origins of other web pages that may use the API, such as https://chat.example, or patterns of them, such as https://*.example.com
	TLS         bool          // other machines must come to the API over TLS
	TLSCert     string        // PEM file with the certificate for that; "": a self-signed one in Home
	TLSKey      string        // PEM file with its key
	NoMDNS      bool          // do not look for peers on the LAN
	Public      bool          // the operator vouches that peers elsewhere can dial this node
	NoRelay     bool          // do not relay for others even if they can
	Relays      []string      // multiaddrs of relays of the open network that may carry the traffic of private swarms; nil: those of Bootstrap and known ones; "off": none
	Trust       []string      // IDs of peers that are trusted like this node itself
	Fastest     bool          // use known strangers for speed even if this node or peers that it trusts serve the whole model
	Client      bool          // light: serve nothing, advertise nothing
	Serve       []ServeSpec   // what to serve
	Memory      int64         // bytes lent, weights and KV together; 0: half of what the machine has
	Threads     int           // lent; 0: chosen by measuring
	Nice        int           // of the engine's process; 0 means 0, flags default to 5
	Devices     []string      // GPUs to use, by name; none: all found
	KVType      string        // "f16" or "f32"
	Exact       bool          // results are bit-identical however many sessions share a pass; slower
	KVTokens    int           // KV cells per span; 0: from Memory
	MaxSessions int           // concurrent sessions per span; 0: 32
	Lend        lend.Rules    // when to lend; the zero value: always but on battery
	Policy      policy.Policy // who may have what of this node; the zero value: its defaults
	Use         policy.Use    // whose nodes prompts may go to; the zero value: anybody's
	UnloadAfter time.Duration // after how long without use an engine is unloaded, until it is used again; 0: never
	DrainTime   time.Duration // for running sessions to find other stages when this one leaves; 0: 30 s
	Up, Down    int64         // bytes per second of model transfers, to and from peers; 0: no limit
	Quota       int64         // bytes of disk for unpinned shards; 0: no limit
	Catalogs    []string      // catalogue files besides the built-in one and those in Home/catalog.d; they may be unsigned
	CatalogKeys []string      // whose catalogues are trusted, in base64, besides the project's
	Engines     serve.Engines // which engines may compute spans; the zero value: the built-in one
	Engine      engine.Loader // loads spans in this process: for tests; nil: each in a process of its own, for which main calls engine.ChildMain
	Convert     Converter     // of directories to be imported; nil: they are refused
	Warnings    []string      // about this program, for its status
	Wire        string        // activations between stages: "f32" or "" (exact), "f16", "q8_0", or "auto": f32, but prompts in what each link needs
	Guess       serve.Guess   // guesses the tokens that are sent ahead: for tests; nil: node/ahead does
	Ahead       string        // "off": no rows of guessed tokens are sent ahead, neither for this node's answers nor by its stages; "auto" or "": where that pays
	OTLP        string        // base URL of a collector for traces, such as http://127.0.0.1:4318; "": none
	Swarms      *swarm.Book   // private swarms that the node is in; nil: none
	Private     bool          // the node is in Swarms alone, and not in the open network; without any, nobody else can connect
	// Begin sets Swarms and Private once no other process is at work in Home; nil: they stay.
	Begin    func(*Config) error
	May      func(swarm string, model cid.Cid) bool // reports which models the peers of a swarm, or of the open network, "", may use; nil: all
	Network  []libp2p.Option                        // what QUIC and TCP run on: QUICReuse and a TCP transport, also of private swarms; nil: the system's sockets
	Log      *slog.Logger
	Settings api.Settings // what the API's endpoints for settings use; nil: they do not exist
	Events   func(Event)  // lifecycle, for scripts; may be nil
}

// Converter makes a GGUF file of a Hugging Face directory.
type Converter = library.Converter

// Conversion is one directory to be converted.
type Conversion = library.Conversion

// ServeSpec names a model and the part of it to serve.
type ServeSpec = serve.Spec

// Event is one line of a node's life, as JSON for scripts.
type Event = serve.Event

// ErrConfig marks errors in the operator's configuration.
var ErrConfig = errors.New("configuration")

// configError is an error that is an ErrConfig without saying so.
type configError struct{ error }

func (e configError) Unwrap() error        { return e.error }
func (e configError) Is(target error) bool { return target == ErrConfig }

// badSetting is an error in a setting, which is named as in the configuration
// file. The text follows its name.
func badSetting(setting, format string, args ...any) error {
	err := fmt.Errorf(setting+" "+format, args...)
	return configError{remedy.For(err, remedy.Setting, setting)}
}

// Check returns an error that wraps ErrConfig if a setting is invalid, and a plain one
// if a light client is to serve models. It changes nothing.
func (c *Config) Check() error {
	if err := c.Lend.Check(); err != nil {
		return configError{err}
	}
	if c.KVType != "" && c.KVType != "f16" && c.KVType != "f32" {
		return badSetting("kv", "%q: f16 and f32 are known", c.KVType)
	}
	if err := c.Engines.Check(); err != nil {
		return badSetting("engine", "%w", err)
	}
	if _, _, err := codecOf(c.Wire); err != nil {
		return err
	}
	if c.Ahead != "" && c.Ahead != "auto" && c.Ahead != "off" {
		return badSetting("ahead", "%q: auto and off are known", c.Ahead)
	}
	if err := c.mayListen(); err != nil {
		return err
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return badSetting("tls-cert", "needs tls-key, and tls-key needs tls-cert")
	}
	for _, o := range c.APIOrigins {
		if !api.ValidOrigin(o) {
			return badSetting("api-origin", "%q: write it like https://chat.example, http://localhost:*, https://*.example.com or chrome-extension://*", o)
		}
	}
	if c.Name != "" && c.Name != protocol.MachineName(c.Name) {
		return badSetting("name", "%q: write at most %d bytes, without control characters", c.Name, protocol.MaxMachineName)
	}
	if c.Threads < 0 || c.Threads > runtime.NumCPU() {
		return badSetting("threads", "%d: this machine has %d cores", c.Threads, runtime.NumCPU())
	}
	for _, s := range c.Serve {
		if _, _, err := s.Parse(); err != nil {
			return configError{err}
		}
	}
	if _, err := c.trusted(); err != nil {
		return err
	}
	if c.Client && len(c.Serve) > 0 {
		return errors.New("a light client serves no model")
	}
	return nil
}

// mayStart returns an error that wraps engine.ErrNoChild where a node would start
// itself instead of an engine: in a program that does not serve as one, and in an
// engine's or a converter's process, which is this program, too.
func (c *Config) mayStart() error {
	if serves := c.Engine == nil && len(c.Serve) > 0; !serves && fence.Role() == "" {
		return nil
	}
	return engine.CanStart()
}

func (c *Config) setDefaults() error {
	if err := c.mayStart(); err != nil {
		return err
	}
	if c.Home == "" {
		return errors.New("node: no home directory given")
	}
	if err := c.Check(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Home, 0o700); err != nil {
		return fmt.Errorf("making the home directory: %w", err)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	c.fillIn()
	return nil
}

// fillIn replaces zero values that stand for a default.
func (c *Config) fillIn() {
	if c.Memory == 0 {
		c.Memory = serve.MachineMemory() / 2
	}
	if c.Name == "" {
		c.Name, _ = os.Hostname() // a machine need not have a name
	}
	c.Name = protocol.MachineName(c.Name)
	if c.MaxSessions == 0 {
		c.MaxSessions = 32
	}
	if c.DrainTime == 0 {
		c.DrainTime = 30 * time.Second
	}
	if c.KVType == "" {
		c.KVType = "f16"
	}
}

// trusted returns the peers that the operator trusts.
func (c *Config) trusted() (map[peer.ID]bool, error) {
	all := map[peer.ID]bool{}
	for _, t := range c.Trust {
		p, err := peer.Decode(t)
		if err != nil {
			return nil, badSetting("trust", "%q: write a peer ID like 12D3KooW...", t)
		}
		all[p] = true
	}
	return all, nil
}

// codecOf returns the codec that a setting of wire is for, and whether links may choose
// another one for prompts.
func codecOf(wire string) (codec protocol.TensorCodec, auto bool, err error) {
	switch wire {
	case "", "f32", "auto":
		return protocol.TensorCodec_TENSOR_CODEC_F32, wire == "auto", nil
	case "f16":
		return protocol.TensorCodec_TENSOR_CODEC_F16, false, nil
	case "q8_0":
		return protocol.TensorCodec_TENSOR_CODEC_Q8_0, false, nil
	}
	return 0, false, badSetting("wire", "%q: auto, f32, f16 and q8_0 are known", wire)
}

func (c *Config) home() home.Home { return home.Home(c.Home) }
