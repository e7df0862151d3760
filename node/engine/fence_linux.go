package engine

import (
	"path/filepath"

	"github.com/landlock-lsm/go-landlock/landlock"
)

// fence lets this process read the model, the system's libraries, the backends and
// the devices, and nothing else of the disk, and takes the network away, as far
// as the kernel knows how.
func fence(model string) error {
	return landlock.V5.BestEffort().Restrict(
		landlock.RODirs(LibraryDirs()...).IgnoreIfMissing(),
		landlock.RODirs("/usr", "/lib", "/lib64", "/etc", "/opt", "/proc", "/sys", filepath.Dir(model)).IgnoreIfMissing(),
		landlock.RWDirs("/dev").WithIoctlDev().IgnoreIfMissing(),
	)
}
