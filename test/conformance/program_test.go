package conformance

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/proto"
)

func TestInfo(t *testing.T) {
	for _, args := range [][]string{{"-info"}, {"-namespace", "n", "-address", "a", "-info"}} {
		out, err := exec.Command(shimBinary, args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		var info types.RuntimeInfo
		if err := proto.Unmarshal(out, &info); err != nil || info.Name != "io.containerd.kata-cc.v2" || info.Version.GetVersion() == "" {
			t.Errorf("%v answers %v, %v", args, &info, err)
		}
		if url := info.GetFeatures().GetTypeUrl(); url != "types.containerd.io/opencontainers/runtime-spec/1/features/Features" {
			t.Fatalf("features are %q", url)
		}
		// containerd's CRI offers recursively read-only mounts if "rro" is there.
		var f features.Features
		if err := json.Unmarshal(info.Features.Value, &f); err != nil || !slices.Contains(f.MountOptions, "rro") || f.OCIVersionMin == "" || f.OCIVersionMax == "" {
			t.Errorf("features %+v, %v", f, err)
		}
	}
}

func TestVersion(t *testing.T) {
	for _, arg := range []string{"-v", "--version"} {
		out, err := exec.Command(shimBinary, arg).Output()
		if err != nil || !strings.Contains(string(out), "Version:") {
			t.Errorf("%s answers %q, %v", arg, out, err)
		}
	}
}

func TestNamespaceIsNeeded(t *testing.T) {
	out, err := exec.Command(shimBinary, "-id", "x", "start").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "namespace") {
		t.Errorf("answers %q, %v", out, err)
	}
}
