package verity

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// image returns blocks blocks of data with tree and superblock, and the root hash.
func image(t testing.TB, blocks int) ([]byte, string) {
	t.Helper()
	data := make([]byte, blocks*BlockSize)
	rand.NewChaCha8([32]byte{byte(blocks)}).Read(data)
	h := NewHasher("")
	for rest := data; len(rest) > 0; { // in pieces that fit no block
		n := min(len(rest), 100_003)
		_, _ = h.Write(rest[:n])
		rest = rest[n:]
	}
	out := bytes.NewBuffer(data)
	sb, root, err := h.Finish(out)
	if err != nil {
		t.Fatal(err)
	}
	if sb.Size() != int64(out.Len()) {
		t.Fatalf("superblock says %d bytes, written were %d", sb.Size(), out.Len())
	}
	return out.Bytes(), root
}

var sizes = []int{1, 2, 127, 128, 129, 1000, 128 * 128, 128*128 + 1}

func TestWhatIsMadeVerifies(t *testing.T) {
	for _, blocks := range sizes {
		file, root := image(t, blocks)
		r := bytes.NewReader(file)
		if err := Verify(t.Context(), r, r.Size(), root); err != nil {
			t.Errorf("%d blocks: %v", blocks, err)
		}
		v, err := NewReader(r, r.Size(), root)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.NewSectionReader(v, 0, v.Size()+10))
		if err != nil || !bytes.Equal(got, file[:blocks*BlockSize]) {
			t.Errorf("%d blocks: read %d bytes, error %v", blocks, len(got), err)
		}
	}
}

func TestClaimedRootIsTheTreesOwn(t *testing.T) {
	for _, blocks := range []int{1, 128, 129, 128*128 + 1} {
		file, root := image(t, blocks)
		got, err := ClaimedRoot(bytes.NewReader(file), int64(len(file)))
		if err != nil || got != root {
			t.Errorf("%d blocks: ClaimedRoot = %q, %v, want %q", blocks, got, err, root)
		}
	}
	if _, err := ClaimedRoot(bytes.NewReader(nil), 0); !errors.Is(err, ErrSuperblock) {
		t.Errorf("of an empty file: %v", err)
	}
}

func TestOneFlippedBitAnywhereIsFound(t *testing.T) {
	file, root := image(t, 129)
	r := bytes.NewReader(file)
	for at := 0; at < len(file)-BlockSize; at += 1789 {
		file[at] ^= 0x10
		if err := Verify(t.Context(), r, r.Size(), root); !errors.Is(err, ErrMismatch) || !strings.HasSuffix(err.Error(), fmt.Sprint(" ", at/BlockSize*BlockSize)) {
			t.Fatalf("offset %d: %v", at, err)
		}
		v, err := NewReader(r, r.Size(), root)
		if err != nil {
			t.Fatal(err)
		}
		// Padding of a hash block is hashed, too.
		if _, err := io.Copy(io.Discard, io.NewSectionReader(v, 0, v.Size())); !errors.Is(err, ErrMismatch) {
			t.Fatalf("offset %d: %v", at, err)
		}
		file[at] ^= 0x10
	}
	other := "0" + root[1:]
	if root[0] == '0' {
		other = "1" + root[1:]
	}
	if err := Verify(t.Context(), r, r.Size(), other); !errors.Is(err, ErrMismatch) {
		t.Errorf("wrong root hash: %v", err)
	}
}

// numbered is data of so many blocks that differ, made when they are read.
type numbered int64

func (n numbered) ReadAt(p []byte, off int64) (int, error) {
	if off%BlockSize != 0 || off+int64(len(p)) > int64(n)*BlockSize {
		return 0, io.ErrUnexpectedEOF
	}
	clear(p)
	for i := 0; i < len(p); i += BlockSize {
		binary.LittleEndian.PutUint64(p[i:], uint64(off)+uint64(i))
	}
	return len(p), nil
}

// layered reads data from one reader and what follows from another.
type layered struct {
	data numbered
	rest *bytes.Reader
}

func (l layered) ReadAt(p []byte, off int64) (int, error) {
	if off < int64(l.data)*BlockSize {
		return l.data.ReadAt(p, off)
	}
	return l.rest.ReadAt(p, off-int64(l.data)*BlockSize)
}

