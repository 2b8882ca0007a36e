package volumes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/log"

	"github.com/kata-cc/kata-cc/volumes"
)

// BenchmarkUpdate: from the kubelet's rename to the guest's, ten files.
func BenchmarkUpdate(b *testing.B) {
	if err := log.SetLevel("error"); err != nil {
		b.Fatal(err)
	}
	defer log.SetLevel("info")
	g, c := startGuest(b)
	k := newKubelet(b)
	files := map[string]string{}
	write := func(n int) {
		for i := range 10 {
			files[fmt.Sprint("key", i)] = fmt.Sprintln("revision", n)
		}
		k.write(files)
	}
	write(0)
	s := newSet(b, c, volumes.DefaultLimits)
	to := filepath.Join(g.dir, "v")
	_, err := s.Add(b.Context(), k.dir, to)
	must(b, err)
	n := 0
	for b.Loop() {
		n++
		write(n)
		for link, _ := os.Readlink(to + "/..data"); link != k.old; link, _ = os.Readlink(to + "/..data") {
			time.Sleep(50 * time.Microsecond)
		}
	}
}

// BenchmarkCopy: small files and large ones to the guest agent's own code.
func BenchmarkCopy(b *testing.B) {
	for name, c := range map[string]struct{ files, size int }{"200x1KiB": {200, 1 << 10}, "1x64MiB": {1, 64 << 20}} {
		b.Run(name, func(b *testing.B) {
			g, copies := startGuest(b)
			src := b.TempDir()
			for i := range c.files {
				must(b, os.WriteFile(filepath.Join(src, fmt.Sprint(i)), make([]byte, c.size), 0o644))
			}
			s := newSet(b, copies, volumes.DefaultLimits)
			b.SetBytes(int64(c.files * c.size))
			for b.Loop() {
				to := filepath.Join(g.dir, "v")
				_, err := s.Add(b.Context(), src, to)
				must(b, err)
				s.Remove(to)
			}
		})
	}
}
