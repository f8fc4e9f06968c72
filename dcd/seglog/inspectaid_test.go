package seglog

import (
	"hash/crc32"
	"strings"
	"testing"
)

// What recovery believes beside the segments is checked, too: each summary page against the segments,
// and each page of the dirty map.
func TestCheckReadsSummariesAndDirtyMap(t *testing.T) {
	w, dev, l := longLog(t)
	ticket := l.dirty.Begin(Point{LSN: 1})
	l.dirty.Mark(0, 1<<20)
	l.dirty.Mark(1<<29, 4096)
	for l.Kick(w.Time()); w.Step(); l.Kick(w.Time()) {
	}
	if len(l.sums.pages) < 5 || l.Updated() < ticket || !l.dirty.Durable() {
		t.Fatalf("%d pages, superblock %d of %d, map durable: %v", len(l.sums.pages), l.Updated(), ticket, l.dirty.Durable())
	}
	whole := append([]byte(nil), dev.Bytes()...)
	page := func(b []byte, i int) []byte {
		p := l.sums.pages[i]
		return b[l.super.CheckpointOffset+int64(p.at):][:p.bytes]
	}
	seal := func(p []byte) {
		le.PutUint32(p[4:], 0)
		le.PutUint32(p[4:], crc32.Checksum(p, crcTab))
	}
	last := len(l.sums.pages) - 1
	for _, x := range []struct {
		name   string
		damage func(b []byte)
		bad    bool
		text   string // "": nothing is found
	}{
		{"whole", func([]byte) {}, false, ""},
		{"a page", func(b []byte) { page(b, 2)[100] ^= 1 }, true, "of the summaries is damaged"},
		{"the head of a page", func(b []byte) { clear(page(b, 2)[:64]) }, true, "of the summaries is damaged"},
		{"the first page", func(b []byte) { page(b, 0)[100] ^= 1 }, true, "page at byte 0 of the summaries is damaged"},
		{"the last page", func(b []byte) { page(b, last)[100] ^= 1 }, false, "torn, or damaged"},
		{"a page that lies of a header", func(b []byte) { p := page(b, 3); p[sumHeader+12] ^= 1; seal(p) }, true, "recovery would believe it"},
		{"a page that says too much", func(b []byte) { p := page(b, 3); le.PutUint32(p[12:], 5000); seal(p) }, true, "the summary of segments"},
		{"the map's head", func(b []byte) { b[l.super.DirtyOffset+30] ^= 1 }, true, "good for no peer"},
		{"bits of the map", func(b []byte) { b[l.super.DirtyOffset+dirtyPage+20] ^= 1 }, true, "page 1 of the dirty map is damaged"},
	} {
		b := append([]byte(nil), whole...)
		x.damage(b)
		d := dev.Crash()
		d.Restore(b)
		var found []Finding
		sum, err := Check(d, w.Drive, func(f Finding) { found = append(found, f) })
		if err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		if x.text == "" != (len(found) == 0) || len(found) > 0 && (found[0].Bad != x.bad || !strings.Contains(found[0].Text, x.text)) || len(found) > 1 {
			t.Errorf("%s: %+v", x.name, found)
		}
		if x.text == "" && (sum.SummaryPages != last+1 || sum.Summarized != int(l.sums.pages[last].last) || sum.DirtyMapPages < 2 || sum.PeerLacksBytes != l.dirty.Bytes()) {
			t.Errorf("%+v, of %d pages", sum, last+1)
		}
	}
}
