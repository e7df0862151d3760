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

// Machine is what this machine has, and lets programs use.
type Machine struct {
	GPUs        []GPU
	LibraryDirs []string // where backends of the engine are looked for
	Memory      int64    // bytes; 0: not known
	MemoryFree  int64    // that programs can still have
	MemoryLimit int64    // of this container; 0: none
	UDPErr      string   // why a datagram does not come back over loopback
	UDPBuffer   int64    // bytes that the kernel allows a socket; 0: not known
	Firewall    string   // the program that rules it: ufw, firewall-cmd, or ""
	SetClock    string   // the line that sets the clock by the network
	Secret      string   // fresh, for a key
}

// GPU of the machine.
type GPU struct {
	Name    string
	Backend string // of the engine: cuda, hip, vulkan
	Library bool   // the backend's library is there
	Denied  string // a device file that this user may not open
	Group   string // whose members may
	Driver  string // the line that loads the driver, if it is not
}

// Look looks at a machine. root is where the system's files are: "/" but in
// tests.
func Look(root string, libraryDirs []string) Machine {
	m := Machine{LibraryDirs: libraryDirs, Secret: rand.Text()}
	sys := os.DirFS(root)
	m.GPUs = gpus(sys, root, libraryDirs)
	m.Memory, m.MemoryFree, m.MemoryLimit = memoryOf(sys)
	if n, err := readNumber(sys, "proc/sys/net/core/rmem_max"); err == nil && (os.Geteuid() != 0 || root != "/") {
		m.UDPBuffer = n // root may take what it likes
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

// gpus lists devices by their files, as the kernel's drivers make them.
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
	if len(out) > 0 { // a card that has its own backend needs no Vulkan
		return out
	}
	render, _ := fs.Glob(sys, "dev/dri/renderD*")
	for _, file := range render {
		device(GPU{Name: "GPU " + path.Base(file), Backend: "vulkan"}, file)
	}
	return out
}

// pciGPUs gives the vendors of the display controllers.
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

// tryUDP sends a datagram to itself.
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
		return "a datagram does not come back"
	}
	return ""
}

// TryListen sees whether a TCP or UDP address can be listened on.
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

// freePort gives the next port that nobody has, for TCP and UDP.
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
