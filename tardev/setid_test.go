package tardev

import (
	"bytes"
	"fmt"
	"testing"
)

func TestSetIDBitsComeFromTheHeader(t *testing.T) {
	blob := rawTar(
		withData("su", '0', "program", withMode("0104755")),
		withData("wall", 0, "program", withMode("0102755")),
		withData("both", '0', "program", withMode("0107711")),
		withData("plain", '0', "program", withMode("0100755")),
		withData("data", '0', "no program", withMode("0106644")), // set-group-id without execution means something else
		member0("empty", '0', withMode("0104755")),
		member0("hard", '1', withLink("su")),
		pax("size=7"), withData("sized", '0', "program", withMode("0104755"), withSize(7)),
		member0("dir", '5', withMode("0042755")),
	)
	fsys := open(t, blob)
	for name, want := range map[string]uint32{
		"su": 0o4000, "wall": 0o2000, "both": 0o6000, "plain": 0, "data": 0, "empty": 0, "hard": 0o4000, "sized": 0o4000, "dir": 0,
	} {
		if got := setIDOf(t, fsys, name); got != want {
			t.Errorf("%s: %#o, want %#o", name, got, want)
		}
	}
}

// What stands before a file's content is its header only if it fits.
func TestSetIDNeedsTheFilesOwnHeader(t *testing.T) {
	blob := rawTar(withData("su", '0', "program", withMode("0104755")))
	for at, with := range map[int]string{
		148: "0000000\x00", // checksum
		100: "0104711\x00", // another file's permissions
		124: "00000000010\x00",
		156: "5",
	} {
		layer, file := build(t, blob)
		edited := bytes.Clone(file)
		copy(edited[at:], with)
		if at != 148 {
			resum(edited[:tarBlock])
		}
		fsys, err := Open(bytes.NewReader(edited), layer.DataSize)
		if err != nil {
			t.Fatal(err)
		}
		if got := setIDOf(t, fsys, "su"); got != 0 {
			t.Errorf("%q at %d: %#o", with, at, got)
		}
	}
}

func TestSetIDReportsTheDevice(t *testing.T) {
	layer, file := build(t, rawTar(withData("su", '0', "program", withMode("0104755"))))
	fsys, err := Open(bytes.NewReader(file), layer.DataSize)
	if err != nil {
		t.Fatal(err)
	}
	root, _ := fsys.Inode(RootIno)
	n, err := fsys.Lookup(root, "su")
	if err != nil {
		t.Fatal(err)
	}
	fsys.r = bytes.NewReader(nil)
	if _, err := fsys.SetID(n); err == nil {
		t.Error("no error")
	}
}

func setIDOf(t *testing.T, fsys *FS, name string) uint32 {
	t.Helper()
	root, _ := fsys.Inode(RootIno)
	n, err := fsys.Lookup(root, name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	bits, err := fsys.SetID(n)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return bits
}

func resum(h []byte) {
	copy(h[148:], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
}
