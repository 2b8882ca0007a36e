package tardev

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

func edit(at int, text string) func(*header) { return func(h *header) { copy(h[at:], text) } }

var gnu = edit(257, "ustar  \x00")

func dir(path string) []byte            { return member0(path, '5', withMode("0000755")) }
func reg(path, data string) []byte      { return withData(path, '0', data) }
func hard(path, target string) []byte   { return member0(path, '1', withLink(target)) }
func sym(path, target string) []byte    { return member0(path, '2', withLink(target)) }
func longName(path string) []byte       { return withData("././@LongLink", 'L', path+"\x00", gnu) }
func longTarget(target string) []byte   { return withData("././@LongLink", 'K', target+"\x00", gnu) }
func records(text string) []byte        { return withData("PaxHeaders/x", 'x', text) }
func of(name string, m ...[]byte) nasty { return nasty{name, rawTar(m...)} }

func hardLinkTars() []nasty {
	return []nasty{
		of("hard link, chain", reg("a", "data"), hard("b", "a"), hard("c", "b"), hard("d", "c")),
		of("hard link, before its target", hard("b", "a"), reg("a", "data")),
		of("hard link, to nothing", hard("b", "none/a")),
		of("hard link, to a directory", dir("d"), reg("d/f", "data"), hard("b", "d")),
		of("hard link, to a symbolic link", sym("s", "f"), reg("f", "data"), hard("b", "s")),
		of("hard link, to itself", hard("a", "a"), reg("b", "data"), hard("b", "b")),
		of("hard link, in a circle", hard("a", "b"), hard("b", "a")),
		of("hard link, above the root", reg("a", "data"), hard("b", "../a")),
		of("hard link, absolute and unclean", reg("a", "data"), dir("d"), hard("b", "/./d/..//a")),
		of("hard link, through a symbolic link", dir("d"), reg("d/f", "data"), sym("s", "d"), hard("b", "s/f")),
		of("hard link, to a file replaced later", reg("a", "old"), hard("b", "a"), reg("a", "new")),
		of("hard link, over a directory with children", dir("d"), reg("d/f", "data"), hard("d", "d/f")),
		of("hard link, whiteout of one name", reg("a", "data"), hard("b", "a"), reg(".wh.b", "")),
		of("hard link, to a whiteout", reg(".wh.a", ""), hard("b", "a")),
		of("hard link, without a target", member0("b", '1')),
		of("hard link, with data", reg("a", "data"), withData("b", '1', "other", withLink("a")), reg("c", "next")),
		of("hard link, to an extended path", pax("path="+strings.Repeat("p", 120)), reg("x", "data"), pax("linkpath="+strings.Repeat("p", 120)), hard("b", "x")),
		of("hard link, below its own file", reg("a", "data"), hard("a/b", "a"), hard("a/b/c", "a/b")),
	}
}

func whiteoutTars() []nasty {
	opaque := reg("d/.wh..wh..opq", "")
	return []nasty{
		of("whiteout, of a file before", reg("a", "data"), reg(".wh.a", "")),
		of("whiteout, of a file after", reg(".wh.a", ""), reg("a", "data")),
		of("whiteout, of a directory with children", dir("d"), reg("d/f", "data"), reg(".wh.d", "")),
		of("whiteout, then children", reg(".wh.d", ""), reg("d/f", "data")),
		of("whiteout, then the directory again", dir("d"), reg("d/old", ""), reg(".wh.d", ""), dir("d"), reg("d/new", "")),
		of("whiteout, in a directory that nobody names", reg("d/.wh.a", "")),
		of("whiteout, then its directory", reg("d/.wh.a", ""), dir("d")),
		of("whiteout, twice", reg(".wh.a", ""), reg(".wh.a", "")),
		of("whiteout, of a whiteout", reg(".wh..wh.a", "")),
		of("whiteout, as a directory", dir(".wh.d"), reg(".wh.d/f", "data")),
		of("whiteout, with data and mode", withData(".wh.a", '0', "data", withMode("0104711")), reg("b", "next")),
		of("whiteout, of a name with a slash after", reg(".wh.a/", "")),
		of("whiteout, of nothing and of dots", reg(".wh.", ""), reg(".wh..", ""), reg(".wh...", "")),
		of("whiteout, AUFS directories", dir(".wh..wh.plnk"), dir(".wh..wh.aufs"), reg(".wh..wh.orph", "")),
		of("whiteout, as a device", member0("a", '3', edit(329, "0000000\x000000000\x00"))),
		of("opaque, first", dir("d"), opaque, reg("d/f", "data")),
		of("opaque, last", dir("d"), reg("d/f", "data"), opaque),
		of("opaque, before its directory", opaque, dir("d"), reg("d/f", "data")),
		of("opaque, twice with the directory between", dir("d"), opaque, dir("d"), opaque),
		of("opaque, of the root", reg(".wh..wh..opq", ""), reg("a", "data")),
		of("opaque, of a file", reg("d", "data"), opaque),
		of("opaque, then whiteout of the directory", dir("d"), opaque, reg(".wh.d", "")),
		of("opaque, in a directory that nobody names", opaque),
		of("opaque, a longer name", dir("d"), reg("d/.wh..wh..opqx", "")),
	}
}

