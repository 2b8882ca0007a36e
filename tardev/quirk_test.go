package tardev

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// Each quirk of the format that docs/tardev-format.md tells has its test here.

func TestQuirkRoot(t *testing.T) {
	fsys := open(t, rawTar(member0("./", '5', withMode("0000755")), member0("a", '0')))
	root, _ := fsys.Inode(RootIno)
	if root.Mode != modeDir|0o555 || root.UID != 0 || root.Mtime != 0 {
		t.Errorf("root %+v", root)
	}
	wantList(t, fsys, `a 100644 ""`)
}

func TestQuirkTypes(t *testing.T) {
	device := func(h *header) { copy(h[329:], "0000007\x000000012\x00") }
	old := func(h *header) { clear(h[257:345]) }
	fsys := open(t, rawTar(
		member0("nul", 0), member0("dir", '5'), member0("fifo", '6'), member0("char", '3', device),
		member0("block", '4', device), member0("link", '2', withLink("dir")),
		member0("contiguous", '7'), member0("global", 'g'), member0("solaris", 'X'),
		member0("old-device", '3', old), member0("old-file", '0', old),
		member0("mode", '0', withMode("what   \x00")),
		member0("mode256", '0', withMode("\x80\x00\x00\x00\x00\x00\x01\xa4")),
		member0("slash/", '0'),
	))
	wantList(t, fsys, "block 60644 7:10", "char 20644 7:10", "dir 40644", "fifo 10644",
		"link 120644 -> dir", `nul 100644 ""`, `old-file 100644 ""`, `slash 100644 ""`)
}

func TestQuirkOnlyPermissionBits(t *testing.T) {
	var lost []string
	blob := rawTar(member0("su", '0', withMode("0107755")))
	_, err := Build(t.Context(), io.Discard, bytes.NewReader(blob), BuildOptions{
		Lost: func(path, what string) { lost = append(lost, path+": "+what) }})
	if err != nil || !slices.Equal(lost, []string{"su: setuid", "su: setgid", "su: sticky bit"}) {
		t.Errorf("lost %q, error %v", lost, err)
	}
	wantList(t, open(t, blob), `su 100755 ""`)
}

func TestQuirkOwnerAndTimeComeFromTheHeader(t *testing.T) {
	fsys := open(t, rawTar(
		pax("uid=5", "gid=6", "mtime=7.5"),
		member0("a", '0', func(h *header) {
			copy(h[108:116], "\x80\x00\x00\x01\x00\x00\x00\x02")                     // truncated to 32 bits
			copy(h[116:124], "what")                                                 // 0
			copy(h[136:148], "\x80\x00\x00\x00\x00\x00\x00\xff\x01\x02\x03\x04\x05") // 36 bits are kept
		})))
	info, err := fsys.Stat("a")
	if err != nil {
		t.Fatal(err)
	}
	n := info.Sys().(*Inode)
	if n.UID != 2 || n.GID != 0 || n.Mtime != 0xf01020304 {
		t.Errorf("inode %+v", n)
	}
}

func TestQuirkPaths(t *testing.T) {
	fsys := open(t, rawTar(
		member0("/abs//x/./y/../z", '0'), member0("abs", '5'),
		member0("d", '5'), member0("/d//./f", '0'), member0("d/x/../g", '0'),
		member0("../out", '0'), member0("d/../../out", '0')))
	// The directory abs came after its children, and d/x/.. left no trace.
	wantList(t, fsys, "abs 40644", "d 40644", `d/f 100644 ""`, `d/g 100644 ""`)
}

func TestQuirkPrefixCountsInUSTAROnly(t *testing.T) {
	prefix := func(h *header) { copy(h[345:], "p") }
	gnu := func(h *header) { copy(h[257:], "ustar  \x00") }
	fsys := open(t, rawTar(member0("p", '5'), member0("a", '0', prefix), member0("b", '0', prefix, gnu)))
	wantList(t, fsys, `b 100644 ""`, "p 40644", `p/a 100644 ""`)
}

func TestQuirkWhiteouts(t *testing.T) {
	fsys := open(t, rawTar(
		member0("new", '5'), member0("new/.wh.gone", '0'),
		withData("file", '0', "data", withMode("0000640")), member0(".wh.file", '0'),
		member0("tree", '5'), member0("tree/a", '0'), member0(".wh.tree", '2', withLink("any")),
		member0("back", '5'), member0(".wh.back", '0'), member0("back", '0'),
		member0(".wh.linked", '1', withLink("back")),
	))
	wantList(t, fsys, `back 100644 ""`, "file 20640 0:0", "linked 20000 0:0", "new 40644", "new/gone 20000 0:0", "tree 20644 0:0")
}

func TestQuirkOpaque(t *testing.T) {
	fsys := open(t, rawTar(
		member0("kept", '5'), member0("kept/.wh..wh..opq", '0'), member0("kept/a", '0'),
		member0("lost/.wh..wh..opq", '0'), member0("lost", '5'),
		member0(".wh..wh..opq", '0')))
	wantList(t, fsys, "/ opaque", "kept 40644 opaque", `kept/a 100644 ""`, "lost 40644")
}

