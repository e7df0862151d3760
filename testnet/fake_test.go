package testnet

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tests of the harness' own failure cases run this test binary as the node:
// real nodes do not die or hang on demand. What real nodes do is tested with
// the real binary, in cmd/shoal.

func TestMain(m *testing.M) {
	if faults, ok := os.LookupEnv("FAKE_NODE"); ok {
		os.Exit(fakeShoal(os.Args[1:], faults))
	}
	if dir := os.Getenv("FAKE_PARENT"); dir != "" {
		os.Exit(fakeParent(dir))
	}
	os.Exit(m.Run())
}

const fakeBlocks = 10

// fakeShoal speaks the contract of `shoal model add` and `shoal node`. faults
// lists node:fault pairs.
func fakeShoal(args []string, faults string) int {
	fs := flag.NewFlagSet("fake", flag.ExitOnError)
	home := fs.String("home", "", "")
	span := fs.String("span", "", "")
	listen := fs.String("listen", "", "")
	api := fs.String("api", "", "")
	for _, f := range []string{"bootstrap", "model", "threads"} {
		fs.String(f, "", "")
	}
	for _, f := range []string{"no-mdns", "open", "json-events", "json"} {
		fs.Bool(f, false, "")
	}
	name := func() string { return filepath.Base(*home) }
	fault := func(f string) bool {
		return slices.Contains(strings.Split(faults, ","), name()+":"+f)
	}

	if args[0] == "model" {
		_ = fs.Parse(args[2:])
		if fault("noimport") {
			fmt.Fprintln(os.Stderr, "not a GGUF file")
			return 1
		}
		if fault("slowimport") {
			time.Sleep(time.Hour)
		}
		f, _ := os.OpenFile(filepath.Join(*home, "held"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		fmt.Fprintln(f, *span, fs.Args())
		f.Close()
		fmt.Printf(`{"id":"bafytiny","name":"tiny","blocks":%d}`+"\n", fakeBlocks)
		return 0
	}

	_ = fs.Parse(args[1:])
	_ = os.WriteFile(filepath.Join(*home, "args"), []byte(strings.Join(args, "\n")), 0o644)
	_ = os.WriteFile(filepath.Join(*home, "env"), []byte(strings.Join(os.Environ(), "\n")), 0o644)
	fmt.Fprintln(os.Stderr, "opening the store")
	if fault("die") {
		fmt.Fprintln(os.Stderr, "the disk is full")
		return 3
	}
	if fault("nonsense") {
		fmt.Println("Hello! I am listening.")
		time.Sleep(time.Hour)
	}
	if fault("mute") {
		time.Sleep(time.Hour)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	if fault("hang") {
		signal.Ignore(syscall.SIGTERM)
	}
	engine := 0
	if fault("orphan") { // a child that holds the pipes and outlives its parent
		c := exec.Command("sleep", "1000")
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		_ = c.Start()
		engine = c.Process.Pid
	}
	port := os.Getpid()
	if _, err := fmt.Sscanf(*listen, "/ip4/127.0.0.1/udp/%d/quic-v1", &port); err != nil || port == 0 {
		port = os.Getpid()
	}
	if *api == "127.0.0.1:0" {
		*api = fmt.Sprintf("127.0.0.1:%d", 1+os.Getpid())
	}
	out := json.NewEncoder(os.Stdout)
	peer := fmt.Sprintf("12D3fake%d", os.Getpid())
	_ = out.Encode(Event{Event: EventListening, Peer: peer, API: *api, Addrs: []string{
		fmt.Sprintf("/ip4/10.0.0.1/udp/%d/quic-v1/p2p/%s", port, peer),
		fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1/p2p/%s", port, peer),
	}})
	var from, to int
	_, _ = fmt.Sscanf(*span, "%d-%d", &from, &to)
	_ = out.Encode(Event{Event: EventFetching, Done: 1, Total: 2})
	if !fault("unready") {
		_ = out.Encode(Event{Event: EventServing, Model: "bafytiny", From: from, To: to, EnginePID: max(engine, 1), Ready: true})
	}
	if fault("late") {
		fmt.Fprintln(os.Stderr, "panic: later")
		return 2
	}
	<-term
	_ = out.Encode(Event{Event: EventStopped})
	return 0
}

// fakeParent runs a testnet until it is killed; its nodes' processes are the
// lines it prints.
func fakeParent(dir string) int {
	t, err := Start(timeout(), Config{Binary: os.Args[0], Nodes: 2, Dir: dir, Env: []string{"FAKE_NODE="}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	out := bufio.NewWriter(os.Stdout)
	for _, n := range t.Nodes() {
		fmt.Fprintln(out, n.PID)
	}
	out.Flush()
	select {}
}