func nameTars() []nasty {
	n := func(length int) string { return strings.Repeat("n", length) }
	path := strings.TrimSuffix(strings.Repeat(n(99)+"/", 50), "/")
	var deep [][]byte
	for i := 1; i <= 50; i++ {
		deep = append(deep, longName(path[:i*100-1]), dir("short"))
	}
	return []nasty{
		of("name, of 100 bytes", reg(n(100), "data")),
		of("name, with a prefix of 155", member0(n(100), '0', edit(345, n(155)))),
		of("name, with a prefix of 155 and its directory", pax("path="+n(155)), dir("x"), member0(n(100), '0', edit(345, n(155)))),
		of("name, of 255 bytes", longName(n(255)), reg("short", "data")),
		of("name, of 256 bytes", longName(n(256)), reg("short", "data"), reg("a", "next")),
		of("name, of 4097 bytes", pax("path="+n(4097)), reg("short", "data")),
		of("name, path of 4999 bytes, named at every step", deep...),
		of("name, path of 4999 bytes, not named", pax("path="+path), reg("short", "data")),
		of("name, not UTF-8", reg("\xff\xfe\x80", "data"), pax("path=d\xe9j\xe0"), reg("x", "data")),
		of("name, control characters", reg("line\nbreak\ttab\x1b[31m", "data")),
		of("name, order of bytes", reg("\xc3\xa9", ""), reg("z", ""), reg("Z", ""), reg("~", ""), reg("\x01", ""), reg("a-", ""), reg("a", ""), reg("a.b", "")),
		of("name, NUL in an extended path", pax("path=a\x00b"), reg("short", "data"), reg("c", "next")),
		of("name, line break in an extended path", pax("path=a\nb"), reg("short", "data")),
		of("name, empty", reg("", "data"), pax("path="), reg("short", "data"), longName(""), reg("short", "data"), reg("a", "next")),
		of("link, target of 100 bytes", sym("l", n(100))),
		of("link, target of 101 bytes", longTarget(n(101)), sym("l", "short")),
		of("link, target of 4096 bytes", longTarget(n(4096)), sym("l", "short")),
		of("link, targets out of order", longTarget(n(101)), sym("z", "short"), longTarget(n(102)), sym("a", "short")),
		of("link, targets in order", longTarget(n(101)), sym("a", "short"), longTarget(n(102)), sym("z", "short")),
		of("link, long target replaced", longTarget(n(101)), sym("a", "short"), reg("a", "data"), reg("b", "next")),
		of("link, long target that cannot be reached", longTarget(n(101)), sym("no/where", "short"), reg("b", "next")),
		of("link, without a target", member0("l", '2')),
		of("link, empty extended target", pax("linkpath="), sym("l", "short")),
	}
}

