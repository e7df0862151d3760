package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/api"
)

// TestBridgeCommands: two people make a bridge between their swarms with three commands; a
// machine of the one is answered by the other's, and no more once the bridge is revoked.
func TestBridgeCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	anna, ben := newPerson(t, "annas-desk"), newPerson(t, "bens-laptop")
	var lab, office api.Swarm
	anna.does(&lab, "swarm", "new", "--name", "lab")
	ben.does(&office, "swarm", "new", "--name", "office")
	anna.starts("--model", "tinytales")
	var ask api.BridgeRequest
	ben.does(&ask, "swarm", "bridge", "request")
	eventually(t, time.Minute, "the model is served", func() bool { return strings.Contains(anna.said.String(), "serving tinytales") })
	file := filepath.Join(t.TempDir(), "request")
	if err := os.WriteFile(file, []byte(ask.Request[:60]+"\n"+ask.Request[60:]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	anna.fails(2, "models", "swarm", "bridge", "new", "--to", file)
	anna.fails(5, "copy all of it", "swarm", "bridge", "new", "--to", ask.Request[:40], "--models", "tinytales")
	anna.fails(2, "--for", "swarm", "bridge", "new", "--to", file, "--models", "tinytales", "--for", "soon")
	ben.fails(2, "shoal swarm bridge new", "swarm", "bridge", "accept")
	var there, here api.Bridge
	anna.does(&there, "swarm", "bridge", "new", "--to", file, "--models", "tinytales", "--tokens-per-day", "5000", "--for", "90d")
	if there.Code == "" || !there.Running || !there.Lends || there.TokensPerDay != 5000 || len(there.Models) != 1 || there.Other != "office" {
		t.Errorf("lent %+v", there)
	}
	anna.fails(5, "for another swarm", "swarm", "bridge", "accept", there.Code)
	ben.does(&here, "swarm", "bridge", "accept", there.Code)
	if here.ID != there.ID || here.Lends || here.Other != "lab" || here.Running {
		t.Errorf("accepted %+v", here)
	}
	first := ben.prompt(greedy...) // from a light client
	ben.starts()
	again := ben.prompt(greedy...)
	if first.Text == "" || first.Text != again.Text || again.Route[0].Swarm != there.ID || again.Route[0].SwarmName != "lab" {
		t.Errorf("%q, then %q over %+v", first.Text, again.Text, again.Route)
	}
	var list []api.Bridge
	anna.does(&list, "swarm", "bridge", "ls")
	if len(list) != 1 || list[0].UsedToday < 1 || list[0].Connected < 1 {
		t.Errorf("Anna lends %+v", list)
	}
	if out, _, _ := ben.run("status"); !strings.Contains(out, `uses swarm "lab" over a bridge`) {
		t.Errorf("Ben's status says\n%s", out)
	}
	var over api.Bridge
	anna.does(&over, "swarm", "bridge", "revoke", "office")
	if over.Closed == "" {
		t.Errorf("revoked %+v", over)
	}
	if out, errOut, exit := ben.run(append([]string{"prompt"}, greedy...)...); exit == 0 {
		t.Errorf("Ben is answered after the bridge was revoked: %s%s", out, errOut)
	}
	anna.fails(1, "bridge ls", "swarm", "bridge", "revoke", "office")
}
