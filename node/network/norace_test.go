//go:build !race

package network

func init() { raced = false }
