package mounts

import (
	"encoding/base64"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

var (
	name1 = strings.Repeat("1a", 32)
	name2 = strings.Repeat("2b", 32)
	hash1 = strings.Repeat("c3", 32)
)

func layerText(name, hash string) string {
	return name + ",tar,ro," + optFile + "," + optIsLayer + "," + optRootHash + hash
}

func encode(text string) string { return optLayer + base64.StdEncoding.EncodeToString([]byte(text)) }

func TestRootfsIsRefusedByName(t *testing.T) {
	const dir = optLayerRoot + "/l"
	one, lower := encode(layerText(name1, hash1)), optLowerdir+name1
	mount := func(options ...string) []Rootfs { return []Rootfs{{TardevType, "/", options}} }
	for _, c := range []struct {
		rootfs []Rootfs
		want   string // in the error; empty: none
	}{
		{mount(dir, one, optRW, lower), ""},
		{mount(dir, one, lower), ""},
		{mount(dir, one, encode(layerText(name2, hash1)), lower+":"+name2), ""},
		{nil, "0 mounts"},
		{append(mount(), mount()...), "2 mounts"},
		{[]Rootfs{{"overlay", "overlay", []string{"lowerdir=/a"}}}, `type "overlay"`},
		{mount(), "no layers"},
		{mount(dir, optRW, optLowerdir), "no layers"},
		{mount(one, dir, lower), "before the directory"},
		{mount(optLayerRoot+"l", one, lower), "clean absolute path"},
		{mount(optLayerRoot+"/l/../etc", one, lower), "clean absolute path"},
		{mount(dir, one, one, lower), "occurs twice"},
		{mount(dir, one, optLowerdir+name2), "does not list"},
		{mount(dir, one, lower, lower), "two options lowerdir"},
		{mount(dir, one), "does not list"},
		{mount(dir, one, lower, "upperdir=/x"), `unknown option "upperdir=/x"`},
		{mount(dir, optLayer+"!", lower), "not base64"},
		{mount(dir, encode(name1+",tar,ro,"+optFile+","+optIsLayer), lower), "layer " + name1 + " has no root hash"},
		{mount(dir, encode(layerText(name1, "")), lower), "layer " + name1 + " has no root hash"},
		{mount(dir, encode(layerText(name1, strings.ToUpper(hash1))), lower), "root hash"},
		{mount(dir, encode(layerText(name1, hash1[:63])), lower), "root hash"},
		{mount(dir, encode(layerText("../"+name1, hash1)), lower), "layer name"},
		{mount(dir, encode(layerText("/"+name1, hash1)), lower), "layer name"},
		{mount(dir, encode(layerText(name1[:62], hash1)), lower), "layer name"},
		{mount(dir, encode(name1), lower), "not of type tar"},
		{mount(dir, encode(strings.Replace(layerText(name1, hash1), ",tar,", ",ext4,", 1)), lower), "not of type tar"},
		{mount(dir, encode(strings.Replace(layerText(name1, hash1), ",ro,", ",rw,", 1)), lower), "options"},
		{mount(dir, encode(layerText(name1, hash1)+",suid"), lower), "options"},
		{mount(dir, encode(layerText(name1, hash1)+","+optRootHash+hash1), lower), "options"},
	} {
		_, err := parseRootfs(c.rootfs)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%v: %v", c.rootfs, err)
		case c.want != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%v: %v, want an invalid argument that says %q", c.rootfs, err, c.want)
		}
	}
}

// FuzzRootfs checks that whatever is accepted names files in the given directory
// only, has a root hash for each, and is listed in lowerdir in the same order.
func FuzzRootfs(f *testing.F) {
	f.Add(optLayerRoot+"/l", encode(layerText(name1, hash1)), optRW, optLowerdir+name1)
	f.Add(optLayerRoot+"/l", encode(layerText("../../etc/passwd", hash1)), optRW, optLowerdir+name1)
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		layers, err := parseRootfs([]Rootfs{{TardevType, "/", []string{a, b, c, d}}})
		if err != nil {
			return
		}
		var names []string
		for _, l := range layers {
			if filepath.Dir(l.path()) != l.dir || filepath.Clean(l.path()) != l.path() || !isHash(l.rootHash) {
				t.Errorf("layer %q, root hash %q", l.path(), l.rootHash)
			}
			if !slices.Contains(l.options, optRootHash+l.rootHash) {
				t.Errorf("layer %s: options %q without the root hash", l.name, l.options)
			}
			names = append(names, l.name)
		}
		if !slices.Contains([]string{a, b, c, d}, optLowerdir+strings.Join(names, ":")) {
			t.Errorf("layers %q are not those of lowerdir", names)
		}
	})
}
