package agentclient_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/agentclient/agenttest"
)

func TestCopySendsATree(t *testing.T) {
	a, c := connect(t, agenttest.Ours)
	if err := c.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	big := bytes.Repeat([]byte("0123456789"), 250_000)
	write := func(name string, data []byte, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), data, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "v/sub"), 0o750); err != nil {
		t.Fatal(err)
	}
	write("v/big", big, 0o640)
	write("v/empty", nil, 0o600)
	write("v/sub/one", []byte("1"), 0o644)
	if err := os.Symlink("sub/one", filepath.Join(dir, "v/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("v", filepath.Join(dir, "alias")); err != nil {
		t.Fatal(err)
	}
	const guest = "/run/kata-containers/shared/containers/c-0123456789abcdef-v"
	if err := c.Copy(t.Context(), filepath.Join(dir, "alias"), guest, agentclient.DefaultCopyLimits); err != nil {
		t.Fatal(err)
	}
	files := a.Files()
	for name, want := range map[string]struct {
		mode uint32
		data []byte
	}{
		"":         {0o040750, nil},
		"/big":     {0o100640, big},
		"/empty":   {0o100600, nil},
		"/link":    {0o120777, []byte("sub/one")},
		"/sub":     {0o040750, nil},
		"/sub/one": {0o100644, []byte("1")},
	} {
		f, ok := files[guest+name]
		if !ok || f.Mode != want.mode || !bytes.Equal(f.Data, want.data) {
			t.Errorf("%q: sent %v, mode %o, %d bytes; want mode %o, %d bytes", name, ok, f.Mode, len(f.Data), want.mode, len(want.data))
		}
	}
	if len(files) != 6 {
		t.Errorf("%d objects, want 6", len(files))
	}
	for _, call := range a.Calls() {
		if r, ok := call.Request.(*agentpb.CopyFileRequest); ok && (r.GetDirMode() != 2147484136 || len(r.GetData()) > 1<<20) {
			t.Errorf("%s: dir_mode %d, %d bytes", r.GetPath(), r.GetDirMode(), len(r.GetData()))
		}
	}
}

func TestCopyIsBounded(t *testing.T) {
	a, c := connect(t, agenttest.Ours)
	if err := c.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, limits := range []agentclient.CopyLimits{{Bytes: 99, Files: 10}, {Bytes: 100, Files: 1}} {
		if err := c.Copy(t.Context(), dir, "/run/kata-containers/x", limits); !errdefs.IsResourceExhausted(err) {
			t.Errorf("Copy within %+v: %v, want resource exhausted", limits, err)
		}
	}
	if err := c.Copy(t.Context(), filepath.Join(dir, "none"), "/run/kata-containers/x", agentclient.DefaultCopyLimits); !errdefs.IsNotFound(err) {
		t.Errorf("Copy of nothing: %v, want not found", err)
	}
	a.Fail("CopyFile", 1, status.Error(codes.Internal, "disk full"))
	if err := c.Copy(t.Context(), dir, "/run/kata-containers/x", agentclient.DefaultCopyLimits); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("Copy: %v, want the agent's error", err)
	}
}
