package snapshotter

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"

	"github.com/kata-cc/kata-cc/verity"
)

// waitReady bounds how long a daemon may take to answer.
const waitReady = 30 * time.Second

// node is a containerd of its own with the snapshotter as a proxy plugin.
type node struct {
	t           testing.TB
	dir         string
	bin         string // directory of containerd and ctr
	snapshotter *exec.Cmd
	log         bytes.Buffer // of the snapshotter, to be read once it has ended
}

// startNode starts one; with differ containerd asks the snapshotter to apply layers.
func startNode(t testing.TB, differ bool) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	bin, err := filepath.Abs("../../.cache/bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"containerd", "ctr"} {
		if _, err = os.Stat(filepath.Join(bin, program)); err != nil {
			t.Skipf("needs %s in .cache/bin", program)
		}
	}
	n := &node{t: t, dir: t.TempDir(), bin: bin}
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", n.dir, "../../cmd/tardev-snapshotter", "../../cmd/kata-overlay").CombinedOutput()
	if err != nil {
		t.Fatalf("build tardev-snapshotter and kata-overlay: %v\n%s", err, out)
	}
	var applier string
	if differ {
		applier = fmt.Sprintf(`differ = "tardev-differ"
[plugins."io.containerd.service.v1.diff-service"]
  default = ["tardev-differ", "walking"]
[proxy_plugins.tardev-differ]
  type = "diff"
  address = %q
`, n.path("tardev.sock"))
	}
	config := fmt.Sprintf(`version = 3
root = %[1]q
state = %[2]q
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
[grpc]
  address = %[3]q
[ttrpc]
  address = %[4]q
[proxy_plugins.tardev]
  type = "snapshot"
  address = %[5]q
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/amd64"
  snapshotter = "tardev"
  %[6]s
`, n.path("root"), n.path("state"), n.path("containerd.sock"), n.path("ttrpc.sock"), n.path("tardev.sock"), applier)
	if err := os.WriteFile(n.path("config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	n.startSnapshotter()
	n.daemon("containerd", new(bytes.Buffer), filepath.Join(bin, "containerd"), "--config", n.path("config.toml"))
	n.wait("containerd", func() error {
		_, err := n.try("version")
		return err
	})
	return n
}

func (n *node) path(file string) string { return filepath.Join(n.dir, file) }

func (n *node) startSnapshotter() {
	n.t.Helper()
	n.snapshotter = n.daemon("tardev-snapshotter", &n.log, n.path("tardev-snapshotter"), n.path("tardev"), n.path("tardev.sock"), n.path("containerd.sock"))
	n.wait("tardev-snapshotter", func() error {
		_, err := os.Stat(n.path("tardev.sock"))
		return err
	})
}

// daemon starts a program that ends with the test; its log shows if that fails.
func (n *node) daemon(name string, log *bytes.Buffer, path string, args ...string) *exec.Cmd {
	n.t.Helper()
	c := exec.Command(path, args...)
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		n.stop(c)
		if n.t.Failed() {
			n.t.Logf("log of %s:\n%s", name, log.Bytes())
		}
	})
	return c
}

func (n *node) stop(c *exec.Cmd) {
	if c.ProcessState != nil {
		return
	}
	_ = c.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(waitReady, func() { _ = c.Process.Kill() })
	_ = c.Wait()
	kill.Stop()
}

