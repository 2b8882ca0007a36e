package image

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/kata-cc/kata-cc/guest/image/debian"
)

func packaged(path string, data []byte) debian.File {
	return debian.File{Package: debian.Package{Name: "test", Version: "1"}, Path: path, Mode: 0o755, Data: data}
}

func libraryFiles(t *testing.T) map[string]debian.File {
	files := map[string]debian.File{}
	for _, f := range []debian.File{
		packaged("/lib/x86_64-linux-gnu/libc.so.6", program(t, "", "ld-linux-x86-64.so.2")),
		packaged("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", program(t, "")),
		packaged("/usr/lib/x86_64-linux-gnu/libdeep.so.1.2", program(t, "", "libc.so.6")),
		packaged("/usr/lib/x86_64-linux-gnu/libtop.so.3", program(t, "", "libdeep.so.1", "libc.so.6")),
		packaged("/usr/lib/x86_64-linux-gnu/libunused.so.0", program(t, "")),
		{Path: "/usr/lib/x86_64-linux-gnu/libdeep.so.1", Link: "libdeep.so.1.2"},
	} {
		files[f.Path] = f
	}
	return files
}

func TestProgramsBringTheirLibraries(t *testing.T) {
	files := libraryFiles(t)
	tool := packaged("/usr/bin/tool", program(t, "/lib64/ld-linux-x86-64.so.2", "libtop.so.3"))
	tr := tree{}
	if err := tr.addPrograms(files, map[string]debian.File{"/usr/bin/tool": tool}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, name := range slices.Sorted(maps.Keys(tr)) {
		if n := tr[name]; !n.Mode.IsDir() {
			got = append(got, name)
		}
	}
	want := []string{
		"/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
		"/lib/x86_64-linux-gnu/libc.so.6",
		"/lib/x86_64-linux-gnu/libdeep.so.1",
		"/lib/x86_64-linux-gnu/libtop.so.3",
		"/lib64/ld-linux-x86-64.so.2",
		"/usr/bin/tool",
	}
	if !slices.Equal(got, want) {
		t.Errorf("files are\n%q, want\n%q", got, want)
	}
	if target := string(tr["/lib64/ld-linux-x86-64.so.2"].Data); target != "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" {
		t.Errorf("the dynamic linker is a link to %q", target)
	}
}

func TestMissingLibraryNamesItAndWhoNeedsIt(t *testing.T) {
	files := libraryFiles(t)
	delete(files, "/usr/lib/x86_64-linux-gnu/libdeep.so.1")
	_, _, err := closure(files, packaged("/usr/bin/tool", program(t, "", "libtop.so.3")))
	if err == nil || !strings.Contains(err.Error(), "libtop.so.3 needs library libdeep.so.1") {
		t.Errorf("error is %v", err)
	}
}

func TestAgentMustBeStatic(t *testing.T) {
	for name, agent := range map[string][]byte{
		"a script":         []byte("#!/bin/sh\n"),
		"a dynamic linker": program(t, "/lib64/ld-linux-x86-64.so.2"),
		"a library":        program(t, "", "libc.so.6"),
	} {
		if err := checkStatic("agent", agent); err == nil {
			t.Errorf("%s: taken as agent", name)
		}
	}
	if err := checkStatic("agent", program(t, "")); err != nil {
		t.Errorf("a static program: %v", err)
	}
}

func FuzzLinkage(f *testing.F) {
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, interpreter, err := linkage(data)
		if err == nil && len(interpreter) > 4096 {
			t.Errorf("a dynamic linker's path of %d bytes", len(interpreter))
		}
	})
}
