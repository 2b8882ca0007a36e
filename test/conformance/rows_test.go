package conformance

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// parse calls visit for every call in the sources of a package, tests aside.
func parse(t *testing.T, dir string, visit func(name string, call *ast.CallExpr)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources of %s: %v", dir, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if s, ok := call.Fun.(*ast.SelectorExpr); ok {
					visit(filepath.Base(file)+" "+s.Sel.Name, call)
				}
			}
			return true
		})
	}
}

// requests are the names of all that the agent's protocol knows.
func requests() map[string]bool {
	names := map[string]bool{}
	for _, file := range []protoreflect.FileDescriptor{agentpb.File_agent_proto, agentpb.File_health_proto} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				names[string(methods.Get(j).Name())] = true
			}
		}
	}
	return names
}

// Whoever teaches the shim another request to the agent, or another call of the
// VMM's API, gives it a row in the matrix too.
func TestEveryRequestHasARow(t *testing.T) {
	known, rows := requests(), map[string]bool{}
	for rpc := range maps.Keys(agentCalls) {
		rows[rpc] = true
	}
	for rpc := range maps.Keys(busyAgentCalls) {
		rows[rpc] = true
	}
	for rpc := range rows {
		if !known[rpc] {
			t.Errorf("there is a row for %s, which the agent's protocol lacks", rpc)
		}
	}
	// Those of agentclient itself are in requests.go, a method for every request
	// whether the shim makes it or not.
	sent := map[string]bool{}
	for _, dir := range []string{"agentclient", "sandbox", "volumes", "shim", "cmd/containerd-shim-kata-cc-v2"} {
		parse(t, dir, func(name string, _ *ast.CallExpr) {
			file, rpc, _ := strings.Cut(name, " ")
			if known[rpc] && file != "requests.go" {
				sent[rpc] = true
			}
		})
	}
	for _, rpc := range []string{"ReadStdout", "ReadStderr"} { // passed as functions
		sent[rpc] = true
	}
	wantRows(t, sent, rows)

	calls, endpoints := map[string]bool{}, map[string]bool{}
	parse(t, "hypervisor/clh", func(name string, call *ast.CallExpr) {
		if !strings.HasSuffix(name, " call") || len(call.Args) < 2 {
			return
		}
		if text, ok := call.Args[1].(*ast.BasicLit); ok {
			endpoint, err := strconv.Unquote(text.Value)
			if err != nil {
				t.Fatal(err)
			}
			calls[endpoint] = true
		}
	})
	for endpoint := range maps.Keys(vmmCalls) {
		endpoints[endpoint] = true
	}
	for endpoint := range maps.Keys(busyVMMCalls) {
		endpoints[endpoint] = true
	}
	wantRows(t, calls, endpoints)
}

func wantRows(t *testing.T, sent, rows map[string]bool) {
	t.Helper()
	if got, want := slices.Sorted(maps.Keys(rows)), slices.Sorted(maps.Keys(sent)); !slices.Equal(got, want) {
		t.Errorf("the matrix has rows for\n%q\nthe shim sends\n%q", got, want)
	}
}
