package main

import "golang.org/x/sys/unix"

// mountSmall puts a disk of 100 MiB in a directory's place, which root may.
func mountSmall(dir string) error {
	return unix.Mount("tmpfs", dir, "tmpfs", 0, "size=100m,mode=0700")
}

func unmount(dir string) error { return unix.Unmount(dir, unix.MNT_DETACH) }
