package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// What every Go client's program shares: see python/cases.py.
var (
	base, model           = os.Getenv("BASE"), os.Getenv("MODEL")
	agentBase, agentModel = os.Getenv("AGENT_BASE"), os.Getenv("AGENT_MODEL")
)

const (
	question   = "Tell me a story about a fox."
	askWeather = "How is the weather in Oslo?"
	askSum     = "What is 2 and 2?"
	nobody     = "no-such-model"
	tokens     = 16
	long       = 400
)

func parse(raw string) (out map[string]any) {
	if err := json.Unmarshal([]byte(raw), &out); err != nil {
		panic(err)
	}
	return out
}

var (
	weather = parse(`{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}`)
	sum     = parse(`{"type":"object","properties":{"sum":{"type":"integer","minimum":0,"maximum":99}},"required":["sum"],"additionalProperties":false}`)
)

func check(holds bool, what ...any) error {
	if holds {
		return nil
	}
	return fmt.Errorf("not as it should be: %v", what)
}

func same(text string) error {
	return check(text == os.Getenv("TEXT"), text, "is not", os.Getenv("TEXT"))
}

func reported(text string) error { return check(text == os.Getenv("REPORT"), text) }

// streamed checks that a stream came in pieces, and that they are the text.
func streamed(pieces []string) error {
	if err := check(len(pieces) > 3, len(pieces), "pieces"); err != nil {
		return err
	}
	return same(strings.Join(pieces, ""))
}

func summed(text string) error {
	var out struct{ Sum *int }
	err := json.Unmarshal([]byte(text), &out)
	return check(err == nil && out.Sum != nil && *out.Sum >= 0 && *out.Sum <= 99, text, err)
}

func oslo(arguments string) error {
	return check(parse(arguments)["city"] == "Oslo", arguments)
}

// missing checks a client's own error about a model that is not there.
func missing(isOwn bool, status int, err error) error {
	return check(isOwn && status == 404 && strings.Contains(err.Error(), nobody), err)
}

type testCase struct {
	name string
	take func() error
}

func run(cases ...testCase) {
	for _, c := range cases {
		fmt.Println("case", c.name)
		if err := c.take(); err != nil {
			fmt.Println("fail", c.name, strings.Join(strings.Fields(err.Error()), " "))
		} else {
			fmt.Println("ok", c.name)
		}
	}
	fmt.Println("end")
}
