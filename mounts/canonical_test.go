package mounts

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ids of containers, sandboxes and network namespaces, which differ from run to run.
var ids = regexp.MustCompile(`[0-9a-f]{64}|cni-[0-9a-f-]{36}`)

// recordedSources are the sources of the recorded pod's mounts, by what their
// paths end with.
func recordedSources(spec *specs.Spec) map[string]Source {
	live := Source{Directory: true, Live: true}
	known := map[string]Source{
		"~configmap/app": live, "~secret/keys": live, "~projected/kube-api-access": live, "~downward-api/podinfo": live,
		"~empty-dir/scratch": {Directory: true}, "~empty-dir/memory": {Directory: true, Tmpfs: true, Size: 8 << 20},
		"volume-subpaths/scratch/main/1": {Directory: true, EmptyDir: "scratch", SubPath: "part"},
		"/shm":                           {Directory: true, Tmpfs: true},
	}
	sources := map[string]Source{}
	for _, m := range spec.Mounts {
		for end, s := range known {
			if strings.HasSuffix(m.Source, end) {
				sources[m.Source] = s
			}
		}
	}
	return sources
}

// The same pod, as containerd 1.7.35 and 2.4.2 described it on one node, is the
// same to the guest but for ids.
func TestRequestIsTheSameOnEveryContainerd(t *testing.T) {
	for _, name := range []string{"pause", "main"} {
		t.Run(name, func(t *testing.T) {
			for _, containerd := range []string{"2.4", "1.7"} { // -update writes the older one's
				var spec specs.Spec
				readJSON(t, filepath.Join("testdata", "containerd-"+containerd, name+".json"), &spec)
				_, rootfs, o := bundle(t, "example")
				kind, sandbox, err := Identify(spec.Annotations, strings.Repeat("0", 64))
				if err != nil {
					t.Fatal(err)
				}
				o.Type, o.SandboxID, o.ContainerID = kind, sandbox, strings.Repeat("0", 64)
				o.Bundle = "/run/containerd/io.containerd.runtime.v2.task/k8s.io/" + o.ContainerID
				o.Sources, o.DisableGuestSeccomp = recordedSources(&spec), true
				for _, n := range spec.Linux.Namespaces {
					if n.Type == specs.NetworkNamespace && kind != PodContainer {
						o.NetNS = n.Path
					}
				}
				plan, err := New(&spec, rootfs, o)
				if err != nil {
					t.Fatal(err)
				}
				request, err := plan.Request(map[string]string{plan.Disks[0].ID: "0001:00:01.0", plan.Disks[1].ID: "0001:00:02.0"})
				if err != nil {
					t.Fatal(err)
				}
				text, err := json.Marshal(asJSON(t, request))
				if err != nil {
					t.Fatal(err)
				}
				var same any
				if err := json.Unmarshal(ids.ReplaceAll(text, []byte("<id>")), &same); err != nil {
					t.Fatal(err)
				}
				compare(t, filepath.Join("testdata", "containerd-"+name+".golden.json"), same)
			}
		})
	}
}

func TestMaskedPaths(t *testing.T) {
	old := []string{"/proc/asound", "/proc/kcore", "/sys/devices/system/cpu/cpu0/thermal_throttle"}
	want := []string{"/proc/asound", "/proc/interrupts", "/proc/kcore"}
	for range 2 { // what is canonical stays
		if got := maskedPaths(old); !reflect.DeepEqual(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		old = want
	}
	if got := maskedPaths(nil); got != nil { // a privileged container masks nothing
		t.Errorf("%q", got)
	}
	if got := maskedPaths([]string{"/secret"}); len(got) != 1 {
		t.Errorf("%q", got)
	}
}
