package doctor

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/home"
)

// Home is a node's directory.
type Home struct {
	Dir     string
	Default bool // the one that commands use by default
	User    string

	Present    bool
	NotDir     bool
	Unmakeable bool     // it does not exist and cannot be created
	Mine       bool     // this user owns it
	Denied     []string // paths that this user may not write, at most three
	HasKey     bool
	Loose      []string // secrets that others may read
	KeyErr     string   // what is wrong with the content of the node's key

	Locked bool // the store is locked by a live process
	Lock   Process

	Free      int64 // bytes on the disk
	FreeKnown bool

	Latest     time.Time // the latest time found in the home
	LatestFile string
}

// LookHome gathers facts about a home. checkKey reports whether a key file is valid.
func LookHome(dir string, checkKey func(path string) error) Home {
	h := Home{Dir: dir, User: strconv.Itoa(os.Getuid())}
	if u, err := user.Current(); err == nil {
		h.User = u.Username
	}
	st, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		above := filepath.Dir(dir)
		for ; above != filepath.Dir(above); above = filepath.Dir(above) {
			if _, err := os.Stat(above); err == nil {
				break
			}
		}
		h.Unmakeable = !files.MayWrite(above, true)
		h.space(above)
		return h
	}
	h.Present = true
	if err == nil && !st.IsDir() {
		h.NotDir = true
		return h
	}
	if err == nil {
		if uid, _, ok := files.Owner(st); ok {
			h.Mine = uid == os.Geteuid()
		}
	}
	h.space(dir)
	h.access()
	at := home.Home(dir)
	keys, _ := filepath.Glob(filepath.Join(at.Swarm("*"), "key"))
	roots, _ := filepath.Glob(filepath.Join(at.Swarm("*"), "root"))
	h.HasKey = len(keys) > 0
	for _, path := range slices.Concat([]string{at.Key(), at.APIToken()}, keys, roots) {
		if st, err := os.Stat(path); err == nil && st.Mode().Perm()&0o077 != 0 {
			h.Loose = append(h.Loose, path)
		}
	}
	key := at.Key()
	if _, err := os.Stat(key); err == nil {
		h.HasKey = true
		if err := checkKey(key); err != nil && !errors.Is(err, fs.ErrPermission) {
			h.KeyErr = err.Error()
		}
	}
	h.lock()
	for _, path := range append(keys, at.Peers(), at.Port(), at.Key(), at.StoreLock(), at.API()) {
		if st, err := os.Stat(path); err == nil && st.ModTime().After(h.Latest) {
			h.Latest, h.LatestFile = st.ModTime(), path
		}
	}
	return h
}

// access lists paths that this user may not write.
func (h *Home) access() {
	deny := func(path string, dir bool) bool {
		if files.MayWrite(path, dir) {
			return false
		}
		if len(h.Denied) < 3 {
			h.Denied = append(h.Denied, path)
		}
		return true
	}
	if deny(h.Dir, true) {
		return
	}
	_ = filepath.WalkDir(h.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == h.Dir {
			return nil //nolint:nilerr // it was denied above
		}
		switch {
		case d.IsDir() && deny(path, true):
			return filepath.SkipDir
		case d.Type().IsRegular():
			deny(path, false)
		}
		return nil
	})
}

func (h *Home) space(dir string) {
	if free := files.FreeSpace(dir); free >= 0 {
		h.Free, h.FreeKnown = free, true
	}
}

// lock finds out whether the store is locked, by taking its lock for a moment.
func (h *Home) lock() {
	path := home.Home(h.Dir).StoreLock()
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	if err := files.Lock(f, true); err == nil {
		_ = files.Unlock(f)
		return
	}
	h.Locked = true
	if st, err := f.Stat(); err == nil {
		h.Lock = lockOwner(path, files.Inode(st))
	}
}

// groupOf returns the name of a file's group.
func groupOf(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	_, gid, ok := files.Owner(st)
	if !ok {
		return ""
	}
	g, err := user.LookupGroupId(strconv.Itoa(gid))
	if err != nil {
		return ""
	}
	return g.Name
}
