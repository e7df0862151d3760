package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// processorTime is what a process has used so far, to 10 ms; 0 if that cannot be read.
func processorTime(pid int) time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:]) // a program's name may have spaces
	if len(fields) < 13 {
		return 0
	}
	sum := 0
	for _, f := range fields[11:13] { // in user mode, and in the kernel
		n, err := strconv.Atoi(string(f))
		if err != nil {
			return 0
		}
		sum += n
	}
	return time.Duration(sum) * (time.Second / 100)
}
