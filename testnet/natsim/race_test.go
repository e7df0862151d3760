//go:build race

package natsim

func init() { raced = true }
