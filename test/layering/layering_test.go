// Package layering holds no code. Its test reads `go list` and fails on every
// import between our packages that the rule below does not allow, and on
// packages that the shim's binary must not contain.
package layering

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/kata-cc/kata-cc/"

// allowed says which areas an area may import. An area is the longest prefix of
// a package's path that is a key here; it may always import itself and internal.
var allowed = map[string][]string{
	"agentclient/agentpb": {},
	"configuration":       {},
	"hypervisor":          {},
	"internal":            {},
	"verity":              {},

	"agentclient":         {"agentclient/agentpb"},
	"guest":               {"agentclient/agentpb", "tardev", "verity"},
	"hypervisor/clh":      {"hypervisor", "configuration"},
	"mounts":              {"hypervisor", "agentclient/agentpb", "configuration"},
	"network":             {"hypervisor", "configuration"},
	"network/portforward": {"network"},
	"sandbox":             {"hypervisor", "agentclient", "agentclient/agentpb", "mounts", "network", "network/portforward", "volumes", "configuration"},
	// shim is handed a hypervisor.Launcher by main, and describes the machine.
	"shim":   {"sandbox", "mounts", "configuration", "hypervisor"},
	"tardev": {"verity"},
	// volumes knows of the agent only the message that carries a file.
	"volumes": {"agentclient/agentpb"},

	// The programs wire everything together; tests may look anywhere.
	"cmd":   {"*"},
	"test":  {"*"},
	"tools": {},
}

// forbidden is what no binary of the key may link: each would cost every pod on
// a node memory for something the shim does not do.
var forbidden = map[string][]string{
	"cmd/containerd-shim-kata-cc-v2": {
		"google.golang.org/grpc/internal/transport",
		"k8s.io/",
		"github.com/open-policy-agent/",
		"go.opentelemetry.io/otel/sdk",
	},
}

// containerdUsers are the areas that may speak containerd's Go API.
var containerdUsers = []string{"shim", "tardev/snapshotter", "cmd", "test"}

type goPackage struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

func TestImportsFollowTheRule(t *testing.T) {
	for _, p := range list(t, "./...") {
		from, ok := area(p.ImportPath)
		if !ok {
			t.Errorf("%s belongs to no area: add it to the rule in this file", p.ImportPath)
			continue
		}
		for _, path := range p.Imports {
			checkImport(t, p.ImportPath, from, path)
		}
		for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
			// A test may use fakes of what its package talks to, never the programs.
			if to, ours := area(path); ours && (to == "cmd" || path == module+"test/cluster") && from != "test" {
				t.Errorf("a test of %s imports %s", p.ImportPath, path)
			}
		}
	}
}

func checkImport(t *testing.T, importer, from, path string) {
	t.Helper()
	if strings.HasPrefix(path, "github.com/containerd/containerd/") && !within(importer, containerdUsers) {
		t.Errorf("%s imports %s: only %v may", importer, path, containerdUsers)
	}
	to, ours := area(path)
	if !ours || to == from || to == "internal" {
		return
	}
	may := allowed[from]
	if to == "test" && from != "test" || !slices.Contains(may, to) && !slices.Contains(may, "*") {
		t.Errorf("%s imports %s: %s may import only %v", importer, path, from, may)
	}
	if strings.HasPrefix(path, module+"hypervisor/clh") && from != "cmd" && from != "test" && from != "hypervisor/clh" {
		t.Errorf("%s imports %s: only cmd may name a VMM", importer, path)
	}
}

func TestProgramsDoNotLink(t *testing.T) {
	for program, prefixes := range forbidden {
		packages := list(t, module+program)
		if len(packages) != 1 {
			t.Fatalf("go list %s: %d packages", program, len(packages))
		}
		for _, dep := range packages[0].Deps {
			for _, prefix := range prefixes {
				if strings.HasPrefix(dep, prefix) {
					t.Errorf("%s links %s", program, dep)
				}
			}
		}
	}
}

// area is the longest key of allowed that path lies in.
func area(path string) (string, bool) {
	rest, ours := strings.CutPrefix(path, module)
	if !ours {
		return "", false
	}
	best := ""
	for key := range allowed {
		if (rest == key || strings.HasPrefix(rest, key+"/")) && len(key) > len(best) {
			best = key
		}
	}
	return best, best != ""
}

func within(importer string, areas []string) bool {
	rest := strings.TrimPrefix(importer, module)
	return slices.ContainsFunc(areas, func(a string) bool { return rest == a || strings.HasPrefix(rest, a+"/") })
}

func list(t *testing.T, pattern string) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports,Deps", pattern)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list %s: %v\n%s", pattern, err, exit.Stderr)
		}
		t.Fatalf("go list %s: %v", pattern, err)
	}
	var packages []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("go list %s: %v", pattern, err)
		}
		packages = append(packages, p)
	}
}