// TestTreeBeyondMemory makes a tree whose lower levels have to go to files, and
// compares every block of it with the data.
func TestTreeBeyondMemory(t *testing.T) {
	const blocks = 2*128*128 + 5
	h := NewHasher(t.TempDir())
	h.keep = 5000
	buf := make([]byte, 1<<20)
	for off := int64(0); off < blocks*BlockSize; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), blocks*BlockSize-off)]
		if _, err := numbered(blocks).ReadAt(buf, off); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Write(buf); err != nil {
			t.Fatal(err)
		}
	}
	var tail bytes.Buffer
	sb, root, err := h.Finish(&tail)
	if err != nil || sb.Size()-sb.DataSize() != int64(tail.Len()) {
		t.Fatalf("%+v, %d bytes, error %v", sb, tail.Len(), err)
	}
	file := layered{blocks, bytes.NewReader(tail.Bytes())}
	if err := Verify(t.Context(), file, sb.Size(), root); err != nil {
		t.Error(err)
	}
}

func TestNoPlaceForTheTree(t *testing.T) {
	h := NewHasher(filepath.Join(t.TempDir(), "none"))
	h.keep = 5000
	_, err := io.Copy(h, io.NewSectionReader(numbered(1024), 0, 1024*BlockSize))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

// TestVeritysetupAgrees lets cryptsetup make the same tree.
func TestVeritysetupAgrees(t *testing.T) {
	program, err := exec.LookPath("veritysetup")
	if err != nil {
		t.Skip("needs veritysetup")
	}
	for _, blocks := range []int{2, 129, 128*128 + 1} {
		file, root := image(t, blocks)
		data, hash := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "hash")
		if err := os.WriteFile(data, file[:blocks*BlockSize], 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), program, "format", "--no-superblock", "--hash", "sha256",
			"--salt", strings.Repeat("00", DigestSize), data, hash).CombinedOutput()
		if err != nil || !strings.Contains(string(out), root) {
			t.Errorf("%d blocks, root hash %s: %v\n%s", blocks, root, err, out)
		}
		tree, err := os.ReadFile(hash)
		if err != nil || !bytes.Equal(tree, file[blocks*BlockSize:len(file)-BlockSize]) {
			t.Errorf("%d blocks: the trees differ, error %v", blocks, err)
		}
	}
}

func TestReadSuperblockRefuses(t *testing.T) {
	good, _ := image(t, 129)
	edit := func(f func(sb []byte)) []byte {
		file := bytes.Clone(good)
		f(file[len(file)-512:])
		return file
	}
	put := binary.LittleEndian
	for name, file := range map[string][]byte{
		"empty":            nil,
		"no whole block":   good[:len(good)-1],
		"zeros":            make([]byte, 4*BlockSize),
		"superblock only":  good[len(good)-BlockSize:],
		"data block size":  edit(func(b []byte) { put.PutUint32(b, 512) }),
		"hash block size":  edit(func(b []byte) { put.PutUint32(b[4:], 1024) }),
		"one block fewer":  edit(func(b []byte) { put.PutUint64(b[8:], 128) }),
		"one block more":   edit(func(b []byte) { put.PutUint64(b[8:], 130) }),
		"no data":          edit(func(b []byte) { put.PutUint64(b[8:], 0) }),
		"all blocks":       edit(func(b []byte) { put.PutUint64(b[8:], ^uint64(0)) }),
		"sum that is odd":  edit(func(b []byte) { put.PutUint64(b[8:], 1<<63) }),
		"longer than said": append(make([]byte, BlockSize), good...),
	} {
		t.Run(name, func(t *testing.T) {
			if sb, err := ReadSuperblock(bytes.NewReader(file), int64(len(file))); !errors.Is(err, ErrSuperblock) {
				t.Errorf("%+v, error %v", sb, err)
			}
		})
	}
}

