package install

import (
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Errors that callers tell apart.
var (
	// ErrRegistry is wrapped where the registry did not give the package.
	ErrRegistry = errors.New("the package cannot be fetched")
	// ErrChecksum is wrapped where an archive is not the one that is pinned.
	ErrChecksum = errors.New("not the archive that is pinned")
)

const (
	maxArchive = 1 << 30 // bytes
	silence    = 30 * time.Second
)

// Progress is told of bytes fetched; total is 0 where it is not known.
type Progress func(done, total int64)

// Fetch installs a build from a registry. under is the directory of all builds, which is
// created. It returns the folder of the library. client may be nil.
func Fetch(ctx context.Context, client *http.Client, registry string, b Build, under string, progress Progress) (dir string, err error) {
	address, err := b.address(registry)
	if err != nil {
		return "", err
	}
	body, size, done, err := get(ctx, client, address)
	if err != nil {
		return "", err
	}
	defer done()
	return b.install(body, size, under, progress)
}

// address is where a registry has the build's archive.
func (b Build) address(registry string) (string, error) {
	u, err := url.Parse(registry)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", fmt.Errorf("%w: %q is no registry's address, such as https://npm.example.com", ErrRegistry, registry)
	}
	return u.JoinPath(scope, b.Package, "-", b.Package+"-"+b.Version+".tgz").String(), nil
}

// get begins a download, which ends with an error when nothing comes for a while. done
// must be called.
func get(ctx context.Context, client *http.Client, address string) (body io.Reader, size int64, done func(), err error) {
	if client == nil {
		client = http.DefaultClient
	}
	ctx, cancel := context.WithCancelCause(ctx)
	late := time.AfterFunc(silence, func() { cancel(fmt.Errorf("nothing came for %s", silence)) })
	stop := func() { late.Stop(); cancel(nil) }
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		stop()
		return nil, 0, nil, fmt.Errorf("%w: %w", ErrRegistry, err)
	}
	res, err := client.Do(req) //nolint:bodyclose // done closes it
	if err == nil && res.StatusCode != http.StatusOK {
		res.Body.Close()
		err = fmt.Errorf("%s answers %s", req.URL.Redacted(), res.Status)
	}
	if err != nil {
		stop()
		return nil, 0, nil, fmt.Errorf("%w: %w", ErrRegistry, err)
	}
	r := readerFunc(func(p []byte) (int, error) {
		n, err := res.Body.Read(p)
		late.Reset(silence)
		if err != nil && err != io.EOF {
			err = fmt.Errorf("%w: the download broke off: %w", ErrRegistry, errors.Join(err, context.Cause(ctx)))
		}
		return n, err
	})
	return r, max(0, res.ContentLength), func() { stop(); res.Body.Close() }, nil
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// From installs the build whose archive path is, or that lies in the folder path under
// the name that npm pack gives it. b is the build that is wanted.
func From(path string, b Build, under string, progress Progress) (dir string, err error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		path = filepath.Join(path, b.File())
		info, err = os.Stat(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no %s", path)
	}
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return b.install(f, info.Size(), under, progress)
}

// install verifies an archive and unpacks it into its folder under a directory.
func (b Build) install(archive io.Reader, size int64, under string, progress Progress) (dir string, err error) {
	if size > maxArchive {
		return "", fmt.Errorf("%w: it has %d bytes", ErrChecksum, size)
	}
	if err := os.MkdirAll(under, 0o700); err != nil {
		return "", err
	}
	Sweep(under)
	tmp, err := os.CreateTemp(under, unfinished+"*.tgz")
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	sum := sha512.New()
	n, err := io.Copy(io.MultiWriter(tmp, sum, &meter{total: size, progress: progress}), io.LimitReader(archive, maxArchive+1))
	if err != nil {
		return "", err
	}
	if got := "sha512-" + base64.StdEncoding.EncodeToString(sum.Sum(nil)); got != b.Integrity {
		return "", fmt.Errorf("%w: %d bytes with the checksum %s, where %s %s has %s", ErrChecksum, n, got, b.Name(), b.Version, b.Integrity)
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	return b.place(tmp, under)
}

// unfinished begins the names of what is not complete.
const unfinished = ".new-"

// Sweep removes what an installation that was killed has left.
func Sweep(under string) {
	left, _ := filepath.Glob(filepath.Join(under, unfinished+"*"))
	for _, path := range left {
		if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > time.Hour { // else another may be at work
			_ = os.RemoveAll(path)
		}
	}
}

// meter counts what is written.
type meter struct {
	done, total int64
	progress    Progress
}

func (m *meter) Write(p []byte) (int, error) {
	m.done += int64(len(p))
	if m.progress != nil {
		m.progress(m.done, m.total)
	}
	return len(p), nil
}

// Dirs are the folders of libraries under a directory that are whole: first those for a
// GPU, which compute on the processor, too, then those for the processor alone.
func Dirs(under string) []string {
	found, _ := filepath.Glob(filepath.Join(under, "llama-*"))
	slices.Reverse(found)
	var gpu, cpu []string
	for _, dir := range found {
		n, err := ReadNote(dir)
		switch {
		case err != nil || !whole(dir):
		case n.Accel == "cpu":
			cpu = append(cpu, dir)
		default:
			gpu = append(gpu, dir)
		}
	}
	return append(gpu, cpu...)
}
