package wire

import (
	"fmt"
	"math/bits"

	"github.com/klauspost/compress/zstd"
)

// Unpacker undoes what a Packer did, whatever it is given: it never makes more than MaxBody of it.
type Unpacker struct {
	dec *zstd.Decoder
	buf []byte
}

// Unpack replaces a packed body by what it stands for and clears its flags. The body is valid
// until the next Unpack. What does not come from a Packer is an error.
func (u *Unpacker) Unpack(f *Frame) error {
	if f.Kind == Segment {
		f.Flags &^= FlagOwnSum
	}
	flags, b := f.Flags, f.Body
	switch {
	case flags == 0:
		return nil
	case flags&^flagsPacked != 0:
		return fmt.Errorf("%w: packed in an unknown way, %#x", ErrBody, flags)
	case len(b) < packHead:
		return fmt.Errorf("%w: packed body of %d bytes", ErrBody, len(b))
	}
	size, first := int64(le.Uint32(b)), int64(le.Uint32(b[4:]))
	if size > MaxBody || first > size {
		return fmt.Errorf("%w: packed body of %d bytes with blocks from %d on", ErrTooBig, size, first)
	}
	blocks := int(size-first) / ElideBytes
	var gone []byte // bitmap of what was left out
	left := int(size)
	b = b[packHead:]
	if flags&FlagElided != 0 {
		n := (blocks + 7) / 8
		if len(b) < n {
			return fmt.Errorf("%w: packed body without its bitmap", ErrBody)
		}
		gone, b = b[:n], b[n:]
		count := 0
		for _, x := range gone {
			count += bits.OnesCount8(x)
		}
		if blocks%8 != 0 && gone[n-1]>>(blocks%8) != 0 {
			return fmt.Errorf("%w: packed body leaves out blocks behind its end", ErrBody)
		}
		left -= count * ElideBytes
	}
	if u.buf == nil {
		u.buf = make([]byte, MaxBody)
	}
	out := u.buf[:size:size]
	// What is left comes to the end of out; from there it only moves towards the front.
	if err := u.rest(out[int(size)-left:], b, flags&FlagZstd != 0); err != nil {
		return err
	}
	spread(out, gone, int(first), left)
	f.Flags, f.Body = 0, out
	return nil
}

// rest fills dst with what was not left out.
func (u *Unpacker) rest(dst, b []byte, packed bool) error {
	if !packed {
		if len(b) != len(dst) {
			return fmt.Errorf("%w: packed body with %d bytes instead of %d", ErrBody, len(b), len(dst))
		}
		copy(dst, b)
		return nil
	}
	if u.dec == nil {
		var err error
		if u.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxBody), zstd.WithDecoderMaxWindow(MaxBody), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true)); err != nil {
			return fmt.Errorf("wire: zstd: %w", err)
		}
	}
	got, err := u.dec.DecodeAll(b, dst[:0:len(dst)])
	if err != nil {
		return fmt.Errorf("%w: %v", ErrBody, err)
	}
	if len(got) != len(dst) || len(dst) > 0 && &got[0] != &dst[0] {
		return fmt.Errorf("%w: compressed body with %d bytes instead of %d", ErrBody, len(got), len(dst))
	}
	return nil
}

// spread moves the left bytes at the end of out to their places, and puts zeros between them. The
// place a byte goes to is never behind the one it comes from.
func spread(out, gone []byte, first, left int) {
	from := len(out) - left
	if from == 0 {
		return
	}
	n := copy(out[:first], out[from:])
	from += n
	for at := first; at < len(out); at += ElideBytes {
		if i := (at - first) / ElideBytes; i/8 < len(gone) && gone[i/8]&(1<<(i%8)) != 0 {
			clear(out[at : at+ElideBytes])
			continue
		}
		from += copy(out[at:min(at+ElideBytes, len(out))], out[from:])
	}
}
