package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/kata-cc/kata-cc/tardev"
)

// run runs the program and returns what it printed.
func run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = command(strings.NewReader(""), &out, &errs).Run(t.Context(), append([]string{"tardev"}, args...))
	return out.String(), errs.String(), err
}

func mustRun(t *testing.T, args ...string) (stdout, stderr string) {
	t.Helper()
	stdout, stderr, err := run(t, args...)
	if err != nil {
		t.Fatalf("tardev %v: %v", args, err)
	}
	return stdout, stderr
}

// blob is a gzip'ed tar of the headers, each regular file with its name as its
// content.
func blob(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			io.WriteString(w, h.Name)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func exampleBlob(t *testing.T) []byte {
	return blob(t,
		tar.Header{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o750},
		tar.Header{Name: "dir/a", Typeflag: tar.TypeReg, Mode: 0o4755},
		tar.Header{Name: "dir/b", Typeflag: tar.TypeLink, Linkname: "dir/a"},
		tar.Header{Name: "outside", Typeflag: tar.TypeSymlink, Linkname: "../../etc/passwd"},
		tar.Header{Name: "dir/.wh.gone", Typeflag: tar.TypeReg},
	)
}

// layerFrom builds a layer file and returns its path and root hash.
func layerFrom(t *testing.T, blob []byte) (file, rootHash, stderr string) {
	t.Helper()
	dir := t.TempDir()
	src := filepath.Join(dir, "blob")
	if err := os.WriteFile(src, blob, 0o600); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "layer")
	out, stderr := mustRun(t, "build", src, file)
	for line := range strings.Lines(out) {
		if hash, ok := strings.CutPrefix(line, "root hash"); ok {
			rootHash = strings.TrimSpace(hash)
		}
	}
	return file, rootHash, stderr
}

func TestBuildVerifyInspect(t *testing.T) {
	file, hash, stderr := layerFrom(t, exampleBlob(t))
	if want := "warning: \"dir/a\" loses setuid\n"; stderr != want {
		t.Errorf("warned %q, want %q", stderr, want)
	}
	if out, _ := mustRun(t, "verify", "--root-hash", hash, file); !strings.Contains(out, hash) {
		t.Errorf("verify printed %q", out)
	}
	out, _ := mustRun(t, "inspect", file)
	for _, want := range []string{hash, `"dir/a"`, `"dir/b"`, `"outside" -> "../../etc/passwd"`, `"dir/gone"  whiteout`, "lost of \"dir/a\": setuid\n1 losses"} {
		if !strings.Contains(out, want) {
			t.Errorf("inspect lacks %s:\n%s", want, out)
		}
	}
}

func TestVerifyFindsAFlippedBitAndNeedsAHash(t *testing.T) {
	file, hash, _ := layerFrom(t, exampleBlob(t))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text[600] ^= 1
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := run(t, "verify", "--root-hash", hash, file); err == nil || !strings.Contains(err.Error(), "mismatch") {
		t.Errorf("verify of a changed file: %v", err)
	}
	if _, _, err := run(t, "verify", file); err == nil || !strings.Contains(err.Error(), "root hash") {
		t.Errorf("verify without a root hash: %v", err)
	}
	if _, _, err := run(t, "extract", "--root-hash", hash, file, filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("extract took a changed file")
	}
}

func TestBuildThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "blob")
	if err := os.WriteFile(src, exampleBlob(t)[:60], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := run(t, "build", src, filepath.Join(dir, "layer")); err == nil || !strings.Contains(err.Error(), src) {
		t.Errorf("build of half a blob: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left are %v", left)
	}
}

