package node_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// longModel is a GGUF file that is nowhere: its bytes are made when they are
// read, so that models larger than the disk have an origin. Every 64 KiB begin
// with their number, all else is zeros.
type longModel struct {
	head []byte
	size int64
	read atomic.Int64 // bytes that were asked for
}

// newLongModel makes a model of equal blocks of so many bytes.
func newLongModel(t testing.TB, blocks int, block uint64) *longModel {
	t.Helper()
	h := gguf.Header{Version: 3, KVs: []gguf.KV{
		{Key: "general.architecture", Value: "llama"},
		{Key: "general.name", Value: "Long Model"},
		{Key: "llama.block_count", Value: uint32(blocks)},
		{Key: "llama.embedding_length", Value: uint32(64)},
		{Key: "llama.attention.head_count", Value: uint32(4)},
		{Key: "llama.context_length", Value: uint32(128)},
		{Key: "tokenizer.ggml.model", Value: "gpt2"},
		{Key: "tokenizer.ggml.tokens", Value: slices.Repeat([]string{"token"}, 1000)},
		{Key: "tokenizer.ggml.merges", Value: []string{"t o"}},
	}}
	var end uint64
	add := func(name string, bytes uint64) {
		tn := gguf.Tensor{Name: name, Type: 0, Shape: []uint64{64, bytes / 256}, Offset: end}
		h.Tensors = append(h.Tensors, tn)
		end += tn.Bytes()
	}
	add("token_embd.weight", 256_000)
	for i := range blocks {
		add(fmt.Sprintf("blk.%d.attn_q.weight", i), block/4)
		add(fmt.Sprintf("blk.%d.ffn_up.weight", i), block/4*3)
	}
	add("output_norm.weight", 256)
	add("output.weight", 256_000)
	head, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	head = append(head, make([]byte, -len(head)&31)...)
	return &longModel{head: head, size: int64(len(head)) + int64(end)}
}

func (l *longModel) ReadAt(b []byte, off int64) (int, error) {
	n := int(min(int64(len(b)), l.size-off))
	if n <= 0 {
		return 0, io.EOF
	}
	b = b[:n]
	clear(b)
	const every = 64 << 10
	for k := off / every; k*every < off+int64(n); k++ {
		var number [8]byte
		binary.LittleEndian.PutUint64(number[:], uint64(k)+1)
		at := k*every - off
		copy(b[max(0, at):], number[min(8, max(0, -at)):])
	}
	if off < int64(len(l.head)) {
		copy(b, l.head[off:])
	}
	l.read.Add(int64(n))
	return n, nil
}

// serve gives the model's URL.
func (l *longModel) serve(t testing.TB) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream") // or it reads some to see what it is
		http.ServeContent(w, r, "long.gguf", time.Unix(1, 0), io.NewSectionReader(l, 0, l.size))
	}))
	t.Cleanup(srv.Close)
	return srv.URL + "/long.gguf"
}

