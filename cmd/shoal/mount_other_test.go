//go:build !linux

package main

import "errors"

func mountSmall(string) error { return errors.New("this needs Linux") }

func unmount(string) error { return nil }
