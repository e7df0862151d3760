package fence

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// role is the role of a process of this test program: fenced, or free.
const role = "OMP_SHOAL_FENCE_TEST" // a name that the allowlist lets through

func TestMain(m *testing.M) {
	if r := os.Getenv(role); r != "" {
		if err := child(r); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// attempt is something that a process tries.
type attempt struct {
	holds string // the word of the report for it; "": it must go well behind the fence, too
	name  string
	only  bool // behind the fence alone: elsewhere it would do harm, or needs more than a user's rights
	try   func(w *world) error
}

// world is what can be reached. All of it belongs to the test.
type world struct {
	Dir            string
	TCP, UDP, Name string
}

func (w *world) path(name string) string { return filepath.Join(w.Dir, name) }

// parent is a file of the parent's in /proc.
func parent(name string) string { return "/proc/" + strconv.Itoa(os.Getppid()) + "/" + name }

func read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.Read(make([]byte, 16)); err != nil && strings.HasSuffix(path, "/mem") {
		return nil // nothing lies at address 0; it was opened
	}
	return err
}

func dial(network, addr string) error {
	c, err := net.DialTimeout(network, addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("x"))
	return err
}

func listen(network, addr string) error {
	if network == "udp" {
		l, err := net.ListenPacket(network, addr)
		if err == nil {
			l.Close()
		}
		return err
	}
	l, err := net.Listen(network, addr)
	if err == nil {
		l.Close()
	}
	return err
}

func socket(family, kind int) error {
	fd, err := unix.Socket(family, kind, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err
}

func call(nr uintptr, args ...uintptr) error {
	args = append(args, 0, 0, 0, 0)
	if _, _, errno := unix.Syscall6(nr, args[0], args[1], args[2], args[3], 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// allocate allocates memory that is never touched.
func allocate(bytes int) error {
	b, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err == nil {
		_ = unix.Munmap(b)
	}
	return err
}

const (
	bound = 8 << 30
	most  = 7 << 30 // of it, while the program itself has some
	more  = 9 << 30
)

var attempts = []attempt{
	{"", "read the model", false, func(w *world) error { return read(w.path("model")) }},
	{"", "open a device that is nobody's", false, func(*world) error { return os.WriteFile("/dev/null", []byte("x"), 0) }},
	{"", "ask what the processor is", false, func(*world) error { return read("/proc/cpuinfo") }},
	{"", "read of itself", false, func(*world) error { return read("/proc/self/maps") }},
	{"", "make files where it may", false, func(w *world) error {
		err := os.WriteFile(w.path("temp/x"), []byte("x"), 0o600)
		return errors.Join(err, os.Remove(w.path("temp/x")))
	}},
	{"", "start threads", false, func(*world) error {
		done := make(chan error)
		for range 4 {
			go func() { // each blocks a thread of its own
				done <- unix.Nanosleep(&unix.Timespec{Nsec: 20e6}, nil)
			}()
		}
		var err error
		for range 4 {
			err = errors.Join(err, <-done)
		}
		return err
	}},
	{"", "allocate within its bound", false, func(*world) error { return allocate(512 << 20) }},

	{"environment", "see a token in the environment", false, func(*world) error {
		if os.Getenv("HF_TOKEN") == "" {
			return errors.New("absent")
		}
		return nil
	}},

	{"files", "read the node's key", false, func(w *world) error { return read(w.path("key")) }},
	{"files", "read /etc/passwd", false, func(*world) error { return read("/etc/passwd") }},
	{"files", "write in the home", false, func(w *world) error { return os.WriteFile(w.path("x"), nil, 0o600) }},
	{"files", "write the model", false, func(w *world) error {
		f, err := os.OpenFile(w.path("model"), os.O_WRONLY, 0)
		if err == nil {
			f.Close()
		}
		return err
	}},
	{"files", "cut the model short", false, func(w *world) error { return os.Truncate(w.path("model"), 1) }},
	{"files", "write in /dev/shm", false, func(*world) error {
		name := fmt.Sprintf("/dev/shm/shoal-fence-%d", os.Getpid())
		defer os.Remove(name)
		return os.WriteFile(name, nil, 0o600)
	}},
	{"files", "open the terminal's device", true, func(*world) error {
		f, err := os.Open("/dev/ptmx")
		if err == nil {
			f.Close()
		}
		return err
	}},

	{"network", "connect by TCP", false, func(w *world) error { return dial("tcp", w.TCP) }},
	{"network", "listen on TCP", false, func(*world) error { return listen("tcp", "127.0.0.1:0") }},
	{"network", "send by UDP", false, func(w *world) error { return dial("udp", w.UDP) }},
	{"network", "receive by UDP", false, func(*world) error { return listen("udp", "127.0.0.1:0") }},
	{"network", "connect to a unix socket in a directory", false, func(w *world) error { return dial("unix", w.path("socket")) }},
	{"network", "connect to an abstract unix socket", false, func(w *world) error { return dial("unix", w.Name) }},
	{"network", "listen on an abstract unix socket", false, func(w *world) error { return listen("unix", w.Name+"-child") }},
	{"network", "make a pair of sockets", false, func(*world) error {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err == nil {
			err = errors.Join(unix.Close(fds[0]), unix.Close(fds[1]))
		}
		return err
	}},
	{"network", "talk to the kernel by netlink", false, func(*world) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW) }},
	{"network", "see packets", true, func(*world) error { return socket(unix.AF_PACKET, unix.SOCK_RAW) }},

	{"programs", "run a program", false, func(*world) error { return exec.Command("/bin/true").Run() }},
	{"programs", "become a program", true, func(*world) error { return unix.Exec("/bin/true", []string{"true"}, nil) }},

	{"signals", "signal the parent", false, func(*world) error { return unix.Kill(os.Getppid(), 0) }},
	{"signals", "signal a thread of the parent's", false, func(*world) error { return unix.Tgkill(os.Getppid(), os.Getppid(), 0) }},
	{"signals", "signal by a descriptor", false, func(*world) error {
		fd, err := unix.PidfdOpen(os.Getppid(), 0)
		if err == nil {
			defer unix.Close(fd)
			err = unix.PidfdSendSignal(fd, 0, nil, 0)
		}
		return err
	}},
	{"", "signal itself", false, func(*world) error {
		return errors.Join(unix.Kill(os.Getpid(), 0), unix.Tgkill(os.Getpid(), unix.Gettid(), 0))
	}},
	{"signals", "have a file's signals go to the parent", false, func(*world) error {
		_, err := unix.FcntlInt(0, unix.F_SETOWN, os.Getppid())
		return err
	}},

	{"parent", "read the parent's environment", false, func(*world) error { return read(parent("environ")) }},
	{"parent", "read the parent's command line", false, func(*world) error { return read(parent("cmdline")) }},
	{"parent", "read the parent's map of memory", true, func(*world) error { return read(parent("maps")) }},
	{"parent", "open the parent's memory", true, func(*world) error { return read(parent("mem")) }},
	{"parent", "go round by the parent's root", true, func(*world) error {
		_, err := os.ReadDir(parent("root"))
		return err
	}},
	{"parent", "list the processes", false, func(*world) error {
		_, err := os.ReadDir("/proc")
		return err
	}},
	{"parent", "trace the parent", true, func(*world) error { return unix.PtraceSeize(os.Getppid()) }},
	{"parent", "read the parent's memory by a call", true, func(*world) error {
		b := make([]byte, 8)
		local := []unix.Iovec{{Base: &b[0], Len: 8}}
		_, err := unix.ProcessVMReadv(os.Getppid(), local, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
		return err
	}},
	{"parent", "take a file from the parent", true, func(*world) error {
		_, err := unix.PidfdGetfd(1, 1, 0)
		return err
	}},

	{"programs", "set up io_uring", true, func(*world) error { return call(unix.SYS_IO_URING_SETUP, 1) }},
	{"programs", "call by another convention", true, func(*world) error { return call(unix.SYS_GETPID | 0x40000000) }},
	{"programs", "load a program into the kernel", true, func(*world) error { return call(unix.SYS_BPF, 0) }},
	{"programs", "make a namespace", true, func(*world) error { return unix.Unshare(unix.CLONE_NEWUSER) }},
	{"programs", "make a process", true, func(*world) error { return call(unix.SYS_CLONE, uintptr(unix.SIGCHLD)) }},
	{"programs", "attach shared memory", true, func(*world) error { return call(unix.SYS_SHMGET, 0, 4096, 0o600|unix.IPC_CREAT) }},
	{"programs", "read the kernel's keys", true, func(*world) error { return call(unix.SYS_KEYCTL, 0) }},
	{"programs", "type on the terminal", true, func(*world) error {
		if err := call(unix.SYS_IOCTL, 0, unix.TIOCSTI, 0); !errors.Is(err, unix.ENOTTY) {
			return err
		}
		return nil // it got as far as the device, which is none
	}},

	{"cores", "leave a core", false, func(*world) error {
		dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		if err == nil && dumpable != 1 {
			err = errors.New("it is not dumpable")
		}
		return err
	}},
	{"memory", "take more memory than its bound", false, func(*world) error { return allocate(more) }},
}

// child makes the attempts, and writes the outcome of each: nothing, or an
// error.
func child(as string) error {
	var w world
	if err := json.NewDecoder(os.Stdin).Decode(&w); err != nil {
		return err
	}
	report := &Report{}
	if as != "free" {
		r := Rules{Read: []string{w.path("model")}, Write: []string{w.path("temp")}, Memory: bound, Sockets: as == "settled"}
		report = Up(r)
		if as == "settled" {
			if err := listen("unix", w.Name+"-child"); err != nil {
				return fmt.Errorf("a driver's unix socket: %w", err)
			}
			if err := listen("tcp", "127.0.0.1:0"); err == nil {
				return errors.New("a driver may listen on TCP")
			}
			if err := allocate(most); err != nil {
				return fmt.Errorf("what loading may take: %w", err)
			}
			report.Settle()
			if err := allocate(most); err == nil {
				return errors.New("the bound is as wide as before")
			}
		}
	}
	result := map[string]string{}
	for _, a := range attempts {
		if as == "free" && a.only {
			continue
		}
		result[a.name] = ""
		if err := a.try(&w); err != nil {
			result[a.name] = err.Error()
		}
	}
	return json.NewEncoder(os.Stdout).Encode(struct {
		Report *Report
		Result map[string]string
	}{report, result})
}

func newWorld(t *testing.T) *world {
	w := &world{Dir: t.TempDir(), Name: fmt.Sprintf("@shoal-fence-%d", os.Getpid())}
	for name, text := range map[string]string{"model": "the model", "key": "the key"} {
		if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(w.path("temp"), 0o700); err != nil {
		t.Fatal(err)
	}
	open := func(network, addr string) net.Listener {
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	open("unix", w.path("socket"))
	open("unix", w.Name)
	w.TCP = open("tcp", "127.0.0.1:0").Addr().String()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	w.UDP = u.LocalAddr().String()
	return w
}

func run(t *testing.T, w *world, as string, env []string) (report Report, result map[string]string) {
	t.Helper()
	in, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env, cmd.Stdin, cmd.Stderr = append(env, role+"="+as), strings.NewReader(string(in)), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	answer := struct {
		Report *Report
		Result *map[string]string
	}{&report, &result}
	if err := json.Unmarshal(out, &answer); err != nil {
		t.Fatal(err)
	}
	return report, result
}

// A program tries everything that README's table says the fence denies. The
// same program without a fence shows that the attempts are real.
func TestFence(t *testing.T) {
	t.Setenv("HF_TOKEN", "hf_secret")
	w := newWorld(t)
	_, free := run(t, w, "free", os.Environ())
	for _, as := range []string{"fenced", "settled"} {
		report, got := run(t, w, as, Environ("test"))
		t.Logf("%s: holds %v, lacks %v", as, report.Holds, report.Lacks)
		for _, a := range attempts {
			t.Run(as+"/"+a.name, func(t *testing.T) {
				why, tried := got[a.name]
				switch {
				case !tried:
					t.Error("not tried")
				case a.holds == "":
					if why != "" {
						t.Errorf("it cannot: %s", why)
					}
				case !slices.Contains(report.Holds, a.holds):
					t.Skipf("not here: %v", report.Lacks)
				case why == "":
					t.Errorf("it can, and the report says that it holds %v", report.Holds)
				case !a.only && free[a.name] != "":
					t.Errorf("it cannot without a fence either: %s", free[a.name])
				default:
					t.Log(why)
				}
			})
		}
	}
}

// Variables that are not on the list are not passed on.
func TestEnviron(t *testing.T) {
	t.Setenv("SHOAL_API_KEY", "secret")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("CUDA", "not a setting of CUDA's")
	t.Setenv("CUDA_VISIBLE_DEVICES", "1")
	t.Setenv("LD_LIBRARY_PATH", "/x")
	env := Environ("test")
	for _, kv := range []string{"CUDA_VISIBLE_DEVICES=1", "LD_LIBRARY_PATH=/x"} {
		if !slices.Contains(env, kv) {
			t.Errorf("%s is missing in %v", kv, env)
		}
	}
	for _, kv := range env {
		if strings.Contains(kv, "secret") || strings.HasPrefix(kv, "CUDA=") {
			t.Errorf("%s is passed on", kv)
		}
	}
}
