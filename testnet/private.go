package testnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/shoalnet/shoal/node/home"
)

// gatewayDir is the home of the gateway.
func (t *Testnet) gatewayDir() string { return filepath.Join(t.conf.Dir, "gateway") }

// invite has the first node, which has founded the network's swarm, let the others in, and
// the gateway.
func (t *Testnet) invite(ctx context.Context) error {
	if !t.conf.Private {
		return nil
	}
	out, err := t.shoal(ctx, "invite", "--home", t.nodeDir(0), "--uses", strconv.Itoa(t.conf.Nodes), "--json")
	if err != nil {
		return err
	}
	var made struct {
		Code string `json:"code"`
	}
	if err := json.Unmarshal(out, &made); err != nil || made.Code == "" {
		return fmt.Errorf("the first node's invitation: %w", errors.Join(err, errors.New("it has no code")))
	}
	for i := 1; i < t.conf.Nodes; i++ {
		if err := t.join(ctx, t.nodeDir(i), made.Code); err != nil {
			return err
		}
	}
	return t.join(ctx, t.gatewayDir(), made.Code)
}

// join makes a home a member, unless it is one from an earlier network in the same Dir.
func (t *Testnet) join(ctx context.Context, dir, code string) error {
	if some, err := filepath.Glob(filepath.Join(home.Home(dir).Swarm("*"), "certificate")); err != nil || len(some) > 0 {
		return err
	}
	_, err := t.shoal(ctx, "join", "--home", dir, code)
	return err
}