// TestOneCountFitsADevice tries every count on devices of every size around those
// where the tree gets another block or level: the one that is accepted, if any, is
// that of data and tree which fill the device exactly.
func TestOneCountFitsADevice(t *testing.T) {
	var devices []uint64
	for n := range uint64(400) {
		devices = append(devices, n)
	}
	for _, data := range []uint64{128 * 128, 128*128 + 1, 2 * 128 * 128} {
		exact := data + TreeBlocks(data) + 1
		devices = append(devices, exact-1, exact, exact+1)
	}
	for _, blocks := range devices {
		var raw [16]byte
		binary.LittleEndian.PutUint32(raw[0:], BlockSize)
		binary.LittleEndian.PutUint32(raw[4:], BlockSize)
		device := lastBlock{int64(blocks) * BlockSize, &raw}
		accepted := 0
		for count := range blocks + 3 {
			binary.LittleEndian.PutUint64(raw[8:], count)
			sb, err := ReadSuperblock(device, device.size)
			fits := count > 0 && count+TreeBlocks(count)+1 == blocks
			if (err == nil) != fits || err != nil && !errors.Is(err, ErrSuperblock) {
				t.Fatalf("%d data blocks on %d: %+v, error %v", count, blocks, sb, err)
			}
			if fits {
				accepted++
			}
		}
		for shift := range 64 { // sums that overflow, products that become small
			for _, count := range []uint64{1 << shift, -blocks - 1, 1<<shift + blocks - 2, ^uint64(0) >> shift} {
				binary.LittleEndian.PutUint64(raw[8:], count)
				if _, err := ReadSuperblock(device, device.size); err == nil && count >= blocks {
					t.Fatalf("%d data blocks on %d are accepted", count, blocks)
				}
			}
		}
		if accepted > 1 {
			t.Errorf("a device of %d blocks has %d counts", blocks, accepted)
		}
	}
}

// lastBlock is a device of which the superblock alone can be read.
type lastBlock struct {
	size int64
	raw  *[16]byte
}

func (d lastBlock) ReadAt(p []byte, off int64) (int, error) {
	if off != d.size-512 || len(p) != len(d.raw) {
		return 0, io.ErrUnexpectedEOF
	}
	return copy(p, d.raw[:]), nil
}

func TestParams(t *testing.T) {
	root := "3e180656327e86fa7aa220ff278695f1df2a2679e1aa80e8a454ccf0460c7d39"
	sb := Superblock{BlockSize, BlockSize, 2}
	got, err := sb.Params("/dev/vda", root)
	want := "1 /dev/vda /dev/vda 4096 4096 2 2 sha256 " + root + " 0000000000000000000000000000000000000000000000000000000000000000"
	if err != nil || got != want {
		t.Errorf("got %q, error %v", got, err)
	}
	for _, bad := range []struct{ device, root string }{
		{"", root}, {"/dev/a b", root}, {"/dev/vda", ""}, {"/dev/vda", root[1:]}, {"/dev/vda", strings.ToUpper(root)}, {"/dev/vda", root + " "},
	} {
		if _, err := sb.Params(bad.device, bad.root); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// FuzzReadSuperblock: what is accepted fills the device.
func FuzzReadSuperblock(f *testing.F) {
	file, _ := image(f, 3)
	f.Add(file[len(file)-512:], uint16(5))
	f.Fuzz(func(t *testing.T, sb []byte, blocks uint16) {
		file := make([]byte, int(blocks%1024)*BlockSize)
		if len(file) > 0 {
			copy(file[len(file)-512:], sb)
		}
		s, err := ReadSuperblock(bytes.NewReader(file), int64(len(file)))
		if err == nil && (s.Size() != int64(len(file)) || s.DataSize() <= 0 || s.DataSize() >= s.Size()) {
			t.Errorf("%+v for %d bytes", s, len(file))
		}
	})
}

// FuzzVerify: no change of data or tree verifies.
func FuzzVerify(f *testing.F) {
	f.Add(uint32(0), byte(1))
	f.Fuzz(func(t *testing.T, at uint32, bits byte) {
		file, root := image(t, 130)
		protected := len(file) - BlockSize
		file[int(at)%protected] ^= bits
		r := bytes.NewReader(file)
		if err := Verify(t.Context(), r, r.Size(), root); (err == nil) != (bits == 0) {
			t.Errorf("offset %d, bits %#x: %v", at, bits, err)
		}
	})
}

func BenchmarkHash(b *testing.B) {
	data := make([]byte, 64<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		_, _ = NewHasher("").Write(data)
	}
}

func BenchmarkVerify(b *testing.B) {
	file, root := image(b, 64<<20/BlockSize)
	r := bytes.NewReader(file)
	b.SetBytes(r.Size())
	for b.Loop() {
		if err := Verify(b.Context(), r, r.Size(), root); err != nil {
			b.Fatal(err)
		}
	}
}