func TestQuirkNamesThatOnlyWhiteoutsMake(t *testing.T) {
	fsys := open(t, rawTar(member0(".wh.", '0'), member0(".wh..", '0'), member0(".wh...", '0'), member0("a", '0')))
	wantList(t, fsys, " 20000 0:0", ". 20000 0:0", ".. 20000 0:0", `a 100644 ""`)
	entries, err := fsys.ReadDir(".")
	if err != nil || len(entries) != 1 || entries[0].Name() != "a" {
		t.Errorf("ReadDir %v, error %v", entries, err)
	}
}

func TestQuirkLaterEntryReplaces(t *testing.T) {
	fsys := open(t, rawTar(
		withData("a", '0', "one"), withData("a", '0', "two"),
		member0("d", '5'), member0("d/x", '0'), member0("d", '5'),
		member0("e", '0'), member0("e/child-of-a-file", '0')))
	wantList(t, fsys, `a 100644 "two"`, "d 40644", `e 100644 ""`)
}

func TestQuirkImpliedParentsHaveNoType(t *testing.T) {
	fsys := open(t, rawTar(member0("no/where", '0'), member0("a", '0')))
	wantList(t, fsys, `a 100644 ""`, "no 0")
	if fsys.Inodes() != 3 {
		t.Errorf("%d inodes: what is below a node without a type is not written", fsys.Inodes())
	}
}

func TestFilesThatTheIndexCannotReachAreTold(t *testing.T) {
	var lost []string
	blob := rawTar(
		member0("implied/deeper/f", '0'), member0("implied/g", '0'),
		member0("file", '0'), member0("file/below", '0'),
		member0("late/f", '0'), member0("late", '5'),
		member0("dir", '5'), member0("dir/kept", '0'))
	_, err := Build(t.Context(), io.Discard, bytes.NewReader(blob), BuildOptions{
		Lost: func(path, what string) { lost = append(lost, path+": "+what) }})
	const unreachable = ": the whole entry, whose parent is no directory that the tar names"
	want := []string{
		"late: everything that earlier entries have below it, which this one replaces",
		"file/below" + unreachable, "implied/deeper/f" + unreachable, "implied/g" + unreachable,
	}
	if err != nil || !slices.Equal(lost, want) {
		t.Errorf("lost %q, error %v, want %q", lost, err, want)
	}
	wantList(t, open(t, blob), "dir 40644", `dir/kept 100644 ""`, `file 100644 ""`, "implied 0", "late 40644")
}

// TestHardLinkBelowItself has a file with a name below itself, which a walk that
// did not look would follow for ever.
func TestHardLinkBelowItself(t *testing.T) {
	var lost []string
	blob := rawTar(member0("f", '0'), member0("f/again", '1', withLink("f")), member0("f/x/y", '1', withLink("f")), member0("g", '1', withLink("f")))
	_, err := Build(t.Context(), io.Discard, bytes.NewReader(blob), BuildOptions{
		Lost: func(path, what string) { lost = append(lost, path) }})
	if err != nil || !slices.Equal(lost, []string{"f/again", "f/x/y"}) {
		t.Errorf("lost %q, error %v", lost, err)
	}
	wantList(t, open(t, blob), `f 100644 ""`, `g 100644 ""`)
}

func TestQuirkHardLinks(t *testing.T) {
	fsys := open(t, rawTar(
		withData("z", '0', "data"), member0("a", '1', withLink("./z")), member0("again", '1', withLink("/a")),
		member0("d", '5'), member0("to-dir", '1', withLink("d")), member0("dangling", '1', withLink("d/none")),
		member0("out", '1', withLink("../z"))))
	wantList(t, fsys, `a 100644 "data"`, `again 100644 "data"`, "d 40644", "d/none 0", `z 100644 "data"`)
	a, _ := fsys.Stat("a")
	z, _ := fsys.Stat("z")
	if a.Sys().(*Inode).Ino != z.Sys().(*Inode).Ino || fsys.Inodes() != 4 {
		t.Errorf("a and z are inodes %d and %d of %d", a.Sys().(*Inode).Ino, z.Sys().(*Inode).Ino, fsys.Inodes())
	}
}

func TestQuirkNumbersAreBreadthFirstAndNamesByByte(t *testing.T) {
	fsys := open(t, rawTar(
		member0("b", '5'), member0("b/y", '5'), member0("b/y/deep", '0'), member0("b/x", '0'),
		member0("\xff", '0'), member0("B", '0'), member0("a", '5'), member0("a/q", '0')))
	var order []string
	for ino := uint64(1); ino <= fsys.Inodes(); ino++ {
		n, _ := fsys.Inode(ino)
		if !n.IsDir() {
			continue
		}
		for e := range fsys.Entries(n, 0) {
			order = append(order, fmt.Sprintf("%d %s", e.Ino, e.Name))
		}
	}
	want := []string{"2 B", "3 a", "4 b", "5 \xff", "6 q", "7 x", "8 y", "9 deep"}
	if !slices.Equal(order, want) {
		t.Errorf("got %q, want %q", order, want)
	}
}

