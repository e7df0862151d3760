package lend

import (
	"io/fs"
	"strings"
)

// onBattery tells whether a battery of the machine discharges and nothing else
// feeds it. A machine that shows no supplies has mains.
func onBattery(power fs.FS) bool {
	supplies, _ := fs.ReadDir(power, ".")
	discharges := false
	for _, s := range supplies {
		fed, drained := supply(func(name string) string {
			raw, _ := fs.ReadFile(power, s.Name()+"/"+name)
			return strings.ToLower(strings.TrimSpace(string(raw)))
		})
		if fed {
			return false
		}
		discharges = discharges || drained
	}
	return discharges
}

// supply reads one power supply: whether it feeds the machine from outside, or
// is a battery that is being drained. What cannot be read is neither.
func supply(read func(name string) string) (fed, drained bool) {
	kind := read("type")
	switch {
	case read("scope") == "device": // of a mouse, or the like
		return false, false
	case kind == "mains", kind == "wireless", strings.HasPrefix(kind, "usb"):
		online := read("online") // USB has more kinds of yes than 1
		return online != "" && online != "0", false
	case kind == "battery", kind == "ups":
		return false, read("status") == "discharging"
	}
	return false, false
}
