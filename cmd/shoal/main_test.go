package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/shoalnet/shoal/node/fence"
)

// beShoal makes this test binary the program itself, so that networks of
// processes need no other build.
const beShoal = "TEST_BINARY_IS_SHOAL"

func TestMain(m *testing.M) {
	if path := os.Getenv(lockFile); path != "" {
		lockForever(path)
	}
	worker := slices.Contains(os.Args, "-test.fuzzworker") // a fuzz test's, which is no program that a test starts
	child := fence.Role() != ""                            // its environment has nothing else of the test's
	if child || os.Getenv(beShoal) == "1" && !worker {
		if v, ok := versionOfTest(); ok {
			version = v
		}
		main()
	}
	os.Setenv(beShoal, "1") // for the processes that tests start
	testscript.Main(m, map[string]func(){"shoal": main})
}

// TestScripts runs what is in testdata/script: the command line as people use it.
func TestScripts(t *testing.T) {
	shared, err := filepath.Abs("../../../shared")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("SHOAL_HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("SHOAL_NO_MDNS", "true")
			env.Setenv("SHOAL_QUIET_BUILD", "1")
			env.Setenv("SHARED", shared)
			env.Setenv("LIBLLAMA", os.Getenv("SHOAL_LIBLLAMA")) // for scripts that want it
			env.Setenv("SHOAL_MINILM", os.Getenv("SHOAL_MINILM"))
			env.Setenv(beShoal, "1") // engines are started by path, not by name
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "shared" {
				_, err := os.Stat(shared)
				return err == nil, nil
			}
			if cond == "minilm" {
				return os.Getenv("SHOAL_MINILM") != "" && os.Getenv("SHOAL_LIBLLAMA") != "", nil
			}
			_, err := exec.LookPath(cond)
			return err == nil, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":     cmdCode,
			"stays":    cmdStays,
			"truncate": cmdTruncate,
			"same":     cmdSame,
		},
	})
}
