package mounts

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// bundle reads a case of testdata; copies are named 0000000000000001 and so on.
func bundle(t testing.TB, name string) (*specs.Spec, []Rootfs, Options) {
	t.Helper()
	var spec specs.Spec
	var rootfs []Rootfs
	var o Options
	dir := filepath.Join("testdata", name)
	readJSON(t, filepath.Join(dir, "config.json"), &spec)
	readJSON(t, filepath.Join(dir, "rootfs.json"), &rootfs)
	readJSON(t, filepath.Join(dir, "options.json"), &o)
	n := 0
	o.Random = func() string { n++; return fmt.Sprintf("%016x", n) }
	return &spec, rootfs, o
}

// asJSON is stable: protojson varies its spaces on purpose.
func asJSON(t *testing.T, m proto.Message) any {
	t.Helper()
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestGolden(t *testing.T) {
	for _, name := range []string{"pause", "example", "volumes", "ctr-run"} {
		t.Run(name, func(t *testing.T) {
			spec, rootfs, o := bundle(t, name)
			plan, err := New(spec, rootfs, o)
			if err != nil {
				t.Fatal(err)
			}
			sources := map[string]string{}
			for i, d := range plan.Disks {
				sources[d.ID] = fmt.Sprintf("0000:00:%02x.0", 6+i)
			}
			request, err := plan.Request(sources)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]any{"disks": plan.Disks, "files": plan.Files, "request": asJSON(t, request)}
			if o.Type != PodContainer {
				got["sandbox"] = asJSON(t, NewSandboxRequest(spec, o, []byte("nameserver 10.0.0.10\nsearch default.svc\n"), DefaultShmSize))
			}
			compare(t, filepath.Join("testdata", name, "request.golden.json"), got)
		})
	}
}

func compare(t *testing.T, path string, got any) {
	t.Helper()
	data, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	data = append(data, '\n')
	if *update {
		if err = os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, want) {
		t.Errorf("%s differs; got:\n%s", path, data)
	}
}

func TestRequestNeedsEveryDisk(t *testing.T) {
	plan, err := New(bundle(t, "example"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Request(map[string]string{plan.Disks[0].ID: "0000:00:06.0"}); err == nil {
		t.Error("Request without the position of a disk: want an error")
	}
}

func TestIDsStayInTheirDirectory(t *testing.T) {
	for _, id := range []string{"", "a", "../up", "a/b", ".hidden", "a b"} {
		spec, rootfs, o := bundle(t, "example")
		o.ContainerID = id
		if _, err := New(spec, rootfs, o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("container %q: %v, want an invalid argument", id, err)
		}
		o.ContainerID, o.SandboxID = o.SandboxID, id
		if _, err := New(spec, rootfs, o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("sandbox %q: %v, want an invalid argument", id, err)
		}
	}
}

func TestPlanKeepsNothingOfTheSpec(t *testing.T) {
	spec, rootfs, o := bundle(t, "volumes")
	plan, err := New(spec, rootfs, o)
	if err != nil {
		t.Fatal(err)
	}
	before := proto.CloneOf(plan.request)
	spec.Process.Args[0], spec.Process.Env[0] = "x", "x"
	spec.Mounts[0].Options[0], rootfs[0].Options[0] = "x", "x"
	spec.Linux.MaskedPaths[0], spec.Linux.Seccomp.Syscalls[0].Names[0] = "x", "x"
	spec.Annotations["io.kubernetes.cri.sandbox-id"] = "x"
	spec.Process.Capabilities.Bounding[0] = "x"
	if !proto.Equal(before, plan.request) {
		t.Error("the plan changed with the spec")
	}
}

func TestOneLayerIsOneDiskInEveryContainer(t *testing.T) {
	a, err := New(bundle(t, "example"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(bundle(t, "ctr-run"))
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range a.Disks {
		if d != b.Disks[i] {
			t.Errorf("disk %+v in one container, %+v in the other", d, b.Disks[i])
		}
		if len(d.ID) > 63 || len(d.Serial) > 20 || !d.ReadOnly {
			t.Errorf("disk %+v: want a short id and serial, read-only", d)
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	spec, rootfs, o := bundle(b, "example")
	for b.Loop() {
		if _, err := New(spec, rootfs, o); err != nil {
			b.Fatal(err)
		}
	}
}
