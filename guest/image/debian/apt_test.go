package debian

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// archive is a Debian archive of one suite on the local disk, which the real
// apt reads through a file: source.
type archive struct {
	t    *testing.T
	root string // URI without its scheme
	etc  string // an apt configuration directory that leads to it
}

func newArchive(t *testing.T) *archive {
	for _, program := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs " + program)
		}
	}
	a := &archive{t: t, root: t.TempDir(), etc: t.TempDir()}
	a.write(filepath.Join(a.etc, "sources.list"), "deb [trusted=yes] file:"+a.root+" stable main\n")
	return a
}

func (a *archive) write(file, text string) {
	a.t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		a.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		a.t.Fatal(err)
	}
}

// add builds a package of the files and enters it in the index.
func (a *archive) add(name, version, depends string, files map[string]string) {
	a.t.Helper()
	dir := a.t.TempDir()
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: Nobody <nobody@example.com>\nDescription: a test\n", name, version)
	if depends != "" {
		control += "Depends: " + depends + "\n"
	}
	a.write(filepath.Join(dir, "DEBIAN/control"), control)
	for path, text := range files {
		a.write(filepath.Join(dir, path), text)
	}
	pool := filepath.Join("pool", name+"_"+version+"_amd64.deb")
	deb := filepath.Join(a.root, pool)
	if err := os.MkdirAll(filepath.Dir(deb), 0o755); err != nil {
		a.t.Fatal(err)
	}
	if out, err := exec.Command("dpkg-deb", "--build", "--root-owner-group", dir, deb).CombinedOutput(); err != nil {
		a.t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
	sum, err := sumFile(deb)
	if err != nil {
		a.t.Fatal(err)
	}
	info, err := os.Stat(deb)
	if err != nil {
		a.t.Fatal(err)
	}
	a.index(control + fmt.Sprintf("Filename: %s\nSize: %d\nSHA256: %s\n", pool, info.Size(), sum))
}

func (a *archive) index(stanza string) {
	a.t.Helper()
	file := a.indexFile()
	old, _ := os.ReadFile(file)
	a.write(file, string(old)+stanza+"\n")
}

func (a *archive) indexFile() string {
	return filepath.Join(a.root, "dists/testing/main/binary-amd64/Packages")
}

func (a *archive) open(dir string, progress *bytes.Buffer) *Apt {
	a.t.Helper()
	apt, err := Open(Options{Dir: dir, Suite: "testing", Etc: a.etc, Architecture: "amd64", Progress: progress})
	if err != nil {
		a.t.Fatal(err)
	}
	return apt
}

func TestFetchesFromOtherSuiteAndThenFromItsCache(t *testing.T) {
	a := newArchive(t)
	a.add("tool", "1.0", "libtool1 (>= 1), debconf", map[string]string{"usr/bin/tool": "#!tool"})
	a.add("libtool1", "1.0", "libdeep0 | libother0", map[string]string{"usr/lib/x86_64-linux-gnu/libtool.so.1": "tool"})
	a.add("libdeep0", "2:3", "", map[string]string{"usr/lib/x86_64-linux-gnu/libdeep.so.0": "deep"})

	dir := t.TempDir()
	var progress bytes.Buffer
	apt := a.open(dir, &progress)
	packages, err := apt.WithLibraries(t.Context(), "tool")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range packages {
		got = append(got, p.Name+" "+p.Version)
	}
	if want := "libdeep0 2:3,libtool1 1.0,tool 1.0"; strings.Join(got, ",") != want {
		t.Errorf("packages are %q, want %q", got, want)
	}
	file, err := program(t, apt)
	if err != nil {
		t.Fatal(err)
	}
	if string(file.Data) != "#!tool" || file.Path != "/usr/bin/tool" {
		t.Errorf("program is %q at %s", file.Data, file.Path)
	}
	if !strings.Contains(progress.String(), "fetching tool 1.0") {
		t.Errorf("progress says nothing: %q", progress.String())
	}

	if err := os.RemoveAll(a.root); err != nil {
		t.Fatal(err)
	}
	progress.Reset()
	if _, err := program(t, a.open(dir, &progress)); err != nil {
		t.Errorf("without the archive: %v", err)
	}
	if progress.Len() > 0 {
		t.Errorf("fetched again: %s", progress.String())
	}
}

func TestUnknownPackageNamesPackageAndAptsAnswer(t *testing.T) {
	a := newArchive(t)
	a.add("tool", "1.0", "", nil)
	_, err := a.open(t.TempDir(), quiet()).Show(t.Context(), "absent")
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "absent") || !strings.Contains(err.Error(), "E: ") {
		t.Errorf("error is %v", err)
	}
}

