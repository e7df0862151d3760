package install

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// Build is a published build of the library.
type Build struct {
	OS, Arch  string // as Go names them
	Accel     string // CPU, CUDA, Vulkan or Metal, in small letters
	Package   string // in the scope
	Version   string // of the package
	Llama     string // version of llama.cpp
	Integrity string // SHA-512 of the archive, as npm writes it
}

// What all builds have in common.
const (
	scope   = "@node-llama-cpp"
	Licence = "MIT"
	origin  = "github.com/withcatai/node-llama-cpp"
)

// Of the builds for one system, the one for the processor alone is first.
var builds = []Build{
	{"linux", "amd64", "cpu", "linux-x64", "3.22.1", "v0.5.0", "sha512-5uCCDNqWCNfaAm8aR/Uzxbo4HBpKgNF91kCHPepKhgMgV2OAmatoefbOlMihsqCiH2Od35E/eUHQCFbfRBJuOg=="},
	{"linux", "amd64", "cuda", "linux-x64-cuda", "3.22.1", "v0.5.0", "sha512-8rQCjyNNLZJUFit+YpjwlC4hwkKgOMIkB2wuycKBf8NU2O3ySKbiWZQ8aw9ku2nUTXjSnUIrE6KB88itduTBuA=="},
	{"linux", "amd64", "vulkan", "linux-x64-vulkan", "3.22.1", "v0.5.0", "sha512-bBxqU+JOcBu1nb5Qj2zcMci+JByT1E8EajHvYodyNfVIPkEhXh+/HMwR1/BT7xP08YK0hks+kM8fglER0P8JEg=="},
	{"linux", "arm64", "cpu", "linux-arm64", "3.22.1", "v0.5.0", "sha512-W+7naKCXX9/eEjjFmRS8vvx91QyLXDbeFxexZc3bh/PtQABZgmRL3C0AtYYXn4YGTj/3Qor4lWZn2tpjZFPLdQ=="},
	{"linux", "arm", "cpu", "linux-armv7l", "3.22.1", "v0.5.0", "sha512-v/pHg4BcQHRDna+YYq4vWp44HCFluar4hAiB732Pa5PF89flMXhHSku68tQn+25RJjuc3TtoeY/i57WnX9GrdQ=="},
	{"darwin", "arm64", "metal", "mac-arm64-metal", "3.21.1", "v0.4.0", "sha512-6MIDAZV7DXD9R1+jEXWJkFuolni3GATGE6mmuyFYc6ZmtOh9djAy15df0T0AXK3sCmVKL+fQcOAWZezxx4MvQQ=="},
	{"darwin", "amd64", "cpu", "mac-x64", "3.21.1", "v0.4.0", "sha512-Q4nyNmbcNiKygBZQZjX+qLk2w3YzoiFpLWsxNURQN7xjyUi2p2rWxjRa7Otg0FrjGf/ri4aQ+X3Uj5Y0zD06eg=="},
	{"windows", "amd64", "cpu", "win-x64", "3.21.1", "v0.4.0", "sha512-JcIpCnra7bAd7JNWA8ehdn2DIRaTMuj+fBC8bw+5rKSNzszWFbuj2XA05c5QHovonDMBLN1ePXE/hcfZtzXoUQ=="},
	{"windows", "amd64", "cuda", "win-x64-cuda", "3.21.1", "v0.4.0", "sha512-PLz70neFEMkQTlmJqG1ujUtCSgHasLPMxQ9rLkqQVmZYAXqkRj+45TIHCjdn3XqUeaoun0vrO9rRaxZ8NVq9jg=="},
	{"windows", "amd64", "vulkan", "win-x64-vulkan", "3.21.1", "v0.4.0", "sha512-HJ237Azh5m4Sz+w3A1IU/fYLaSDOocskcfn2ILTgqTuuORCB86EMnu3Yt/XsNhRHTtEiwz1Q/E0mO4PLIbZLAA=="},
	{"windows", "arm64", "cpu", "win-arm64", "3.21.1", "v0.4.0", "sha512-/UDR7Y0B8iKfc/tqxBmWkcgRdZQ9Wrkwod7fYl4J6iZXcTIj286RkHvZSED7VMY67TrcUXVvxJVMNFtmjeYnDg=="},
}

// ErrNoBuild is wrapped where there is no build for a machine.
var ErrNoBuild = errors.New("there is no build")

// For returns the build for this machine and an accelerator.
func For(accel string) (Build, error) { return buildFor(runtime.GOOS, runtime.GOARCH, accel) }

func buildFor(system, arch, accel string) (Build, error) {
	var have []string
	for _, b := range builds {
		if b.OS == system && b.Arch == arch {
			if b.Accel == accel {
				return b, nil
			}
			have = append(have, b.Accel)
		}
	}
	if len(have) == 0 {
		return Build{}, fmt.Errorf("%w for %s on %s; a library of the system's, or one of your own build, can be named with --llama DIR", ErrNoBuild, system, arch)
	}
	return Build{}, fmt.Errorf("%w for %s on %s with %s; there is %s", ErrNoBuild, system, arch, accel, strings.Join(have, ", "))
}

// Best returns the build for this machine whose accelerator is the first of those wanted
// that there is one for; without any, the first one there is.
func Best(wanted ...string) (Build, error) {
	for _, accel := range wanted {
		if b, err := For(accel); err == nil {
			return b, nil
		}
	}
	i := slices.IndexFunc(builds, func(b Build) bool { return b.OS == runtime.GOOS && b.Arch == runtime.GOARCH })
	if i < 0 {
		return For("cpu") // which says what is missing
	}
	return builds[i], nil
}

// Name is the package's name as its registry has it.
func (b Build) Name() string { return scope + "/" + b.Package }

// File is the name of the package's archive, as npm pack writes it.
func (b Build) File() string {
	return strings.TrimPrefix(scope, "@") + "-" + b.Package + "-" + b.Version + ".tgz"
}

// Dir is the name of the folder that the build is put into.
func (b Build) Dir() string { return "llama-" + b.Llama + "-" + b.Package }

// Origin says whose build it is and where its sources are.
func (b Build) Origin() string {
	return fmt.Sprintf("%s %s, llama.cpp %s, built by %s", b.Name(), b.Version, b.Llama, origin)
}