func extendedTars() []nasty {
	sized := func(size string, data int) []byte {
		return slices.Concat(pax("size="+size), pad(append(member0("f", '0'), strings.Repeat("x", data)...)))
	}
	next := reg("next", "next")
	return []nasty{
		of("pax size, the header's is 0", sized("3", 3), next),
		of("pax size, the header's differs", pax("size=512"), reg("f", "1234"), next),
		of("pax size, plus sign and zeros", sized("+003", 3), next),
		of("pax size, negative", sized("-1", 0), next),
		of("pax size, no number", sized("1k", 0), next),
		of("pax size, 2^63", sized("9223372036854775808", 0), next),
		of("pax size, 2^64-1", sized("18446744073709551615", 0), next),
		of("pax size, 2^64", sized("18446744073709551616", 0), next),
		of("pax size, beyond the end", sized("1099511627776", 0), next),
		of("pax size, of a directory", pax("size=512"), dir("d"), next),
		of("pax record, too short", records("5 path=abc\n"), reg("f", ""), next),
		of("pax record, too long", records("500 path=abc\n"), reg("f", ""), next),
		of("pax record, length of 0", records("0 path=abc\n"), reg("f", ""), next),
		of("pax record, negative length", records("-12 path=abc\n"), reg("f", ""), next),
		of("pax record, length of 2^64", records("18446744073709551616 path=abc\n"), reg("f", ""), next),
		of("pax record, no length", records("path=abc\n"), reg("f", ""), next),
		of("pax record, no equals sign", records("9 pathab\n"), reg("f", ""), next),
		of("pax record, no line break", records("11 path=abc"), reg("f", ""), next),
		of("pax record, bytes of all kinds", records("\x00\xff\n\n== =\n"), reg("f", ""), next),
		of("pax record, none", records(""), reg("f", ""), next),
		of("pax header, 1 MiB", pax("comment="+strings.Repeat("c", 1<<20-100), "path=found"), reg("f", ""), next),
		of("pax header, over 1 MiB", pax("comment="+strings.Repeat("c", 1<<20)), reg("f", ""), next),
		of("pax header, says 2^63 bytes", member0("x", 'x', edit(124, "\x80\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00")), next),
		of("pax header, two", pax("path=one"), pax("path=two"), reg("f", "")),
		of("pax header, at the end", next, pax("path=one")),
		of("pax header, global", withData("g", 'g', "13 path=glob\n"), reg("f", ""), next),
		of("pax header, in an old header", withData("x", 'x', "12 path=abc\n", func(h *header) { clear(h[257:345]) }), next),
		of("pax owner and time", pax("uid=7", "gid=8", "mtime=1700000000.25", "atime=1", "uname=u"), reg("f", "")),
		of("pax owner and time as in the header", pax("uid=0", "gid=0", "mtime=5.000"), member0("f", '0', edit(136, "00000000005\x00"))),
		of("pax attributes", pax("SCHILY.xattr.security.capability=\x01\x00\x00\x02", "SCHILY.xattr.user.a=b", "LIBARCHIVE.xattr.user.c=ZA==", "SCHILY.acl.access=user::rw-", "SCHILY.fflags=nodump"), reg("f", "")),
		of("pax attributes, of the root", pax("SCHILY.xattr.user.a=b"), dir("./")),
		of("GNU long name and link", longName("long"), longTarget("target"), sym("short", "other")),
		of("GNU long name, link first", longTarget("target"), longName("long"), sym("short", "other")),
		of("GNU long name, without NUL", withData("L", 'L', "long", gnu), reg("short", "")),
		of("GNU long name, two NULs", withData("L", 'L', "long\x00\x00", gnu), reg("short", "")),
		of("GNU long name, two", longName("one"), longName("two"), reg("short", "")),
		of("GNU long name, at the end", next, longName("one")),
		of("GNU long name, and a path", pax("path=pax"), longName("gnu"), reg("short", "")),
		of("GNU long name, over 1 MiB", longName(strings.Repeat("n", 1<<20)), reg("short", "")),
	}
}

