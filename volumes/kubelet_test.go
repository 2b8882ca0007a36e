package volumes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// kubelet writes a volume as the kubelet's atomic writer does.
type kubelet struct {
	t   testing.TB
	dir string
	n   int
	old string
}

func newKubelet(t testing.TB) *kubelet {
	k := &kubelet{t: t, dir: filepath.Join(t.TempDir(), "config")}
	if err := os.Mkdir(k.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return k
}

// write makes files the next revision: a new directory, the link, links of new
// keys, then away with the links of old keys and with the old directory.
func (k *kubelet) write(files map[string]string) {
	k.t.Helper()
	k.n++
	revision := fmt.Sprintf("..2026_11_24_10_00_%02d.%09d", k.n%60, k.n)
	check := func(err error) {
		if err != nil {
			k.t.Error(err)
		}
	}
	keys := map[string]bool{}
	check(os.Mkdir(filepath.Join(k.dir, revision), 0o755))
	for name, data := range files {
		file := filepath.Join(k.dir, revision, name)
		check(os.MkdirAll(filepath.Dir(file), 0o755))
		check(os.WriteFile(file, []byte(data), 0o644))
		key, _, _ := strings.Cut(name, "/")
		keys[key] = true
	}
	check(os.Symlink(revision, filepath.Join(k.dir, "..data_tmp")))
	check(os.Rename(filepath.Join(k.dir, "..data_tmp"), filepath.Join(k.dir, "..data")))
	for key := range keys {
		if _, err := os.Lstat(filepath.Join(k.dir, key)); err != nil {
			check(os.Symlink("..data/"+key, filepath.Join(k.dir, key)))
		}
	}
	entries, err := os.ReadDir(k.dir)
	check(err)
	for _, e := range entries {
		if !keys[e.Name()] && !strings.HasPrefix(e.Name(), "..") {
			check(os.Remove(filepath.Join(k.dir, e.Name())))
		}
	}
	if k.old != "" {
		check(os.RemoveAll(filepath.Join(k.dir, k.old)))
	}
	k.old = revision
}
