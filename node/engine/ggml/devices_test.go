package ggml

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ollama/ollama/ml"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/enginetest"
)

func TestPickDevices(t *testing.T) {
	found := []ml.DeviceInfo{
		{DeviceID: ml.DeviceID{ID: "0000:01:00.0"}, Name: "Vulkan0", Description: "some card"},
		{DeviceID: ml.DeviceID{ID: "0000:02:00.0"}, Name: "Vulkan1", Description: "another"},
	}
	for _, tc := range []struct{ names, want []string }{
		{nil, []string{"Vulkan0", "Vulkan1"}},
		{[]string{"vulkan1"}, []string{"Vulkan1"}},
		{[]string{"Vulkan1", "0000:01:00.0"}, []string{"Vulkan1", "Vulkan0"}},
	} {
		got, err := pick(found, tc.names)
		var names []string
		for _, d := range got {
			names = append(names, d.Name)
		}
		if err != nil || !slices.Equal(names, tc.want) {
			t.Errorf("%v: %v, %v", tc.names, names, err)
		}
	}
	if _, err := pick(found, []string{"Vulkan0", "CUDA0"}); !errors.Is(err, engine.ErrUnsupported) || !strings.Contains(err.Error(), "none, Vulkan0 (some card), Vulkan1 (another)") {
		t.Error(err)
	}
}

// TestLibraryDirs: the library skips paths without lib/ollama in them.
func TestLibraryDirs(t *testing.T) {
	for _, dir := range LibraryDirs() {
		if !filepath.IsAbs(dir) || !strings.Contains(dir, filepath.Join("lib", "ollama")) {
			t.Error(dir)
		}
	}
	t.Setenv(libraryPath, "/a/lib/ollama:/b/lib/ollama")
	if got := LibraryDirs(); !slices.Equal(got, []string{"/a/lib/ollama", "/b/lib/ollama"}) {
		t.Error(got)
	}
}

// TestDevice: a GPU, named by SHOAL_TEST_DEVICE, computes the processor's tokens, in
// an engine's process with its fence. Rows go one at a time: where Mesa's llvmpipe
// stands in for a GPU, it takes a quarter of an hour and more to compile the shader
// for many at once.
func TestDevice(t *testing.T) {
	name := os.Getenv("SHOAL_TEST_DEVICE")
	if name == "" {
		t.Skip("SHOAL_TEST_DEVICE names no GPU; contrib/accel/README.md tells more")
	}
	prompt := []int32{614, 581, 259, 547}
	answer := func(device string) []int32 {
		c := enginetest.Cut(t, enginetest.Tiny(t), 1, engine.InChild(), func(cfg *engine.Config) {
			cfg.Devices, cfg.MaxBatch = []string{device}, 8
		})
		t.Logf("%s: %+v", device, c[0].Info().Devices)
		if used := fmt.Sprint(c[0].Info().Devices); device != engine.NoDevice && !strings.Contains(used, device) {
			t.Fatalf("%s is not among the devices used: %s", device, used)
		}
		return enginetest.IDs(c.Generate(t, 0, prompt, 40, 1, nil))
	}
	if want, got := answer(engine.NoDevice), answer(name); !slices.Equal(got, want) {
		t.Errorf("%s gives\n%v and the processor\n%v", name, got, want)
	}
}

// A process that may use a GPU is left what drivers need, and one that may not is
// left nothing of it.
func TestFenceRules(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lib", "ollama")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv(libraryPath, dir)
	touch := func(name string) {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := engine.Config{Path: "/m/data.gguf", Memory: 1 << 30}
	touch("libggml-base.so")
	touch("libggml-cpu-haswell.so")
	if r := fenceRules(&cfg); r.System || r.Sockets || len(r.Devices) > 0 || r.Memory != 1<<30 || !slices.Equal(r.Read, []string{"/m/data.gguf", dir}) {
		t.Errorf("on the processor: %+v", r)
	}
	touch("libggml-vulkan.so")
	if r := fenceRules(&cfg); !r.System || !r.Sockets || len(r.Devices) == 0 || r.Memory != 0 || len(r.Write) > 0 {
		t.Errorf("with Vulkan: %+v", r)
	}
	touch("libggml-cuda.so")
	if r := fenceRules(&cfg); len(r.Write) != 1 {
		t.Errorf("with CUDA: %+v", r)
	}
	cfg.Devices = []string{engine.NoDevice}
	if r := fenceRules(&cfg); r.System || r.Sockets || len(r.Devices) > 0 || len(r.Write) > 0 || r.Memory == 0 {
		t.Errorf("without devices: %+v", r)
	}
}