// program fetches the package tool and reads its program.
func program(t *testing.T, a *Apt) (File, error) {
	t.Helper()
	packages, err := a.Show(t.Context(), "tool")
	if err != nil {
		return File{}, err
	}
	files, err := a.Open(t.Context(), packages[0], func(name string) bool { return name == "/usr/bin/tool" })
	return files["/usr/bin/tool"], err
}

// quiet takes progress that nobody reads.
func quiet() *bytes.Buffer { return &bytes.Buffer{} }

func TestArchiveThatIsGoneNamesSuite(t *testing.T) {
	a := newArchive(t)
	_, err := a.open(t.TempDir(), quiet()).Show(t.Context(), "tool")
	if err == nil || !strings.Contains(err.Error(), "suite testing") {
		t.Errorf("error is %v", err)
	}
}

func TestRetryTakesTheNewVersionWhenTheOldIsGone(t *testing.T) {
	a := newArchive(t)
	a.add("tool", "1.0", "", map[string]string{"usr/bin/tool": "one"})
	dir := t.TempDir()
	if _, err := a.open(dir, quiet()).Show(t.Context(), "tool"); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{a.indexFile(), filepath.Join(a.root, "pool/tool_1.0_amd64.deb")} {
		if err := os.Remove(gone); err != nil {
			t.Fatal(err)
		}
	}
	a.add("tool", "1.1", "", map[string]string{"usr/bin/tool": "two"})
	apt := a.open(dir, quiet())
	var file File
	err := apt.Retry(t.Context(), func() (err error) {
		file, err = program(t, apt)
		return err
	})
	if err != nil || string(file.Data) != "two" {
		t.Errorf("got %q, %v", file.Data, err)
	}
}

func TestDamagedPackageInTheCacheIsFetchedAgain(t *testing.T) {
	a := newArchive(t)
	a.add("tool", "1.0", "", map[string]string{"usr/bin/tool": "one"})
	apt := a.open(t.TempDir(), quiet())
	packages, err := apt.Show(t.Context(), "tool")
	if err != nil {
		t.Fatal(err)
	}
	file, err := apt.Fetch(t.Context(), packages[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := program(t, apt); err != nil {
		t.Error(err)
	}
}

func TestNoSourceLeadsToSuite(t *testing.T) {
	etc := t.TempDir()
	if err := os.WriteFile(filepath.Join(etc, "sources.list"), []byte("deb http://vendor.example/flat ./\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Options{Dir: t.TempDir(), Suite: "testing", Etc: etc, Architecture: "amd64"})
	if errdefs.IsUnavailable(err) {
		t.Skip("needs apt-get")
	}
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "testing") {
		t.Errorf("error is %v", err)
	}
}

func TestResolve(t *testing.T) {
	files := map[string]File{
		"/lib/a.so":     {Path: "/lib/a.so", Link: "a.so.1"},
		"/lib/a.so.1":   {Path: "/lib/a.so.1", Link: "/opt/../lib/a.so.1.2"},
		"/lib/a.so.1.2": {Path: "/lib/a.so.1.2", Data: []byte("a")},
		"/lib/round":    {Link: "round"},
		"/lib/lost":     {Link: "nowhere"},
	}
	if f, err := Resolve(files, "/lib/a.so"); err != nil || string(f.Data) != "a" {
		t.Errorf("got %+v, %v", f, err)
	}
	if _, err := Resolve(files, "/lib/round"); err == nil || !strings.Contains(err.Error(), "/lib/round") {
		t.Errorf("a link to itself: %v", err)
	}
	if _, err := Resolve(files, "/lib/lost"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a link to nothing: %v", err)
	}
}
