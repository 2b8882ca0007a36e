package cluster

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Host is the registry's name in image references. Containerd is told to find
// it on loopback, so that a reference does not depend on a port.
const Host = "registry.test"

// The images of a cluster's registry, and what is known of the example's second
// layer before anything has been built.
const (
	ExampleImage = Host + "/example-container:1"
	PauseImage   = Host + "/pause:1"

	ExampleLayer2DiffID   = "sha256:ed328a6cc2d48369c6c566dd144f55455c40934abe2a7ec4395dd08af7402df7"
	ExampleLayer2RootHash = "3e180656327e86fa7aa220ff278695f1df2a2679e1aa80e8a454ccf0460c7d39"
)

// built is the time of everything in the images, so that the same inputs give
// the same digests.
var built = time.Date(2024, 6, 26, 13, 53, 15, 0, time.UTC)

// File is one entry of a layer: a directory if its name ends with a slash.
type File struct {
	Name     string
	Mode     int64
	Content  []byte
	Hardlink string // another name of this earlier entry, whose mode and content it has
}

// Image is what an image is made of; all of them are for linux/amd64.
type Image struct {
	Layers     []v1.Layer
	Entrypoint []string
	Cmd        []string
	User       string
	Labels     map[string]string
}

// exampleImage has two layers: one with a busybox, one with an empty file.
func exampleImage(busybox []byte) (v1.Image, error) {
	first, err := Layer(
		File{Name: "LAYER_1", Mode: 0o644},
		File{Name: "bin/", Mode: 0o755},
		File{Name: "bin/busybox", Mode: 0o755, Content: busybox},
	)
	if err != nil {
		return nil, err
	}
	second, err := layer(exampleLayer2(), nil)
	if err != nil {
		return nil, err
	}
	if id, err := second.DiffID(); err != nil || id.String() != ExampleLayer2DiffID {
		return nil, fmt.Errorf("second layer of the example: diff id %s, %v; want %s", id, err, ExampleLayer2DiffID)
	}
	return Image{Layers: []v1.Layer{first, second}, Entrypoint: []string{"/bin/busybox"}}.build()
}

func pauseImage(pause []byte) (v1.Image, error) {
	only, err := Layer(File{Name: "pause", Mode: 0o755, Content: pause})
	if err != nil {
		return nil, err
	}
	return Image{Layers: []v1.Layer{only}, Entrypoint: []string{"/pause"}}.build()
}

// exampleLayer2 is written field by field rather than by archive/tar, because
// its bytes are a published test vector: one USTAR header and 1024 zero bytes.
func exampleLayer2() []byte {
	b := make([]byte, 1536)
	copy(b[0:], "LAYER_2")
	copy(b[100:], "0000644\x000000000\x000000000\x0000000000000\x00") // mode, uid, gid, size
	copy(b[136:], fmt.Sprintf("%011o\x00", built.Unix()))
	copy(b[148:], "        ") // the checksum counts itself as blanks
	b[156] = '0'
	copy(b[257:], "ustar\x0000")
	copy(b[329:], "0000000\x000000000\x00") // device numbers
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func tarOf(files []File) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Mode: f.Mode, Size: int64(len(f.Content)), ModTime: built, Format: tar.FormatUSTAR, Typeflag: tar.TypeReg}
		switch {
		case strings.HasSuffix(f.Name, "/"):
			h.Typeflag = tar.TypeDir
		case f.Hardlink != "":
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, f.Hardlink, 0
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Content); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}

// Layer makes a layer of files, the same bytes each time.
func Layer(files ...File) (v1.Layer, error) { return layer(tarOf(files)) }

func layer(uncompressed []byte, err error) (v1.Layer, error) {
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(uncompressed); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(packed.Bytes())), nil
	})
}

func (i Image) build() (v1.Image, error) {
	img, err := mutate.AppendLayers(empty.Image, i.Layers...)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = "amd64", "linux"
	config.Created = v1.Time{Time: built}
	config.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	config.Config.Entrypoint, config.Config.Cmd = i.Entrypoint, i.Cmd
	config.Config.User, config.Config.Labels = i.User, i.Labels
	config.Config.WorkingDir = "/"
	return mutate.ConfigFile(img, config)
}

// images is a registry on loopback.
type images struct {
	addr   string
	server *http.Server
}

func serveImages() (*images, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	go s.Serve(l) // ends with Close
	return &images{addr: l.Addr().String(), server: s}, nil
}

// push stores img under its reference's repository and tag.
func (i *images) push(ctx context.Context, reference string, img v1.Image) error {
	tag, err := name.NewTag(reference)
	if err != nil {
		return err
	}
	tag, err = name.NewTag(i.addr+"/"+tag.RepositoryStr()+":"+tag.TagStr(), name.Insecure)
	if err != nil {
		return err
	}
	if err := remote.Write(tag, img, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("push %s: %w", tag, err)
	}
	return nil
}

// Push makes an image with one layer that holds busybox and the files, stores
// it in the registry as name:1 and returns its reference.
func (c *Cluster) Push(ctx context.Context, name string, files ...File) (string, error) {
	busybox, err := c.Paths.busybox()
	if err != nil {
		return "", err
	}
	only, err := Layer(append([]File{
		{Name: "bin/", Mode: 0o755},
		{Name: "bin/busybox", Mode: 0o755, Content: busybox},
	}, files...)...)
	if err != nil {
		return "", err
	}
	reference := Host + "/" + name + ":1"
	return reference, c.PushImage(ctx, reference, Image{Layers: []v1.Layer{only}, Entrypoint: []string{"/bin/busybox"}})
}

// PushImage stores an image under a reference to Host, or to one of the
// registries that Options.Mirrors names.
func (c *Cluster) PushImage(ctx context.Context, reference string, i Image) error {
	img, err := i.build()
	if err != nil {
		return err
	}
	return c.images.push(ctx, reference, img)
}

func (p Paths) busybox() ([]byte, error) {
	path, err := lookPath("busybox", p.search())
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// pushAll builds and stores the cluster's images.
func (i *images) pushAll(ctx context.Context, p Paths) error {
	busybox, err := p.busybox()
	if err != nil {
		return err
	}
	pause, err := os.ReadFile(p.pause())
	if err != nil {
		return err
	}
	example, err1 := exampleImage(busybox)
	pausing, err2 := pauseImage(pause)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	return errors.Join(i.push(ctx, ExampleImage, example), i.push(ctx, PauseImage, pausing))
}
