package llama

import (
	"os"
	"strings"
	"strconv"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/enginetest"
)

func anon(t *testing.T, pid int) (kib int, line string) {
	raw, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	for _, l := range strings.Split(string(raw), "\n") {
		f := strings.Fields(l)
		if len(f) > 1 && (f[0] == "Anonymous:" || f[0]=="Rss:" || f[0]=="Pss:"|| f[0]=="Pss_Anon:") {
			line += l + "; "
		}
		if len(f) > 1 && f[0] == "Anonymous:" {
			kib, _ = strconv.Atoi(f[1])
		}
	}
	return
}

func TestMemory(t *testing.T) {
	library(t)
	path := "../../../../shared/models/SmolLM2-135M-Instruct.Q4_1.gguf"
	for _, s := range [][2]int{{0, 10}, {10, 20}, {20, 30},{0,30}} {
		cfg := engine.Config{Engine: engine.Llama, Path: stageFile(t, path, s[0], s[1]), From: s[0], To: s[1], KVTokens: 65536, MaxSeqs: 32, MaxBatch: 512, Threads: 2}
		e, err := engine.InChild()(t.Context(), cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		i := e.Info()
		n, line := anon(t, e.(*engine.Child).Pid())
		t.Logf("%v: %d KiB anonymous (%s); weights %d KiB, kv %d, graph %d", s, n, line, i.Weights>>10, i.KV>>10, i.Graph>>10)
		if s[1] == 30 || s[0]==0 {
			c := enginetest.Chain{e}
			_ = c
		}
		e.Close()
	}
}
