package lint

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// release is a directory like that of a release, with a program that says its version.
type release struct {
	t   *testing.T
	dir string
	key string // its private half signs
}

func newRelease(t *testing.T) *release {
	r := &release{t: t, dir: t.TempDir(), key: filepath.Join(t.TempDir(), "key")}
	r.run("", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a comment", "-f", r.key)
	return r
}

func (r *release) run(dir, name string, args ...string) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// archives makes one of the same content for each target.
func (r *release) archives(version string, files ...string) {
	r.t.Helper()
	r.run(r.dir, "sh", "-c", "rm -f *")
	work := r.t.TempDir()
	tree := filepath.Join(work, "tree")
	for _, f := range append(files, "lib/systemd/system/shoal.service") {
		r.write(filepath.Join(tree, f), "this is "+f, 0o644)
	}
	r.write(filepath.Join(tree, "bin/shoal"), "#!/bin/sh\necho shoal "+version+"\n", 0o755)
	for _, target := range []string{"amd64", "amd64-baseline", "arm64", "arm64-baseline"} {
		r.run(work, "tar", "-czf", filepath.Join(r.dir, "shoal-"+version+"-linux-"+target+".tar.gz"), "tree")
	}
	r.sign()
}

func (r *release) write(path, text string, mode os.FileMode) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		r.t.Fatal(err)
	}
}

func (r *release) sign() {
	r.t.Helper()
	r.run(r.dir, "sh", "-c", "rm -f SHA256SUMS*; sha256sum *.tar.gz > SHA256SUMS && ssh-keygen -q -Y sign -n file -f "+r.key+" SHA256SUMS")
}

// TestInstaller installs, upgrades, removes, and installs nothing that is not signed.
func TestInstaller(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the installer is for Linux")
	}
	for _, name := range []string{"ssh-keygen", "tar", "sha256sum", "curl"} {
		tool(t, name)
	}
	r := newRelease(t)
	server := httptest.NewServer(http.FileServer(http.Dir(r.dir)))
	defer server.Close()
	public, err := os.ReadFile(r.key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	signer := string(public)
	home := t.TempDir()
	prefix := filepath.Join(home, "with a blank")
	install := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "sh", append([]string{"../release/install.sh", "--prefix", prefix}, args...)...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "SHOAL_BASE=" + server.URL, "SHOAL_SIGNER=" + strings.TrimSpace(signer)}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	has := func(file string) bool {
		_, err := os.Stat(filepath.Join(prefix, file))
		return err == nil
	}

	r.archives("v1.0.0", "share/man/man1/shoal.1", "share/old")
	if out, err := install(); err != nil || !strings.Contains(out, "installed shoal v1.0.0") || !strings.Contains(out, "export PATH=") {
		t.Fatalf("%v\n%s", err, out)
	}
	if !has("bin/shoal") || !has("share/old") || has("lib/systemd") {
		t.Error("bin/shoal and share/old are to be there, and no unit that names another directory")
	}

	r.archives("v1.1.0", "share/man/man1/shoal.1", "share/new")
	if out, err := install(); err != nil || !strings.Contains(out, "installed shoal v1.1.0") {
		t.Fatalf("an upgrade: %v\n%s", err, out)
	}
	if has("share/old") || !has("share/new") {
		t.Error("what only the older version had is to go")
	}

	refused := func(why, want string) {
		t.Helper()
		if out, err := install(); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v\n%s", why, err, out)
		}
		if out, _ := exec.CommandContext(t.Context(), filepath.Join(prefix, "bin/shoal")).Output(); string(out) != "shoal v1.1.0\n" {
			t.Errorf("%s: what is installed now says %q", why, out)
		}
	}
	r.archives("v1.2.0", "share/new")
	r.run(r.dir, "sh", "-c", "for f in *.tar.gz; do echo other bytes > $f; done")
	refused("other bytes than those signed", "checksum")
	r.run(r.dir, "sh", "-c", "sha256sum *.tar.gz > SHA256SUMS")
	refused("sums of other bytes under the old signature", "signature")
	r.archives("v1.2.0", "share/new")
	if err := os.Remove(filepath.Join(r.dir, "SHA256SUMS.sig")); err != nil {
		t.Fatal(err)
	}
	refused("no signature", "cannot be had")
	r.sign()
	other := newRelease(t)
	public, err = os.ReadFile(other.key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	signer = string(public)
	refused("the key of somebody else", "signature")
	signer = ""
	refused("no key at all", "no key to verify")

	if out, err := install("--uninstall"); err != nil || has("bin/shoal") || has("share/new") {
		t.Errorf("uninstall: %v\n%s", err, out)
	}
	if out, err := install("--uninstall"); err == nil || !strings.Contains(out, "nothing that this script installed") {
		t.Errorf("uninstall again: %v\n%s", err, out)
	}
}

// TestPreinstall: a package refuses a processor without the instruction that its build
// uses, and only that.
func TestPreinstall(t *testing.T) {
	script := read(t, "../release/preinstall.sh")
	for flag, ok := range map[string]bool{"": true, "no-such-instruction": false} {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.NewReplacer("@FLAG@", flag, "@NAME@", "shoal-baseline").Replace(script))
		out, err := cmd.CombinedOutput()
		if (err == nil) != ok || !ok && !strings.Contains(string(out), "install shoal-baseline instead") {
			t.Errorf("%q: %v\n%s", flag, err, out)
		}
	}
}