func typeTars() []nasty {
	numbers := func(major, minor string) func(*header) { return edit(329, major+minor) }
	var unknown [][]byte
	for _, c := range "7ADEIMNVXZ\x01\xff" {
		unknown = append(unknown, withData(fmt.Sprintf("type-%x", c), byte(c), "data"))
	}
	return []nasty{
		of("type, devices", member0("c", '3', numbers("0000005\x00", "0000001\x00")), member0("b", '4', numbers("0000010\x00", "0000002\x00"))),
		of("type, device with the largest octal numbers", member0("c", '3', numbers("7777777\x00", "7777777\x00"))),
		of("type, device with base-256 numbers", member0("c", '3', numbers("\x80\x00\x00\x00\x00\x00\x00\x05", "0000001\x00"))),
		of("type, device without numbers", member0("c", '3', numbers("\x00\x00\x00\x00\x00\x00\x00\x00", "0000001\x00")), reg("f", "next")),
		of("type, device with a size", withData("c", '3', "data", numbers("0000005\x00", "0000001\x00")), reg("f", "next")),
		of("type, pipe", member0("p", '6')),
		of("type, pipe with a size", withData("p", '6', "data"), reg("f", "next")),
		of("type, directory with a size", withData("d", '5', "data"), reg("d/f", "next")),
		of("type, symbolic link with a size", withData("l", '2', "data", withLink("f")), reg("f", "next")),
		of("type, file with a slash", reg("f/", "data")),
		of("type, old file with a slash", withData("d/", 0, "")),
		of("type, unknown", append(unknown, reg("f", "next"))...),
		of("type, volume header and dump directory", member0("volume", 'V', gnu), withData("dump", 'D', "Yf\x00\x00", gnu), withData("multi", 'M', "rest", gnu), reg("f", "next")),
		of("mode, set-user-id and others", withData("s", '0', "", withMode("0007777")), member0("t", '5', withMode("0001777"))),
		of("mode, with the type's bits", withData("f", '0', "", withMode("0120644"))),
		of("mode, no number", withData("f", '0', "", withMode("rw-r--r-")), reg("g", "next")),
		of("mode, empty", withData("f", '0', "", withMode("\x00\x00\x00\x00\x00\x00\x00\x00")), reg("g", "next")),
		of("mode, base-256", withData("f", '0', "", withMode("\x80\x00\x00\x00\x00\x00\x01\xa4")), reg("g", "next")),
		of("owner, the largest octal", member0("f", '0', edit(108, "7777777\x007777777\x00"))),
		of("owner, base-256 within 32 bits", member0("f", '0', edit(108, "\x80\x00\x00\x00\xff\xff\xff\xff\x80\x00\x00\x00\xff\xff\xff\xfe"))),
		of("owner, base-256 beyond 32 bits", member0("f", '0', edit(108, "\x80\x00\x00\x01\x00\x00\x00\x05"))),
		of("time, before the epoch", member0("f", '0', edit(136, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"))),
		of("time, beyond 36 bits", member0("f", '0', edit(136, "\x80\x00\x00\x00\x00\x00\x00\x11\x00\x00\x00\x01"))),
		of("time, no number", member0("f", '0', edit(136, "yesterday\x00"))),
	}
}

func duplicateTars() []nasty {
	return []nasty{
		of("duplicate, file over file", reg("a", "one"), reg("a", "two")),
		of("duplicate, file over directory", dir("d"), reg("d/f", "data"), reg("d", "file")),
		of("duplicate, directory over file", reg("d", "file"), dir("d"), reg("d/f", "data")),
		of("duplicate, directory over directory", dir("d"), reg("d/f", "data"), dir("d")),
		of("duplicate, directory after its children", reg("d/f", "data"), dir("d")),
		of("duplicate, link over directory", dir("d"), reg("d/f", "data"), sym("d", "/etc")),
		of("duplicate, through a symbolic link", sym("d", "/etc"), reg("d/passwd", "data")),
		of("duplicate, below a file", reg("f", "data"), reg("f/g", "data")),
		of("duplicate, other spellings", reg("a", "one"), reg("./a", "two"), reg("/a", "three"), reg("b/../a", "four")),
		of("duplicate, the root", dir("./"), dir("/"), dir("."), reg("a", "data"), dir("")),
		of("duplicate, the root as a file", reg(".", "data"), reg("a", "next")),
	}
}

func pathTars() []nasty {
	return []nasty{
		of("path, above the root", reg("../a", ""), reg("a/../../b", ""), reg("../../../../etc/passwd", ""), reg("c", "next")),
		of("path, up and down", dir("d"), reg("d/../a", "data"), reg("d/e/../../b", "data")),
		of("path, absolute", reg("/etc", "data"), reg("//usr", "data")),
		of("path, dots", reg("./a", "data"), reg("././b", "data"), reg("..a", "data"), reg("...", "data")),
		of("path, many slashes", dir("d//"), reg("d////f", "data")),
		of("path, backslash and drive", reg(`C:\windows`, "data")),
		of("path, extended and above the root", pax("path=../../x"), reg("a", "data"), longName("../y"), reg("b", "data")),
	}
}

// sparseTars are files of 1 GiB that are holes but for their end.
func sparseTars() []nasty {
	const end = "the end of a file of 1 GiB"
	old := func(h *header) {
		gnu(h)
		copy(h[386:], "07777777000\x0000000001000\x00") // offset and length of the data
		copy(h[483:], "10000000000\x00")                // the file's size
	}
	more := func(h *header) { old(h); h[482] = 1 }
	extension := make([]byte, tarBlock)
	data := pad([]byte(end))
	next := reg("next", "next")
	return []nasty{
		of("sparse, GNU, one header", member0("s", 'S', withSize(512), old), data, next),
		of("sparse, GNU, with an extension", member0("s", 'S', withSize(512), more), extension, data, next),
		of("sparse, GNU, cut in its extension", member0("s", 'S', withSize(512), more)),
		of("sparse, PAX 0.0", pax("GNU.sparse.size=1073741824", "GNU.sparse.numblocks=1", "GNU.sparse.offset=1073741312", "GNU.sparse.numbytes=512"), withData("s", '0', string(data)), next),
		of("sparse, PAX 0.1", pax("GNU.sparse.size=1073741824", "GNU.sparse.numblocks=1", "GNU.sparse.map=1073741312,512", "GNU.sparse.name=s"), withData("GNUSparseFile.1/s", '0', string(data)), next),
		of("sparse, PAX 1.0", pax("GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=s", "GNU.sparse.realsize=1073741824"),
			withData("GNUSparseFile.1/s", '0', string(pad([]byte("1\n1073741312\n512\n")))+string(data)), next),
	}
}

// truncatedTars are all that are left of a tar that ends at some block.
func truncatedTars() []nasty {
	whole := slices.Concat(dir("d"), reg("d/f", strings.Repeat("x", 1000)), pax("path=p"), reg("f", "data"), longName("l"), sym("k", "d"))
	var tars []nasty
	for at := 0; at <= len(whole); at += tarBlock {
		tars = append(tars, nasty{fmt.Sprintf("truncated, at %d", at), whole[:at]})
	}
	for _, at := range []int{1, 511, 513, 1025, 1600, 2047} {
		tars = append(tars, nasty{fmt.Sprintf("truncated, at %d", at), whole[:at]})
	}
	return tars
}

func brokenTars() []nasty {
	one, two := reg("a", "one"), reg("b", "two")
	signed := member0("\xff\xff", '0')
	sum := 8 * int(' ')
	for i, b := range signed {
		if i < 148 || i >= 156 {
			sum += int(int8(b))
		}
	}
	copy(signed[148:], fmt.Sprintf("%06o\x00 ", sum))
	return []nasty{
		{"empty, no bytes", nil},
		{"empty, one block", make([]byte, 512)},
		{"empty, two blocks", make([]byte, 1024)},
		{"empty, a record", make([]byte, 10240)},
		{"trailing garbage", append(rawTar(one), bytes.Repeat([]byte("garbage "), 100)...)},
		{"trailing tar after the end", append(rawTar(one), rawTar(two)...)},
		{"trailing tar after one block of zeros", slices.Concat(one, make([]byte, 512), two)},
		{"no end", slices.Concat(one, two)},
		{"garbage between members", slices.Concat(one, bytes.Repeat([]byte("garbage "), 64), two)},
		{"garbage first", bytes.Repeat([]byte("garbage "), 128)},
		of("checksum, wrong", one, flipped(two, 0)),
		of("checksum, of signed bytes", signed),
		of("checksum, empty", one, func() []byte { b := bytes.Clone(two); clear(b[148:156]); return b }()),
		of("magic, none", withData("a", '0', "data", func(h *header) { clear(h[257:345]) }), withData("d", '5', "", func(h *header) { clear(h[257:345]) })),
		of("size, no number", one, member0("b", '0', edit(124, "12 bytes\x00"))),
		of("size, negative", one, member0("b", '0', edit(124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))),
		of("size, 2^63 - 1", one, member0("b", '0', edit(124, "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"))),
		of("size, 8 GiB that are not there", one, member0("b", '0', edit(124, "\x80\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00"))),
		of("size, empty", one, member0("b", '0', edit(124, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))),
		of("size, spaces before and after", pad(append(member0("b", '0', edit(124, "         4 \x00")), "data"...))),
	}
}

func compressedBlobs() []nasty {
	tar := rawTar(reg("a", "data"), dir("d"))
	half := len(tar) / 2
	return []nasty{
		{"gzip", zip(tar)},
		{"gzip, two members", append(zip(tar[:half]), zip(tar[half:])...)},
		{"gzip, an empty member", append(zip(tar), zip(nil)...)},
		{"gzip, of gzip", zip(zip(tar))},
		{"gzip, zeros after it", append(zip(tar), make([]byte, 512)...)},
		{"gzip, garbage after it", append(zip(tar), "garbage garbage"...)},
		{"gzip, cut", zip(tar)[:60]},
		{"gzip, cut in its header", zip(tar)[:6]},
		{"gzip, wrong CRC", flipped(zip(tar), -6)},
		{"gzip, wrong length", flipped(zip(tar), -1)},
		{"gzip, of nothing", zip(nil)},
		{"zstd", zst(tar)},
		{"zstd, two frames", append(zst(tar[:half]), zst(tar[half:])...)},
		{"zstd, a skippable frame first", append([]byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}, zst(tar)...)},
		{"zstd, garbage after it", append(zst(tar), "garbage garbage"...)},
		{"zstd, cut", zst(tar)[:60]},
		{"zstd, wrong checksum", flipped(zst(tar), -1)},
		{"zstd, window of 2 GiB", append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8}, make([]byte, 64)...)},
		{"xz", append([]byte("\xfd7zXZ\x00"), make([]byte, 600)...)},
		{"bzip2", append([]byte("BZh91AY&SY"), make([]byte, 600)...)},
	}
}
