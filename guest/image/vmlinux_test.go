package image

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// note is one entry of a PT_NOTE segment.
func note(t *testing.T, owner string, kind uint32) []byte {
	t.Helper()
	var b bytes.Buffer
	name := append([]byte(owner), 0)
	put(t, &b, [3]uint32{uint32(len(name)), 4, kind})
	b.Write(name)
	b.Write(make([]byte, (4-b.Len()%4)%4+4))
	return b.Bytes()
}

func pvhKernel(t *testing.T) []byte {
	return makeELF(t, []segment{{elf.PT_NOTE, append(note(t, "GNU", 3), note(t, "Xen", entryNote)...)}}, nil)
}

// wrap makes a bzImage of a compressed payload.
func wrap(payload []byte) []byte {
	image := make([]byte, 2*512+16, 2*512+16+len(payload))
	image[setupSectors] = 1
	copy(image[headerMagic:], "HdrS")
	binary.LittleEndian.PutUint16(image[protocol:], 0x20f)
	binary.LittleEndian.PutUint32(image[payloadOffset:], 16)
	binary.LittleEndian.PutUint32(image[payloadLength:], uint32(len(payload)))
	return append(image, payload...)
}

// withSize appends the expanded size, as the kernel's build does.
func withSize(payload []byte, size int) []byte {
	return binary.LittleEndian.AppendUint32(payload, uint32(size))
}

func compressed(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	var g, l bytes.Buffer
	zip := gzip.NewWriter(&g)
	if _, err := zip.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	legacy := lz4.NewWriter(&l)
	if err := legacy.Apply(lz4.LegacyOption(true)); err != nil {
		t.Fatal(err)
	}
	if _, err := legacy.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := legacy.Close(); err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{
		"gzip": g.Bytes(),
		"lz4":  withSize(l.Bytes(), len(data)),
		"zstd": withSize(z.EncodeAll(data, nil), len(data)),
	}
	if xz, err := exec.LookPath("xz"); err == nil {
		cmd := exec.Command(xz, "--stdout", "--check=crc32")
		cmd.Stdin = bytes.NewReader(data)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		all["xz"] = withSize(out, len(data))
	}
	return all
}

func TestExtract(t *testing.T) {
	want := pvhKernel(t)
	for name, payload := range compressed(t, want) {
		got, err := extract(t.Context(), wrap(payload))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

func TestExtractRefuses(t *testing.T) {
	kernel := pvhKernel(t)
	good := compressed(t, kernel)["lz4"]
	old := wrap(good)
	binary.LittleEndian.PutUint16(old[protocol:], 0x207)
	lying := bytes.Clone(good)
	binary.LittleEndian.PutUint32(lying[len(lying)-4:], uint32(len(kernel)-1))
	huge := bytes.Clone(good)
	binary.LittleEndian.PutUint32(huge[len(huge)-4:], 1<<31)
	bare := compressed(t, makeELF(t, nil, nil))["lz4"]
	for name, test := range map[string]struct {
		image []byte
		want  string
	}{
		"no kernel":          {[]byte("kernel"), "no bzImage"},
		"old protocol":       {old, "boot protocol 0x207"},
		"cut off":            {wrap(good)[:1100], "lies outside"},
		"unknown format":     {wrap(withSize([]byte("something"), 9)), "is unknown"},
		"size that is wrong": {wrap(lying), "expands to"},
		"size that is huge":  {wrap(huge), "are more than"},
		"no PVH entry":       {wrap(bare), "no PVH entry point"},
	} {
		if _, err := extract(t.Context(), test.image); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, test.want)
		}
	}
}

func FuzzPayload(f *testing.F) {
	f.Add(wrap([]byte("\x02\x21\x4c\x18payload")))
	f.Fuzz(func(t *testing.T, image []byte) {
		p, err := payload(image)
		if err == nil && !bytes.Contains(image, p) {
			t.Errorf("payload %x is not in the image", p)
		}
	})
}

func FuzzXenNotes(f *testing.F) {
	f.Add([]byte("\x04\x00\x00\x00\x04\x00\x00\x00\x12\x00\x00\x00Xen\x00abcd"))
	f.Fuzz(func(t *testing.T, notes []byte) {
		if got := xenNotes(notes); len(got)*16 > len(notes) {
			t.Errorf("%d notes in %d bytes", len(got), len(notes))
		}
	})
}
