package api

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// aTable is /proc/net/tcp6 of a machine with an IPv4 and an IPv6 connection, both by user 1000,
// one that is closing, and lines that the kernel would never write.
const aTable = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0000000000000000FFFF00000100007F:D431 0000000000000000FFFF00000100007F:2CEC 01 00000000:00000000 00:00000000 00000000  1000        0 41 1
   1: 00000000000000000000000001000000:D432 00000000000000000000000001000000:2CEC 01 00000000:00000000 00:00000000 00000000  1000        0 42 1
   2: 0100007F:D433 0100007F:2CEC 06 00000000:00000000 03:000015F6 00000000     0        0 0 3
   3: 0100007F:D434 0100007F:2CEC 01 00000000:00000000 00:00000000 00000000     0        0 43 1
   4: zz:1 0100007F:2CEC 01 0 0 0 0 0
   5: 0100007F:123456 0100007F:2CEC 01 0 0 0 0 0
`

func TestSocketUser(t *testing.T) {
	for _, test := range []struct {
		from, to string
		uid      int
		ok       bool
	}{
		{"127.0.0.1:54321", "127.0.0.1:11500", 1000, true},
		{"[::ffff:127.0.0.1]:54321", "127.0.0.1:11500", 1000, true},
		{"[::1]:54322", "[::1]:11500", 1000, true},
		{"127.0.0.1:54323", "127.0.0.1:11500", 0, false}, // closing: its user is not known any more
		{"127.0.0.1:54324", "127.0.0.1:11500", 0, true},
		{"127.0.0.1:54321", "127.0.0.1:11501", 0, false},
		{"127.0.0.1:11500", "127.0.0.1:54321", 0, false}, // the node's own end
	} {
		uid, ok := socketUser(strings.NewReader(aTable), addrPort(test.from), addrPort(test.to))
		if uid != test.uid || ok != test.ok {
			t.Errorf("%s to %s: %d, %v", test.from, test.to, uid, ok)
		}
	}
}

func FuzzSocketUser(f *testing.F) {
	f.Add(aTable)
	f.Fuzz(func(_ *testing.T, table string) {
		socketUser(strings.NewReader(table), addrPort("127.0.0.1:54321"), addrPort("127.0.0.1:11500"))
	})
}

// TestOtherUser: the page of another user of this machine is not the owner's, even
// if that user is who root could become.
func TestOtherUser(t *testing.T) {
	skipNoTable(t)
	srv := startOwned(t, nil)
	if to := os.Getenv("SHOAL_TEST_ASK"); to != "" { // the child
		req, err := http.NewRequest(http.MethodGet, to+"/shoal/v1/owner", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var got ownerState
		if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || resp.StatusCode != 200 {
			t.Fatal(resp.Status, err)
		}
		if want := os.Getenv("SHOAL_TEST_OWNER") == "true"; got.Owner != want {
			t.Fatalf("user %d is told %+v, want owner %v", os.Getuid(), got, want)
		}
		return
	}
	child := func(owner string, as *syscall.Credential) {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe, "-test.run", "^TestOtherUser$")
		cmd.Env = append(os.Environ(), "SHOAL_TEST_ASK="+srv.URL, "SHOAL_TEST_OWNER="+owner)
		if as != nil {
			cmd = exec.Command("/proc/self/fd/3", "-test.run", "^TestOtherUser$")
			cmd.Env = append(os.Environ(), "SHOAL_TEST_ASK="+srv.URL, "SHOAL_TEST_OWNER="+owner)
			f, err := os.Open(exe) // its folder may be closed to that user
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			cmd.ExtraFiles, cmd.Dir = []*os.File{f}, "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("owner %s: %v\n%s", owner, err, out)
		}
	}
	child("true", nil)
	if os.Geteuid() != 0 {
		t.Skip("only root can start a process of another user")
	}
	child("false", &syscall.Credential{Uid: 54321, Gid: 54321})
}

// TestSameUserBothFamilies: the kernel's tables are read right, in both families.
func TestSameUserBothFamilies(t *testing.T) {
	skipNoTable(t)
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Logf("%s: %v", at, err)
			continue
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		from, to := addrPort(c.LocalAddr().String()), addrPort(c.RemoteAddr().String())
		if !sameUser(from, to) {
			t.Errorf("%s: this process is not its own user", at)
		}
		if sameUser(to, addrPort("127.0.0.1:1")) {
			t.Errorf("%s: a connection that does not exist has a user", at)
		}
	}
}