func (n *node) wait(what string, ready func() error) {
	n.t.Helper()
	deadline := time.Now().Add(waitReady)
	for {
		err := ready()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("%s is not ready: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (n *node) try(args ...string) (string, error) {
	c := exec.CommandContext(context.WithoutCancel(n.t.Context()), filepath.Join(n.bin, "ctr"), append([]string{"--address", n.path("containerd.sock")}, args...)...)
	c.Env = append(os.Environ(), "PATH="+n.dir+":"+os.Getenv("PATH")) // with kata-overlay
	out, err := c.CombinedOutput()
	return string(out), err
}

// ctr runs ctr, which must succeed.
func (n *node) ctr(args ...string) string {
	n.t.Helper()
	out, err := n.try(args...)
	if err != nil {
		n.t.Fatalf("ctr %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// importImage has containerd import an image and unpack it by the snapshotter.
func (n *node) importImage(namespace, ref string, tars [][]byte, options ...string) {
	n.t.Helper()
	archive := n.archive(ref, tars)
	n.ctr(append(append([]string{"-n", namespace, "images", "import", "--snapshotter", "tardev"}, options...), archive)...)
}

// image makes an image of layers.
func (n *node) image(tars [][]byte) v1.Image {
	n.t.Helper()
	var layers []v1.Layer
	for _, b := range tars {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err != nil {
			n.t.Fatal(err)
		}
		layers = append(layers, l)
	}
	image, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		n.t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		n.t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", "amd64"
	if image, err = mutate.ConfigFile(image, config); err != nil {
		n.t.Fatal(err)
	}
	return image
}

// archive writes an image to an archive.
func (n *node) archive(ref string, tars [][]byte) (path string) {
	n.t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		n.t.Fatal(err)
	}
	path = n.path("image.tar")
	if err := tarball.WriteToFile(path, tag, n.image(tars)); err != nil {
		n.t.Fatal(err)
	}
	return path
}

// committed returns the metadata of the committed snapshots.
func (n *node) committed() map[string]record {
	n.t.Helper()
	all := map[string]record{}
	for _, e := range n.entries("snapshots") {
		data, err := os.ReadFile(filepath.Join(n.dir, "tardev/snapshots", e))
		if err != nil {
			n.t.Fatal(err)
		}
		var r record
		if err := json.Unmarshal(data, &r); err != nil {
			n.t.Fatal(err)
		}
		if strings.Contains(string(data), `"Committed"`) {
			all[e] = r
		}
	}
	return all
}

func (n *node) entries(dir string) []string {
	n.t.Helper()
	entries, err := os.ReadDir(filepath.Join(n.dir, "tardev", dir))
	if err != nil {
		n.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestContainerd has a real containerd unpack the example image without any label
// of CRI, in both ways that ctr has, with and without the differ, and prepare a
// container's snapshot. The layer files are the same each time.
func TestContainerd(t *testing.T) {
	sums := map[string]digest.Digest{} // of layer files
	for name, option := range map[string]string{"client": "--local", "transfer service": "--local=false"} {
		for how, differ := range map[string]bool{"scratch directory": false, "differ": true} {
			t.Run(name+", "+how, func(t *testing.T) { testContainerd(t, option, differ, sums) })
		}
	}
}

func testContainerd(t *testing.T, option string, differ bool, sums map[string]digest.Digest) {
	n := startNode(t, differ)
	if st, err := os.Stat(n.path("tardev.sock")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, error %v", st.Mode(), err)
	}
	tars := [][]byte{baseTar(t), goldenTar()}
	n.importImage("k8s.io", "example.com/example:1", tars, option)

	committed := n.committed()
	if len(committed) != 2 || len(n.entries("layers")) != 2 || len(n.entries("staging")) != 0 {
		t.Fatalf("snapshots %q, layers %q, staging %q", n.entries("snapshots"), n.entries("layers"), n.entries("staging"))
	}
	var top record
	for file, r := range committed {
		if LayerName(r.Name) != file {
			t.Errorf("metadata of %s is called %s", r.Name, file)
		}
		if r.Parent != "" {
			top = r
		}
		path := filepath.Join(n.dir, "tardev/layers", file)
		checkLayerFile(t, path, r.Labels[LabelRootHash])
		sum := digest.FromBytes(read(t, path))
		if sums[file] == "" {
			sums[file] = sum
		} else if sums[file] != sum {
			t.Errorf("layer file %s is another than before", file)
		}
	}
	if top.Labels[LabelRootHash] != goldenRoot || !strings.HasPrefix(top.Name, "k8s.io/") {
		t.Errorf("top layer %+v", top)
	}

	chain := lastElement(top.Name)
	mounts := n.ctr("-n", "k8s.io", "snapshots", "--snapshotter", "tardev", "prepare", "--mounts", "container", chain)
	text := base64.StdEncoding.EncodeToString([]byte(LayerName(top.Name) + layerOptions + goldenRoot))
	for _, want := range []string{"fuse3.kata-overlay", "io.katacontainers.fs-opt.layer=" + text, "lowerdir=" + LayerName(top.Name) + ":" + LayerName(top.Parent)} {
		if !strings.Contains(mounts, want) {
			t.Errorf("mounts lack %s:\n%s", want, mounts)
		}
	}

	n.stop(n.snapshotter)
	for rpc, used := range map[string]bool{"Apply": differ, "Commit": !differ} {
		if got := strings.Count(n.log.String(), "rpc="+rpc+" "); used != (got == 2) {
			t.Errorf("%d layers were converted by %s", got, rpc)
		}
	}
	n.startSnapshotter()
	n.wait("containerd's connection to the snapshotter", func() error {
		out, err := n.try("-n", "k8s.io", "snapshots", "--snapshotter", "tardev", "info", "container")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	n.ctr("-n", "k8s.io", "snapshots", "--snapshotter", "tardev", "usage", chain)
	n.ctr("-n", "k8s.io", "snapshots", "--snapshotter", "tardev", "label", chain, "containerd.io/snapshot/note=1")
	if got := n.committed()[LayerName(top.Name)].Labels; got["containerd.io/snapshot/note"] != "1" || got[LabelRootHash] != goldenRoot {
		t.Errorf("labels %v", got)
	}

	// The other namespace has the same image: it shares the files.
	n.importImage("default", "example.com/example:1", tars, option)
	if got := n.committed(); len(got) != 4 || len(n.entries("layers")) != 2 {
		t.Errorf("snapshots %q, layers %q", n.entries("snapshots"), n.entries("layers"))
	}
	n.ctr("-n", "k8s.io", "snapshots", "--snapshotter", "tardev", "rm", "container")
	for _, namespace := range []string{"k8s.io", "default"} {
		n.ctr("-n", namespace, "images", "rm", "--sync", "example.com/example:1")
	}
	if len(n.entries("snapshots"))+len(n.entries("layers"))+len(n.entries("staging")) != 0 {
		t.Errorf("left: snapshots %q, layers %q, staging %q", n.entries("snapshots"), n.entries("layers"), n.entries("staging"))
	}
}

func checkLayerFile(t *testing.T, path, root string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode() != 0o600 {
		t.Errorf("%s has mode %v", path, st.Mode())
	}
	if err := verity.Verify(t.Context(), f, st.Size(), root); err != nil {
		t.Errorf("%s: %v", path, err)
	}
}
