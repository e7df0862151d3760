//go:build !linux && !darwin

package node

func diskFree(string) int64 { return -1 }
