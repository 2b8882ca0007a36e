package sandbox

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/network"
)

func TestHooksSeeTheSandboxsNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a network namespace")
	}
	dir, id := t.TempDir(), "hooks-"+filepath.Base(t.TempDir())+t.Name()
	script := func(name, text string) specs.Hook {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		return specs.Hook{Path: file, Args: []string{name, "argument"}, Env: []string{"PATH=/usr/bin:/bin", "OUT=" + filepath.Join(dir, name+".out")}}
	}
	first := script("first", `cat > "$OUT"; readlink /proc/self/ns/net > "$OUT.self"
readlink /proc/$(tr , '\n' < "$OUT" | sed -n 's/.*"pid":\([0-9]*\).*/\1/p')/ns/net > "$OUT.pid"; env > "$OUT.env"`)
	then := script("then", `cat > "$OUT"`)
	last := script("last", `cat > "$OUT"`)
	spec := &specs.Spec{
		Annotations: map[string]string{"key": "value"},
		Hooks:       &specs.Hooks{CreateRuntime: []specs.Hook{first}, Poststart: []specs.Hook{then}, Poststop: []specs.Hook{last, {Path: "relative"}}},
	}
	t.Setenv("SECRET_OF_THE_SHIM", "1")
	s := NewSandbox(t.Context(), Options{ID: id, NetNS: OwnNetNS(id), OwnNetNS: true, Hooks: NewHooks(spec, "/bundle")})
	if err := s.prepareNetNS(t.Context()); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	var inside string
	if err := network.In(OwnNetNS(id), func() (err error) {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if self, pid := strings.TrimSpace(read("first.out.self")), strings.TrimSpace(read("first.out.pid")); self != inside || pid != inside {
		t.Errorf("the hook ran in %s and was told of %s, want %s", self, pid, inside)
	}
	if env := read("first.out.env"); strings.Contains(env, "SECRET_OF_THE_SHIM") {
		t.Errorf("the hook's environment is the shim's: %s", env)
	}
	var state specs.State
	if err := json.Unmarshal([]byte(read("first.out")), &state); err != nil {
		t.Fatal(err)
	}
	if state.ID != id || state.Bundle != "/bundle" || state.Status != specs.StateCreating || state.Annotations["key"] != "value" {
		t.Errorf("state %+v", state)
	}

	(&Container{id: "another", sandbox: s}).AfterStart(t.Context())
	if _, err := os.Stat(filepath.Join(dir, "then.out")); err == nil {
		t.Error("it ran for another container")
	}
	(&Container{id: id, sandbox: s}).AfterStart(t.Context())
	if !strings.Contains(read("then.out"), `"status":"running"`) {
		t.Errorf("state after the start: %s", read("then.out"))
	}

	if err := s.undo.Run(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(read("last.out"), `"status":"stopped"`) {
		t.Errorf("state at the end: %s", read("last.out"))
	}
	if _, err := os.Stat(OwnNetNS(id)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the namespace is left: %v", err)
	}
}

func TestAFailedHookEndsTheCreation(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a network namespace")
	}
	id := t.Name()
	second := 1
	for name, hook := range map[string]specs.Hook{
		"fails":   {Path: "/bin/sh", Args: []string{"sh", "-c", "echo because >&2; exit 3"}},
		"hangs":   {Path: "/bin/sh", Args: []string{"sh", "-c", "echo because; exec sleep 60"}, Timeout: &second, Env: []string{"PATH=/usr/bin:/bin"}},
		"missing": {Path: "/because"},
	} {
		s := NewSandbox(t.Context(), Options{ID: id, NetNS: OwnNetNS(id), OwnNetNS: true, Hooks: Hooks{Create: []specs.Hook{hook}}})
		if err := s.prepareNetNS(t.Context()); err == nil || !strings.Contains(err.Error(), "because") {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.undo.Run(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
