package main

import (
	"context"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kata-cc/kata-cc/test/cluster"
)

// Where critest looks for its images. containerd is told to ask the cluster's
// registry instead, which has images of ours under the same names.
var registries = []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io"}

const (
	e2eImages = "registry.k8s.io/e2e-test-images/"
	criImages = "gcr.io/k8s-staging-cri-tools/"
)

// pushImages makes every image that critest asks for, except the one that it
// names by digest: that one only its authors can make.
func pushImages(ctx context.Context, c *cluster.Cluster) error {
	images, err := criImageSet(ctx, c.Paths)
	if err != nil {
		return err
	}
	for reference, image := range images {
		if err := c.PushImage(ctx, reference, image); err != nil {
			return err
		}
	}
	return nil
}

func criImageSet(ctx context.Context, p cluster.Paths) (map[string]cluster.Image, error) {
	files, err := p.Userland(ctx)
	if err != nil {
		return nil, err
	}
	userland, err := cluster.Layer(files...)
	if err != nil {
		return nil, err
	}
	shell := func(user string, more ...v1.Layer) cluster.Image {
		return cluster.Image{Layers: append([]v1.Layer{userland}, more...), Cmd: []string{"sh"}, User: user}
	}
	images := map[string]cluster.Image{
		e2eImages + "busybox:1.29-2":                 shell(""),
		criImages + "test-image-user-uid":            shell("1002"),
		criImages + "test-image-user-username":       shell("www-data"),
		criImages + "test-image-user-uid-group":      shell("1003:1003"),
		criImages + "test-image-user-username-group": shell("www-data:www-data"),
	}
	if err = addServers(images, p, userland); err != nil {
		return nil, err
	}
	group, err := cluster.Layer(
		cluster.File{Name: "etc/", Mode: 0o755},
		cluster.File{Name: "etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/:/bin/sh\n")},
		cluster.File{Name: "etc/group", Mode: 0o644, Content: []byte("root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")},
	)
	if err != nil {
		return nil, err
	}
	images[criImages+"test-image-predefined-group"] = shell("1000", group)
	// Those between which critest only tells apart have a file each.
	for content, tags := range map[string][]string{
		"latest": {"test-image-latest"}, "test": {"test-image-tag:test"}, "all": {"test-image-tag:all"},
		"1": {"test-image-1"}, "2": {"test-image-2"}, "3": {"test-image-3"},
		"tags": {"test-image-tags:1", "test-image-tags:2", "test-image-tags:3"},
	} {
		layer, err := cluster.Layer(cluster.File{Name: "CONTENT", Mode: 0o644, Content: []byte(content + "\n")})
		if err != nil {
			return nil, err
		}
		for _, tag := range tags {
			images[criImages+tag] = shell("", layer)
		}
	}
	return images, nil
}

// addServers adds the images of programs: the servers and the pause image,
// which has a label lest it be the same as that of the cluster's own sandboxes.
func addServers(images map[string]cluster.Image, p cluster.Paths, userland v1.Layer) error {
	standin, err := os.ReadFile(filepath.Join(p.Tools, "standin"))
	if err != nil {
		return err
	}
	pause, err := os.ReadFile(filepath.Join(p.Tools, "pause"))
	if err != nil {
		return err
	}
	server, err := cluster.Layer(
		cluster.File{Name: "usr/", Mode: 0o755},
		cluster.File{Name: "usr/sbin/", Mode: 0o755},
		cluster.File{Name: "usr/sbin/standin", Mode: 0o4755, Content: standin},
	)
	if err != nil {
		return err
	}
	pausing, err := cluster.Layer(cluster.File{Name: "pause", Mode: 0o755, Content: pause})
	if err != nil {
		return err
	}
	for name, args := range map[string][]string{
		e2eImages + "nginx:1.14-2":               {"nginx", "80"},
		e2eImages + "httpd:2.4.39-4":             {"httpd", "80"},
		e2eImages + "nonewprivs:1.3":             {"nonewprivs"},
		criImages + "hostnet-nginx-amd64:latest": {"nginx", "12003"},
	} {
		images[name] = cluster.Image{
			Layers:     []v1.Layer{userland, server},
			Entrypoint: append([]string{"/usr/sbin/standin"}, args...),
		}
	}
	images["registry.k8s.io/pause:3.9"] = cluster.Image{
		Layers: []v1.Layer{pausing}, Entrypoint: []string{"/pause"}, Labels: map[string]string{"for": "critest"},
	}
	return nil
}
