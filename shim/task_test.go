package shim

import (
	"path/filepath"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestCheckID(t *testing.T) {
	for _, id := range []string{"a", "0", "a-b_c.d", strings.Repeat("f", 64)} {
		if err := checkID(id); err != nil {
			t.Error(err)
		}
	}
	for _, id := range []string{"", "-a", ".a", "..", "a/b", "a b", "ä", "a\x00", strings.Repeat("f", maxID+1)} {
		if err := checkID(id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

func FuzzCheckID(f *testing.F) {
	for _, s := range []string{"a", "..", "a/b", "a-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if checkID(id) == nil && (filepath.Base(id) != id || filepath.Join("/run", id) != "/run/"+id) {
			t.Errorf("%q leaves its directory", id)
		}
	})
}

func TestConfigPath(t *testing.T) {
	value, err := proto.Marshal(&runtimeoptions.Options{ConfigPath: "/etc/c.toml"})
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]string{
		"runtimeoptions.v1.Options":                         "/etc/c.toml",
		"type.googleapis.com/cri.runtimeoptions.v1.Options": "/etc/c.toml",
		"containerd.runc.v1.Options":                        "",
		"containerd.linux.runc.CreateOptions":               "",
		"":                                                  "",
	} {
		if got, err := ConfigPath(&anypb.Any{TypeUrl: kind, Value: value}); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", kind, got, err, want)
		}
	}
	if got, err := ConfigPath(nil); err != nil || got != "" {
		t.Errorf("none: %q, %v", got, err)
	}
	for _, bad := range []*anypb.Any{{TypeUrl: "some.Options"}, {TypeUrl: "runtimeoptions.v1.Options", Value: []byte{0xff}}} {
		if _, err := ConfigPath(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func FuzzConfigPath(f *testing.F) {
	f.Add("runtimeoptions.v1.Options", []byte{0x12, 1, 'a'})
	f.Fuzz(func(t *testing.T, kind string, value []byte) {
		path, err := ConfigPath(&anypb.Any{TypeUrl: kind, Value: value})
		if err != nil && (path != "" || !errdefs.IsInvalidArgument(err)) {
			t.Errorf("%q with %v", path, err)
		}
	})
}

func TestTombstones(t *testing.T) {
	var g tombstones
	for i := range maxTombstones + 3 {
		g.add(string(rune('a'+i)), &taskapi.DeleteResponse{ExitStatus: uint32(i)})
	}
	if len(g.ids) != maxTombstones || len(g.answers) != maxTombstones {
		t.Errorf("%d ids, %d answers", len(g.ids), len(g.answers))
	}
	if g.answers["a"] != nil || g.answers["d"].ExitStatus != 3 {
		t.Error("not the latest are kept")
	}
	g.forget("d")
	g.forget("d")
	if len(g.ids) != maxTombstones-1 || g.answers["d"] != nil {
		t.Error("d is not forgotten")
	}
}