func (l *longModel) sum(t testing.TB) (sum [32]byte) {
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{io.NewSectionReader(l, 0, l.size)}, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

func sumFile(t testing.TB, path string) (sum [32]byte) {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

func show(t testing.TB, n *node.Node, name string) *api.Model {
	t.Helper()
	m, err := n.Client().Show(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A model of which a part is held takes that part's disk, and nothing is
// fetched but what is lacking; it is exported once all of it has been fetched.
// With SHOAL_BIG it has 20 GiB, of which 3 are held: that takes 45 GiB of disk
// and some minutes.
func TestSparse(t *testing.T) {
	block := uint64(2 << 20)
	if os.Getenv("SHOAL_BIG") != "" {
		block = 512 << 20
	}
	long := newLongModel(t, 40, block)
	home := ""
	n, _ := start(t, node.Config{}, false)
	if st, err := n.Client().Status(t.Context()); err == nil {
		home = st.Home
	}
	if _, err := n.Client().Add(t.Context(), api.AddRequest{Source: long.serve(t), Span: "10-16"}, nil); err != nil {
		t.Fatal(err)
	}
	onDisk := func(when string) *api.Model {
		t.Helper()
		m := show(t, n, "long")
		data, _ := filepath.Glob(filepath.Join(home, "store/models/*/data.gguf"))
		du, _ := exec.Command("du", append([]string{"-k", "--apparent-size"}, data...)...).Output()
		usage, _ := exec.Command("du", append([]string{"-k"}, data...)...).Output()
		t.Logf("%s: held %d of %d bytes, allocated %d; du %s KiB, apparent %s", when, m.HeldBytes, m.Size, m.Allocated, first(usage), first(du))
		if most := m.HeldBytes + m.HeldBytes/100 + 64<<10; m.Allocated > most || m.Allocated < m.HeldBytes {
			t.Errorf("%s: %d bytes on disk for %d held", when, m.Allocated, m.HeldBytes)
		}
		return m
	}
	m := onDisk("added 10-16")
	if want := 6 * int64(block); m.HeldBytes < want || m.HeldBytes > want+1<<20 {
		t.Errorf("%d bytes are held of 6 blocks of %d", m.HeldBytes, block)
	}

	// Another span: what it needs comes, and not a byte more.
	before := long.read.Load()
	if _, err := n.Client().Pull(t.Context(), api.PullRequest{Model: "long", Span: "14-18"}, nil); err != nil {
		t.Fatal(err)
	}
	if got := long.read.Load() - before; got != 2*int64(block) {
		t.Errorf("two blocks of %d bytes took %d from the origin", block, got)
	}
	onDisk("pulled 14-18")
	if m, err := n.Client().Drop(t.Context(), api.DropRequest{Model: "long", Span: "0-12"}); err != nil || !slices.Equal(m.Held, []string{"header", "12-18"}) {
		t.Fatalf("%+v, %v", m, err)
	}
	m = onDisk("dropped 10-12")

	out := filepath.Join(t.TempDir(), "out.gguf")
	e := api.AsError(orNil(n.Client().Export(t.Context(), api.ExportRequest{Model: "long", Path: out}, nil)))
	lack := e.Lack
	if e.Kind != api.BadInput || lack == nil || lack.Bytes != m.Size-m.HeldBytes || !slices.Equal(lack.Shards, []string{"embedding", "blocks 0-12", "blocks 18-40", "output"}) {
		t.Fatalf("%v: %+v", e, lack)
	}
	t.Log(e.Message)
	if _, err := os.Stat(out); err == nil {
		t.Error("a part was exported")
	}
	before = long.read.Load()
	if err := n.Client().Export(t.Context(), api.ExportRequest{Model: "long", Path: out, Fetch: true}, nil); err != nil {
		t.Fatal(err)
	}
	if got := long.read.Load() - before; got != lack.Bytes {
		t.Errorf("%d bytes were missing, and %d came from the origin", lack.Bytes, got)
	}
	onDisk("exported")
	if sumFile(t, out) != long.sum(t) {
		t.Error("another file came out")
	}
}

func first(out []byte) string {
	f := strings.Fields(string(out))
	if len(f) == 0 {
		return "?"
	}
	return f[0]
}

// orNil is an error that AsError takes, also where there is none.
func orNil(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

// What is damaged on disk is named until it has come anew, and comes anew alone.
func TestVerifyRepair(t *testing.T) {
	const block = 2 << 20
	long := newLongModel(t, 8, block)
	n, _ := start(t, node.Config{}, false)
	cl := n.Client()
	url := long.serve(t)
	if _, err := cl.Add(t.Context(), api.AddRequest{Source: url}, nil); err != nil {
		t.Fatal(err)
	}
	st, err := cl.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	data, _ := filepath.Glob(filepath.Join(st.Home, "store/models/*/data.gguf"))
	f, err := os.OpenFile(data[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{3 * block, 3*block + 5, 6 * block} { // of files that begin at 1 MiB
		if _, err := f.WriteAt([]byte("damage"), at+1<<20); err != nil {
			t.Fatal(err)
		}
	}
	var seen api.Progress
	for i, repair := range []bool{false, false, true, false} {
		left := i < 3 // damage, before
		before := long.read.Load()
		list, err := cl.Verify(t.Context(), api.VerifyRequest{Repair: repair}, func(p api.Progress) { seen = p })
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		v := list[0]
		var bytes int64
		for _, d := range v.Damaged {
			bytes += d.Bytes
		}
		if len(v.Damaged) > 0 != left || v.Repaired != repair || v.Error != "" {
			t.Errorf("repair %v: %+v", repair, v)
		}
		if left && (v.Damaged[0].Shard != "block 2" || v.Damaged[0].Leaves != 1 || len(v.Damaged) != 2) {
			t.Errorf("%+v", v.Damaged)
		}
		if m := show(t, n, "long"); m.Complete != (repair || !left) || len(m.Damaged) == 0 != m.Complete {
			t.Errorf("after it: %+v", m)
		}
		if got := long.read.Load() - before; repair && got != bytes || !repair && got != 0 {
			t.Errorf("%d bytes came from the origin, and %d were damaged", got, bytes)
		}
	}
	if seen.Done == 0 || seen.Done != seen.Total {
		t.Errorf("the progress ends at %+v", seen)
	}
	if _, err := cl.Verify(t.Context(), api.VerifyRequest{Model: "nobody"}, nil); !errors.Is(err, &api.Error{Kind: api.UnknownModel}) {
		t.Error(err)
	}
}

// A fetch keeps to the quota by dropping what was not used for longest, and is
// refused where that does not do; what is pinned or in use stays.
func TestQuotaOfNode(t *testing.T) {
	const block = 1 << 20
	long := newLongModel(t, 10, block)
	n, _ := start(t, node.Config{Quota: 5 * block}, false)
	cl := n.Client()
	if _, err := cl.Add(t.Context(), api.AddRequest{Source: long.serve(t), Span: "1-4"}, nil); err != nil {
		t.Fatal(err)
	}
	pull := func(span string) error {
		_, err := cl.Pull(t.Context(), api.PullRequest{Model: "long", Span: span}, nil)
		return err
	}
	held := func(want ...string) {
		t.Helper()
		if m := show(t, n, "long"); !slices.Equal(m.Held, want) || len(m.Partial) > 0 {
			t.Errorf("held are %v and parts of %v, not %v", m.Held, m.Partial, want)
		}
		if st, err := cl.Status(t.Context()); err != nil || st.QuotaUsed > st.Quota || st.Quota != 5*block {
			t.Errorf("%+v, %v", st, err)
		}
	}
	if err := pull("4-7"); err != nil { // six would be too many: the longest unused go
		t.Fatal(err)
	}
	m := show(t, n, "long")
	if m.HeldBytes > 5*block || !slices.Contains(m.Held, "4-7") && !slices.Contains(m.Held, "3-7") {
		t.Errorf("%v of %d bytes are held", m.Held, m.HeldBytes)
	}
	if err := pull("0-10"); !errors.Is(err, &api.Error{Kind: api.Refused}) || !strings.Contains(err.Error(), "quota") {
		t.Errorf("ten blocks where five may be: %v", err)
	}
	if _, err := cl.Pin(t.Context(), api.PinRequest{Model: "long", Span: "5-6"}); err != nil {
		t.Fatal(err)
	}
	if err := pull("7-9"); err != nil {
		t.Fatal(err)
	}
	f, err := cl.GC(t.Context(), api.GCRequest{Unused: true})
	if err != nil || len(f.Dropped) != 1 {
		t.Errorf("%+v, %v", f, err)
	}
	held("header", "5-6")
	if _, err := cl.Pin(t.Context(), api.PinRequest{Model: "long", Span: "5-6", Off: true}); err != nil {
		t.Fatal(err)
	}
	if f, err := cl.GC(t.Context(), api.GCRequest{Unused: true, DryRun: true}); err != nil || f.Total < block || !slices.Equal(f.Dropped[0].Shards, []string{"block 5"}) {
		t.Errorf("%+v, %v", f, err)
	}
	held("header", "5-6")
}

// Adding, pulling, verifying, exporting, dropping, collecting and removing one
// model at once ends in refusals that say why, never in a wrong byte or in
// nothing at all.
func TestModelAtOnce(t *testing.T) {
	long := newLongModel(t, 6, 512<<10)
	n, _ := start(t, node.Config{}, false)
	cl := n.Client()
	url := long.serve(t)
	sum := long.sum(t)
	dir := t.TempDir()
	var wg sync.WaitGroup
	again := func(what string, f func(k int) error) {
		for k := range 2 {
			wg.Go(func() {
				for i := range 6 {
					err := f(10*k + i)
					var e *api.Error
					switch {
					case err == nil:
					case errors.As(err, &e) && (e.Kind == api.Refused || e.Kind == api.UnknownModel || e.Lack != nil):
					default:
						t.Errorf("%s: %v", what, err)
					}
				}
			})
		}
	}
	again("add", func(k int) error {
		_, err := cl.Add(t.Context(), api.AddRequest{Source: url, Span: []string{"", "0-3", "2-6"}[k%3]}, nil)
		return err
	})
	again("pull", func(k int) error {
		_, err := cl.Pull(t.Context(), api.PullRequest{Model: url, Span: []string{"all", "1-4"}[k%2]}, nil)
		return err
	})
	again("rm", func(int) error { return cl.Remove(t.Context(), "long") })
	again("rm --span", func(k int) error {
		_, err := cl.Drop(t.Context(), api.DropRequest{Model: "long", Span: fmt.Sprintf("%d-%d", k%3, k%3+2)})
		return err
	})
	again("gc", func(k int) error {
		_, err := cl.GC(t.Context(), api.GCRequest{Unused: k%2 == 0})
		return err
	})
	again("verify", func(k int) error {
		list, err := cl.Verify(t.Context(), api.VerifyRequest{Repair: k%2 == 0}, nil)
		for _, v := range list {
			if len(v.Damaged) > 0 {
				err = errors.Join(err, fmt.Errorf("damaged: %+v", v))
			}
		}
		return err
	})
	again("pin", func(k int) error {
		_, err := cl.Pin(t.Context(), api.PinRequest{Model: "long", Span: "1-2", Off: k%2 == 0})
		return err
	})
	again("export", func(k int) error {
		path := filepath.Join(dir, fmt.Sprint(k))
		err := cl.Export(t.Context(), api.ExportRequest{Model: "long", Path: path}, nil)
		if err == nil && sumFile(t, path) != sum {
			err = errors.New("another file came out")
		}
		return err
	})
	wg.Wait()
	if _, err := cl.Add(t.Context(), api.AddRequest{Source: url}, nil); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "last")
	if err := cl.Export(t.Context(), api.ExportRequest{Model: "long", Path: path}, nil); err != nil || sumFile(t, path) != sum {
		t.Error("at the end: ", err)
	}
}
