package doctor

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Machine describes this machine and what it lets programs use.
type Machine struct {
	GPUs        []GPU
	LibraryDirs []string // where the engine searches for backends
	Memory      int64    // bytes; 0: not known
	MemoryFree  int64    // available to programs
	MemoryLimit int64    // of this container; 0: none
	UDPErr      string   // why UDP over loopback fails
	UDPBuffer   int64    // bytes that the kernel allows per socket; 0: not known
	Firewall    string   // the program that configures it: ufw, firewall-cmd, or ""
	SetClock    string   // the command that sets the clock from the network
	Secret      string   // random, for a new key
}

// GPU of the machine.
type GPU struct {
	Name    string
	Backend string // of the engine: cuda, hip, vulkan
	Library bool   // the backend's library is installed
	Denied  string // the device file, if this user may not open it
	Group   string // whose members may open it
	Driver  string // the command that loads the driver, if it is not loaded
}

// Look gathers facts about this machine. root is the root of the system's files: "/",
// except in tests.
func Look(root string, libraryDirs []string) Machine {
	m := Machine{LibraryDirs: libraryDirs, Secret: rand.Text()}
	sys := os.DirFS(root)
	m.GPUs = gpus(sys, root, libraryDirs)
	m.Memory, m.MemoryFree, m.MemoryLimit = memoryOf(sys)
	if n, err := readNumber(sys, "proc/sys/net/core/rmem_max"); err == nil && (os.Geteuid() != 0 || root != "/") {
		m.UDPBuffer = n // root is not limited
	}
	m.UDPErr = tryUDP()
	for _, name := range []string{"ufw", "firewall-cmd"} {
		if _, err := exec.LookPath(name); err == nil {
			m.Firewall = name
			break
		}
	}
	switch _, err := exec.LookPath("timedatectl"); {
	case runtime.GOOS == "darwin":
		m.SetClock = "sudo sntp -sS time.apple.com"
	case err == nil:
		m.SetClock = "sudo timedatectl set-ntp true"
	default:
		m.SetClock = "sudo ntpdate -u pool.ntp.org"
	}
	return m
}

// gpus lists devices by the files that the kernel's drivers create.
func gpus(sys fs.FS, root string, dirs []string) (out []GPU) {
	have := func(backend string) bool {
		return slices.ContainsFunc(dirs, func(dir string) bool {
			found, _ := filepath.Glob(filepath.Join(dir, "*ggml-"+backend+"*"))
			return len(found) > 0
		})
	}
	device := func(g GPU, file string) {
		g.Library = have(g.Backend)
		full := filepath.Join(root, file)
		f, err := os.OpenFile(full, os.O_RDWR, 0)
		if err == nil {
			f.Close()
		}
		if errors.Is(err, fs.ErrPermission) {
			g.Denied, g.Group = "/"+file, groupOf(full)
		}
		out = append(out, g)
	}
	nvidia, _ := fs.Glob(sys, "dev/nvidia[0-9]*")
	for _, file := range nvidia {
		device(GPU{Name: "NVIDIA GPU " + strings.TrimPrefix(path.Base(file), "nvidia"), Backend: "cuda"}, file)
	}
	if _, err := fs.Stat(sys, "dev/kfd"); err == nil {
		device(GPU{Name: "AMD GPU", Backend: "hip"}, "dev/kfd")
	}
	for _, v := range pciGPUs(sys) {
		if v == "0x10de" && len(nvidia) == 0 {
			out = append(out, GPU{Name: "NVIDIA GPU", Backend: "cuda", Driver: "sudo modprobe nvidia"})
		}
	}
	if len(out) > 0 { // with a backend of its own, a card needs no Vulkan
		return out
	}
	render, _ := fs.Glob(sys, "dev/dri/renderD*")
	for _, file := range render {
		device(GPU{Name: "GPU " + path.Base(file), Backend: "vulkan"}, file)
	}
	return out
}

// pciGPUs returns the vendor IDs of the display controllers.
func pciGPUs(sys fs.FS) (vendors []string) {
	dirs, _ := fs.Glob(sys, "sys/bus/pci/devices/*")
	for _, d := range dirs {
		class, err := fs.ReadFile(sys, d+"/class")
		if err != nil || !strings.HasPrefix(string(class), "0x03") {
			continue
		}
		if v, err := fs.ReadFile(sys, d+"/vendor"); err == nil {
			vendors = append(vendors, strings.TrimSpace(string(v)))
		}
	}
	return vendors
}

func memoryOf(sys fs.FS) (total, free, limit int64) {
	if f, err := sys.Open("proc/meminfo"); err == nil {
		defer f.Close()
		for sc := bufio.NewScanner(f); sc.Scan(); {
			var kib int64
			name, rest, _ := strings.Cut(sc.Text(), ":")
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				continue
			}
			switch name {
			case "MemTotal":
				total = kib << 10
			case "MemAvailable":
				free = kib << 10
			}
		}
	}
	if n, err := readNumber(sys, "sys/fs/cgroup/memory.max"); err == nil {
		limit = n
	}
	return total, free, limit
}

func readNumber(sys fs.FS, name string) (int64, error) {
	raw, err := fs.ReadFile(sys, name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
}

// tryUDP sends a datagram to itself and returns what failed; "" if nothing did.
func tryUDP() string {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	if _, err := c.WriteTo([]byte("shoal"), c.LocalAddr()); err != nil {
		return err.Error()
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	if _, _, err := c.ReadFrom(make([]byte, 16)); err != nil {
		return "a datagram to itself does not arrive"
	}
	return ""
}

// TryListen tests whether a program can listen on a TCP or UDP address.
func TryListen(network, addr string) Listener {
	l := Listener{Addr: addr}
	var err error
	if network == "udp" {
		var c net.PacketConn
		if c, err = net.ListenPacket(network, addr); err == nil {
			c.Close()
		}
	} else {
		var s net.Listener
		if s, err = net.Listen(network, addr); err == nil {
			s.Close()
		}
	}
	if err == nil {
		return l
	}
	l.Err, l.Taken = err.Error(), errors.Is(err, syscall.EADDRINUSE)
	if l.Taken {
		_, port, _ := net.SplitHostPort(addr)
		n, _ := strconv.Atoi(port)
		l.Owner, l.Free = portOwner(network, n), freePort(n)
	}
	return l
}

// freePort returns the next port that is free for both TCP and UDP; 0 if none is near.
func freePort(taken int) int {
	for p := taken + 1; p < taken+100 && p < 65536; p++ {
		addr := net.JoinHostPort("", strconv.Itoa(p))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		c, err := net.ListenPacket("udp", addr)
		l.Close()
		if err == nil {
			c.Close()
			return p
		}
	}
	return 0
}
