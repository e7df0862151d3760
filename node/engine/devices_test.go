package engine

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ollama/ollama/ml"
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
	if _, err := pick(found, []string{"Vulkan0", "CUDA0"}); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "none, Vulkan0 (some card), Vulkan1 (another)") {
		t.Error(err)
	}
}

// TestLibraryDirs: the library passes over paths without lib/ollama in them.
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