func TestExtract(t *testing.T) {
	file, hash, _ := layerFrom(t, exampleBlob(t))
	dir := filepath.Join(t.TempDir(), "x")
	mustRun(t, "extract", "--root-hash", hash, file, dir)
	a, err := os.Stat(filepath.Join(dir, "dir/a"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.Stat(filepath.Join(dir, "dir/b"))
	if err != nil || !os.SameFile(a, b) {
		t.Errorf("a and its hard link are two files: %v", err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "dir/b")); err != nil || string(text) != "dir/a" {
		t.Errorf("content is %q, %v", text, err)
	}
	if a.Mode() != 0o755 {
		t.Errorf("mode is %v", a.Mode())
	}
	if d, err := os.Stat(filepath.Join(dir, "dir")); err != nil || d.Mode().Perm() != 0o750 {
		t.Errorf("directory is %v, %v", d.Mode(), err)
	}
	if target, err := os.Readlink(filepath.Join(dir, "outside")); err != nil || target != "../../etc/passwd" {
		t.Errorf("link leads to %q, %v", target, err)
	}
	if _, stderr := mustRun(t, "extract", file, filepath.Join(t.TempDir(), "unchecked")); !strings.Contains(stderr, "not checked") {
		t.Errorf("extract without a root hash said %q", stderr)
	}
	if _, _, err := run(t, "extract", file, dir); err == nil {
		t.Error("extract wrote into a directory that was there")
	}
}

// TestDirectoryWithTwoNamesIsRefused has a layer of whose directories each has the
// next under two names: that would be more paths than anybody can wait for.
func TestDirectoryWithTwoNamesIsRefused(t *testing.T) {
	file, _, _ := layerFrom(t, blob(t,
		tar.Header{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "b/", Typeflag: tar.TypeDir, Mode: 0o755}))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	inodes := binary.LittleEndian.Uint64(text[8192-512:])
	copy(text[inodes+3*32+32:][:8], text[inodes+3*32:][:8]) // entry b is the inode of a
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "x")
	for _, args := range [][]string{{"inspect", file}, {"extract", file, dir}} {
		if _, _, err := run(t, args...); !errors.Is(err, tardev.ErrCorrupt) || !strings.Contains(err.Error(), "a and b are one directory") {
			t.Errorf("tardev %v: %v", args, err)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("extract left its directory")
	}
}

// goldenTar is a layer of one empty file whose diff id and root hash are known.
func goldenTar() []byte {
	b := make([]byte, 1536)
	for at, text := range map[int]string{
		0: "LAYER_2", 100: "0000644", 108: "0000000", 116: "0000000", 124: "00000000000",
		136: "14637016513", 156: "0", 257: "ustar", 263: "00", 329: "0000000", 337: "0000000",
	} {
		copy(b[at:], text)
	}
	sum := 8 * int(' ')
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], []byte{byte('0' + sum>>15&7), byte('0' + sum>>12&7), byte('0' + sum>>9&7), byte('0' + sum>>6&7), byte('0' + sum>>3&7), byte('0' + sum&7), 0, ' '})
	return b
}

const (
	goldenDiffID = "sha256:ed328a6cc2d48369c6c566dd144f55455c40934abe2a7ec4395dd08af7402df7"
	goldenHash   = "3e180656327e86fa7aa220ff278695f1df2a2679e1aa80e8a454ccf0460c7d39"
)

func goldenImage(t *testing.T) v1.Image {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(goldenTar())), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestLayerCache(t *testing.T) {
	image := goldenImage(t)
	dir := filepath.Join(t.TempDir(), "layout")
	if _, err := layout.Write(dir, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: image})); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New())
	defer server.Close()
	reference := strings.TrimPrefix(server.URL, "http://") + "/example:1"
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	other := cacheEntry{DiffID: "sha256:" + strings.Repeat("ab", 32), VerityHash: strings.Repeat("cd", 32)}
	for source, from := range map[string]string{"layout": dir, "registry": reference} {
		t.Run(source, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "cache.json")
			if err := writeCache(file, []cacheEntry{other}); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second run finds everything there
				out, _ := mustRun(t, "layer-cache", "-o", file, "--insecure", from)
				if want := goldenDiffID + "  " + goldenHash + "\n"; out != want {
					t.Errorf("printed %q, want %q", out, want)
				}
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var entries []cacheEntry
			if err := json.Unmarshal(text, &entries); err != nil {
				t.Fatal(err)
			}
			if want := []cacheEntry{other, {goldenDiffID, goldenHash}}; len(entries) != 2 || entries[0] != want[0] || entries[1] != want[1] {
				t.Errorf("cache has %v, want %v", entries, want)
			}
		})
	}
}

func TestLayerCacheRefuses(t *testing.T) {
	dir := t.TempDir()
	cache := filepath.Join(dir, "cache.json")
	if err := os.WriteFile(cache, []byte(`[{"diff_id":"sha256:x","verity_hash":"y"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"no pair of a diff id": {"-o", cache, dir},
		"neither a directory":  {"-o", filepath.Join(dir, "new"), "Not An Image"},
		"OCI image layout":     {"-o", filepath.Join(dir, "new"), dir},
		"platform":             {"-o", filepath.Join(dir, "new"), "--platform", "a/b/c/d", dir},
		"want IMAGE|OCI-DIR":   {},
	} {
		_, _, err := run(t, append([]string{"layer-cache"}, args...)...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("layer-cache %v: %v, want %q", args, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); err == nil {
		t.Error("a refused run wrote a cache")
	}
}

// FuzzParseCache: what is taken is written and read back the same.
func FuzzParseCache(f *testing.F) {
	f.Add([]byte(`[{"diff_id":"` + goldenDiffID + `","verity_hash":"` + goldenHash + `"}]`))
	f.Add([]byte(`[]`))
	f.Add([]byte(`[{"diff_id":null}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, err := parseCache("fuzzed", text)
		if err != nil {
			return
		}
		again, err := json.Marshal(entries)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseCache("again", again); err != nil && len(entries) > 0 {
			t.Errorf("what was taken is refused: %v", err)
		}
	})
}
