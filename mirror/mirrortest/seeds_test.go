package mirrortest

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/robib-ublk/robib/mirror"
	"github.com/robib-ublk/robib/mirror/wire"
	"github.com/robib-ublk/robib/ublk/blk/blktest"
)

var record = flag.Bool("record", false, "write the frames of real sessions as fuzz seeds of mirror/wire")

const corpus = "../wire/testdata/fuzz"

// seedsEach is how many seeds are kept of each kind of frame, for each fuzz target.
const seedsEach = 2

// recorder turns frames into seeds.
type recorder struct {
	t     *testing.T
	seeds map[string][]string // by target and kind
	kinds map[wire.Kind]int
	u     wire.Unpacker
}

func (r *recorder) add(target string, f *wire.Frame, args ...any) {
	id := fmt.Sprintf("%s/kind%d-flags%d", target, f.Kind, f.Flags)
	text := "go test fuzz v1\n"
	for _, a := range args {
		switch a := a.(type) {
		case []byte:
			text += fmt.Sprintf("[]byte(%q)\n", a)
		case uint8:
			text += fmt.Sprintf("byte(%q)\n", rune(a))
		default:
			text += fmt.Sprintf("%T(%v)\n", a, a)
		}
	}
	if len(r.seeds[id]) < seedsEach && len(text) < 16<<10 && !slices.Contains(r.seeds[id], text) {
		r.seeds[id] = append(r.seeds[id], text)
	}
}

// frame checks that the decoder of each frame that a node sends takes it, and keeps it as a seed.
func (r *recorder) frame(_ int, f *wire.Frame) {
	r.kinds[f.Kind]++
	head := make([]byte, wire.HeadBytes)
	wire.PutHead(head, f)
	_, n, err := wire.ParseHead(head)
	if err == nil {
		err = wire.CheckBody(head, f.Body)
	}
	if err != nil || n != len(f.Body) {
		r.t.Errorf("head of kind %d: %v", f.Kind, err)
	}
	r.add("FuzzHead", f, append(head, f.Body...))
	g := *f
	g.Body = bytes.Clone(f.Body)
	if f.Kind.IsData() {
		if f.Flags != 0 {
			r.add("FuzzUnpack", f, f.Flags, f.Body)
		}
		if err = r.u.Unpack(&g); err == nil && len(g.Body) > 0 {
			r.add("FuzzPack", f, g.Body, 512, uint16(len(g.Body)/2))
		}
	}
	switch f.Kind {
	case wire.Hello:
		_, err = wire.DecodeHello(f.Body)
		r.add("FuzzHello", f, f.Body)
	case wire.Decision:
		_, err = wire.DecodeDecision(f.Body)
		r.add("FuzzDecision", f, f.Body)
	case wire.Heartbeat:
		if len(f.Body) > 0 {
			_, err = wire.DecodeBacklog(f.Body)
			r.add("FuzzBacklog", f, f.Body)
		}
	case wire.Mark:
		if f.Flags == wire.FactSwap {
			_, err = wire.DecodeWait(f.Body)
			r.add("FuzzWait", f, f.Body)
		}
	case wire.Probe:
		_, err = wire.DecodePoints(f.Body)
		r.add("FuzzPoints", f, f.Body)
	case wire.Resync, wire.ReadRequest, wire.ReadReply:
		if err == nil {
			_, _, err = wire.ParseRange(g.Body, DiskBytes)
			r.add("FuzzRange", f, g.Body, int64(DiskBytes))
		}
	case wire.Compare:
		_, err = wire.ParseComparison(f.Body, DiskBytes)
		r.add("FuzzComparison", f, f.Body, int64(DiskBytes))
	case wire.Differs:
		_, _, err = wire.ParseDiffers(f.Body, DiskBytes)
		r.add("FuzzDiffers", f, f.Body, int64(DiskBytes))
	}
	if err != nil {
		r.t.Errorf("kind %d: %v", f.Kind, err)
	}
}

// remote makes a volume lose its data disk, so that its reads go to the peer.
func (r *recorder) remote(seed uint64) {
	p := NewTunedPair(seed, mirror.Sync, r.t.Fatalf, tune(seed))
	defer p.Free()
	p.Net.Tap = r.frame
	p.until("in sync", func() bool { return p.state(0) == mirror.StateInSync })
	p.Load.Left = 60
	p.until("the load ends", func() bool { return p.Load.Done() })
	p.M[0].Data.Dead = true
	p.Load.Left, p.Load.Reads = 60, 80
	p.until("remote", func() bool { return p.state(0) == mirror.StateRemote })
	p.until("the load ends", func() bool { return p.Load.Done() })
	p.M[1].Node.Promote(true)
}

// missing says which kinds of frames and seeds there are none of.
func (r *recorder) missing() (list []string) {
	for k := wire.Hello; k <= wire.Goodbye; k++ {
		if r.kinds[k] == 0 {
			list = append(list, fmt.Sprintf("no frame of kind %d was sent", k))
		}
	}
	for _, want := range []string{"FuzzUnpack/kind4-flags6", "FuzzUnpack/kind8-flags1", "FuzzUnpack/kind8-flags3", "FuzzRange/kind8-flags0", "FuzzPoints/kind2-flags0",
		"FuzzWait/kind11-flags4", "FuzzHead/kind12-flags4", "FuzzBacklog/kind6-flags16", "FuzzComparison/kind16-flags0", "FuzzDiffers/kind17-flags0"} {
		if len(r.seeds[want]) == 0 {
			list = append(list, fmt.Sprintf("no seed for %s, only %v", want, slices.Sorted(maps.Keys(r.seeds))))
		}
	}
	return list
}

// Every frame that real sessions send is taken by its decoder; with -record some of each kind
// become seeds of the decoders' fuzz tests.
func TestSeeds(t *testing.T) {
	if blktest.Raced {
		t.Skip("these histories are the simulation's, and one goroutine: `lab test` lives them without the race detector")
	}
	r := &recorder{t: t, seeds: map[string][]string{}, kinds: map[wire.Kind]int{}}
	tap = r.frame
	defer func() { tap = nil }()
	// What a seed's history sends changes with the code: so many as are needed for every kind.
	for seed := uint64(0); seed < 21 || seed < 300 && len(r.missing()) > 0; seed++ {
		if seed < 100 {
			r.remote(seed)
		}
		if p, err := run(seed, mirror.Sync, seed%3 == 1); err != nil {
			t.Fatal(err)
		} else {
			p.Free()
		}
	}
	for _, m := range r.missing() {
		t.Error(m)
	}
	if !*record {
		return
	}
	old, err := filepath.Glob(corpus + "/*/kind*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range old {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	for id, texts := range r.seeds {
		dir, name, _ := strings.Cut(id, "/")
		if err := os.MkdirAll(filepath.Join(corpus, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for i, text := range texts {
			if err := os.WriteFile(filepath.Join(corpus, dir, fmt.Sprintf("%s-%d", name, i)), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}