func TestQuirkGNULongNames(t *testing.T) {
	long := strings.Repeat("n", 150)
	old := func(h *header) { clear(h[257:265]) }
	fsys := open(t, rawTar(
		withData("././@LongLink", 'L', long+"\x00"), withData("short", '0', "data"),
		withData("././@LongLink", 'K', "target\x00"), member0("k", '2', withLink("other")),
		// In an old header L is an unknown type, and has no effect.
		withData("././@LongLink", 'L', "hidden\x00", old), withData("old", '0', "")))
	wantList(t, fsys, "k 120644 -> target", long+` 100644 "data"`, `old 100644 ""`)
}

func TestQuirkPAX(t *testing.T) {
	t.Run("path, linkpath, size", func(t *testing.T) {
		wantList(t, open(t, rawTar(
			pax("path=long", "linkpath=ignored"), member0("short", '0'),
			pax("linkpath=there"), member0("link", '2', withLink("here")),
			pax("size=5"), pad(append(member0("sized", '0'), "12345"...)))),
			"link 120644 -> there", `long 100644 ""`, `sized 100644 "12345"`)
	})
	t.Run("first of two values", func(t *testing.T) {
		wantList(t, open(t, rawTar(pax("path=one", "path=two"), member0("x", '0'))), `one 100644 ""`)
	})
	t.Run("size of the header goes first", func(t *testing.T) {
		wantList(t, open(t, rawTar(pax("size=512"), withData("x", '0', "12"))), `x 100644 "12"`)
	})
	t.Run("long name goes before path", func(t *testing.T) {
		wantList(t, open(t, rawTar(withData("l", 'L', "gnu\x00"), pax("path=pax"), member0("x", '0'))), `gnu 100644 ""`)
	})
	t.Run("line break in a value", func(t *testing.T) {
		wantList(t, open(t, rawTar(pax("SCHILY.xattr.user.a=1\n2", "path=found"), member0("x", '0'))), `found 100644 ""`)
		wantList(t, open(t, rawTar(pax("SCHILY.xattr.user.a=1\n\n2", "path=lost"), member0("x", '0'))), `x 100644 ""`)
	})
}

func TestQuirkSparseFilesAreSkippedWithTheirExtensions(t *testing.T) {
	extended := func(h *header) { copy(h[257:], "ustar  \x00"); h[482] = 1 }
	more, last := make([]byte, 512), make([]byte, 512)
	more[504] = 1
	data := pad([]byte("sparse data"))
	fsys := open(t, rawTar(slices.Concat(member0("s", 'S', withSize(11), extended), more, last, data), member0("a", '0')))
	wantList(t, fsys, `a 100644 ""`)
}

func TestQuirkSymlinkInTheHeader(t *testing.T) {
	full := strings.Repeat("t", 100)
	fsys := open(t, rawTar(member0("a", '0'), member0("l", '2', withLink(full)), pax("linkpath=same"), member0("m", '2', withLink("same"))))
	wantList(t, fsys, `a 100644 ""`, "l 120644 -> "+full, "m 120644 -> same")
	info, err := fsys.Lstat("l")
	if err != nil || info.Sys().(*Inode).offset != 512+157 {
		t.Errorf("inode %+v, error %v", info.Sys(), err)
	}
}

// TestQuirkSeveralLongSymlinks has two long targets whose order in the tar is not
// that of the tree: positions go by the tree, bytes by the tar.
func TestQuirkSeveralLongSymlinks(t *testing.T) {
	one, two := strings.Repeat("1", 150), strings.Repeat("2", 150)
	fsys := open(t, rawTar(pax("linkpath="+one), member0("z", '2'), pax("linkpath="+two), member0("a", '2')))
	wantList(t, fsys, "a 120644 -> "+one, "z 120644 -> "+two)
}

// TestQuirkReplacedLongSymlink shows names read too early by the length of the
// target that nobody has any more.
func TestQuirkReplacedLongSymlink(t *testing.T) {
	fsys := open(t, rawTar(pax("linkpath="+strings.Repeat("g", 150)), member0("gone", '2'), member0("gone", '0'), member0("a", '0')))
	wantList(t, fsys, `g 100644 ""`, `gggg 100644 ""`)
}

func TestQuirkWhatFollowsTheEndIsKept(t *testing.T) {
	blob := append(rawTar(member0("a", '0')), "trailing bytes"...)
	layer, file := build(t, blob)
	if layer.TarSize != int64(len(blob)) || !bytes.HasPrefix(file, blob) {
		t.Errorf("layer %+v", layer)
	}
	wantList(t, open(t, blob), `a 100644 ""`)
}
