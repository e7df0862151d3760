// Command scriptgguf writes a model that answers by a script: see package scriptmodel.
//
//	scriptgguf OUT.gguf < SCRIPT.json
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/shoalnet/shoal/contrib/scriptmodel"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "scriptgguf:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: scriptgguf OUT.gguf < SCRIPT.json")
	}
	var s scriptmodel.Script
	if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
		return err
	}
	file, err := s.GGUF()
	if err != nil {
		return err
	}
	return os.WriteFile(os.Args[1], file, 0o644)
}
