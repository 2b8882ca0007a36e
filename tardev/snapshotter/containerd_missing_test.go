package snapshotter

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestContainerdLostTheBlob: another snapshotter had the image first, and its
// blobs are gone. The error says which image and layer it is, and the command that
// it names is the cure.
func TestContainerdLostTheBlob(t *testing.T) {
	if _, err := exec.LookPath("mount.fuse3"); err != nil {
		t.Skipf("ctr looks into a container's root: %v", err)
	}
	n := startNode(t, true)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	go server.Serve(l)
	t.Cleanup(func() { _ = server.Close() })
	ref := l.Addr().String() + "/example:1"
	image := n.image([][]byte{baseTar(t), goldenTar()})
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err = remote.Write(tag, image); err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	lost, err := layers[1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	// Into a namespace that is not the default one.
	n.ctr("-n", "other", "images", "pull", "--local", "--snapshotter", "native", ref)
	n.ctr("-n", "other", "content", "rm", lost.String())

	create := []string{"-n", "other", "containers", "create", "--snapshotter", "tardev", ref, "c"}
	out, err := n.try(create...)
	_, rest, _ := strings.Cut(out, "`ctr ")
	command, _, ok := strings.Cut(rest, "`")
	if err == nil || !ok || !strings.Contains(out, lost.String()) || !strings.Contains(command, ref) {
		t.Fatalf("create: error %v\n%s", err, out)
	}
	n.ctr(strings.Fields(command)...)
	// containerd's garbage collection may yet take the first layer from under it.
	n.wait("container", func() error {
		if text, err := n.try(create...); err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		return nil
	})
	if got := n.entries("layers"); len(got) != 2 {
		t.Errorf("layer files %q", got)
	}
	n.ctr("-n", "other", "containers", "rm", "c")
	n.ctr("-n", "other", "images", "rm", "--sync", ref)
	if left := n.entries("layers"); len(left) != 0 {
		t.Errorf("layers left: %q", left)
	}
}
