//go:build !unix

package node

func diskFree(string) int64 { return -1 }
