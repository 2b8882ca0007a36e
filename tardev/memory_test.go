package tardev

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kata-cc/kata-cc/verity"
)

// The memory that Build may have resident, all of the process included.
const (
	memoryBase     = 64 << 20
	memoryPerEntry = 200
)

// measured, in the environment of this test program, names the tar of which it
// converts one and prints its peak memory.
const measured = "TARDEV_MEASURED"

func TestMain(m *testing.M) {
	if which := os.Getenv(measured); which != "" {
		peak, err := measure(which)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(peak)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// streamed are tars made as they are read: so many members, each of a header and
// of data.
var streamed = map[string]streamedTar{
	"a file of 4 GiB":             {members: 1, size: 4 << 30},
	"a file of 16 GiB":            {members: 1, size: 16 << 30, bench: true},
	"a million files":             {members: 1_000_000, dirs: 1000, bench: true},
	"a million, half directories": {members: 1_000_000, dirs: 500_000},
	"a million in one directory":  {members: 1_000_000, dirs: 1, bench: true},
	"long names":                  {members: 2_000, long: 20_000},
	"long links":                  {members: 250_000, link: 150},
}

type streamedTar struct {
	members, dirs int
	size          int64
	long, link    int  // length of names, of links
	bench         bool // takes too long for a test
}

// tar returns the tar as a stream.
func (s streamedTar) tar() io.Reader { return &tarStream{streamedTar: s} }

type tarStream struct {
	streamedTar
	made  int    // members
	out   []byte // what is to be read of ready
	ready []byte // the headers of a member
	zeros int64  // of data after them
	h     header
	text  []byte // long name or link
	name  []byte // scratch
}

func (s *tarStream) Read(p []byte) (n int, err error) {
	for n < len(p) {
		switch {
		case len(s.out) > 0:
			took := copy(p[n:], s.out)
			s.out = s.out[took:]
			n += took
		case s.zeros > 0:
			took := min(s.zeros, int64(len(p)-n))
			clear(p[n : n+int(took)])
			s.zeros -= took
			n += int(took)
		case s.made == s.members:
			return n, io.EOF
		default:
			s.next()
			s.made++
		}
	}
	return n, nil
}

// next makes a member and what describes it. It makes no garbage, which would
// count as Build's.
func (s *tarStream) next() {
	i := int64(s.made)
	s.ready = s.ready[:0]
	if n := max(s.long, s.link); n > 0 {
		if s.text == nil {
			s.text = bytes.Repeat([]byte("x"), n)
		}
		text := strconv.AppendInt(s.text[:n], i, 10)
		typeflag := byte('L')
		if s.link > 0 {
			typeflag = 'K'
		}
		s.header("long", -1, typeflag, int64(len(text)))
		s.ready = pad(append(s.ready, text...))
		s.text = text
	}
	switch {
	case s.link > 0:
		s.header("link-", i, '2', 0)
	case s.made < s.dirs:
		s.header("directory-", i, '5', 0)
	case s.dirs > 0:
		s.name = append(strconv.AppendInt(append(s.name[:0], "directory-"...), i%int64(s.dirs), 10), "/file-number-"...)
		s.header(string(s.name), i, '0', 0)
	default:
		s.header("file", -1, '0', s.size)
		s.zeros = s.size
	}
	s.out = s.ready
}

// header appends a header to what is ready; the name ends in number if that is not
// negative.
func (s *tarStream) header(name string, number int64, typeflag byte, size int64) {
	clear(s.h[0:100])
	end := append(s.h[:0], name...)
	if number >= 0 {
		strconv.AppendInt(end, number, 10)
	}
	copy(s.h[100:], "0000644\x000000000\x000000000\x00")
	clear(s.h[124:136])
	s.h[124] = 0x80 // base-256
	binary.BigEndian.PutUint64(s.h[128:], uint64(size))
	copy(s.h[136:], "14637016513\x00")
	s.h[156] = typeflag
	copy(s.h[257:], "ustar  \x00")
	copy(s.h[148:], "        ")
	sum := 0
	for _, b := range s.h {
		sum += int(b)
	}
	for i := range 6 {
		s.h[153-i] = byte('0' + sum>>(3*i)&7)
	}
	s.h[154] = 0
	s.ready = append(s.ready, s.h[:]...)
}

// walkFile opens a layer file and looks at everything in it, two levels deep.
func walkFile(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	sb, err := verity.ReadSuperblock(f, st.Size())
	if err != nil {
		return err
	}
	fsys, err := Open(f, sb.DataSize())
	if err != nil {
		return err
	}
	root, err := fsys.Inode(RootIno)
	if err != nil {
		return err
	}
	seen := uint64(1)
	for d, err := range fsys.Entries(root, 0) {
		if err != nil {
			return err
		}
		n, err := fsys.Lookup(root, d.Name)
		if err != nil {
			return err
		}
		seen++
		for e, err := range fsys.Entries(n, 0) {
			if err != nil {
				return err
			}
			if _, err := fsys.Lookup(n, e.Name); err != nil {
				return err
			}
			seen++
		}
	}
	if seen != fsys.Inodes() {
		return fmt.Errorf("%d of %d inodes were seen", seen, fsys.Inodes())
	}
	return nil
}

// measure converts a tar, or walks a layer file, and returns the peak of this process's resident memory in
// bytes.
func measure(which string) (int64, error) {
	if file, ok := strings.CutPrefix(which, "walk "); ok {
		if err := walkFile(file); err != nil {
			return 0, err
		}
	} else if s, ok := streamed[which]; !ok {
		return 0, fmt.Errorf("no tar %q", which)
	} else if _, err := Build(context.Background(), io.Discard, s.tar(), BuildOptions{}); err != nil {
		return 0, err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/self/status has no VmHWM")
}

// raceDetector says that this program has several times the memory that it needs.
var raceDetector bool

// peak lets a process of its own convert a tar and returns its peak memory.
func peak(t testing.TB, which string) int64 {
	t.Helper()
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("needs /proc")
	}
	if raceDetector {
		t.Skip("needs a build without the race detector")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), measured+"="+which, "GOGC=100", "GOMEMLIMIT=off", "TMPDIR="+t.TempDir())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", which, err, stderr.Bytes())
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestMemoryIsBounded(t *testing.T) {
	for which, s := range streamed {
		if s.bench {
			continue
		}
		t.Run(which, func(t *testing.T) {
			bound := int64(memoryBase + memoryPerEntry*s.members)
			if got := peak(t, which); got > bound {
				t.Errorf("peak is %d MiB, allowed are %d", got>>20, bound>>20)
			} else {
				t.Logf("peak is %d MiB, allowed are %d", got>>20, bound>>20)
			}
		})
	}
}

// peaks are what was measured already, for benchmarks that run several times.
var peaks = map[string]int64{}

// BenchmarkPeakMemory gives the peak resident memory of a process that converts a
// layer, and for many members what each of them costs beyond a layer of one file.
func BenchmarkPeakMemory(b *testing.B) {
	for _, which := range slices.Sorted(maps.Keys(streamed)) { // "a file" first
		s := streamed[which]
		b.Run(which, func(b *testing.B) {
			for b.Loop() {
				if peaks[which] == 0 {
					peaks[which] = peak(b, which)
				}
			}
			b.ReportMetric(float64(peaks[which]>>20), "peak-MiB")
			if base := peaks["a file of 4 GiB"]; s.members > 1 && base > 0 {
				b.ReportMetric(float64(peaks[which]-base)/float64(s.members), "B/member")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
	b.Run("walk a million files", func(b *testing.B) {
		const which = "walk"
		if peaks[which] == 0 {
			file, err := os.Create(filepath.Join(b.TempDir(), "layer"))
			if err != nil {
				b.Fatal(err)
			}
			_, err = Build(b.Context(), file, streamed["a million files"].tar(), BuildOptions{})
			if err = errors.Join(err, file.Close()); err != nil {
				b.Fatal(err)
			}
			peaks[which] = peak(b, "walk "+file.Name())
		}
		for b.Loop() {
			continue // it was measured once
		}
		b.ReportMetric(float64(peaks[which]>>20), "peak-MiB")
		b.ReportMetric(0, "ns/op")
	})
}
