package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/kata-cc/kata-cc/test/cluster"
)

const (
	configPath = "/etc/config"
	before     = "level = info\n"
	after      = "level = debug\n"
)

// prepare does what a kubelet does before it starts a container.
func (s *story) prepare(pod cluster.Pod, k cluster.Container) ([]cluster.Mount, error) {
	var err error
	if s.volumes, err = s.cluster.NewPodDir(pod); err != nil {
		return nil, err
	}
	mounts, err := s.volumes.UsualMounts(pod.Name, k.Name)
	if err != nil {
		return nil, err
	}
	config, err := s.volumes.Write(cluster.ConfigMap, "config", map[string]string{"app.conf": before})
	return append(mounts, cluster.Mount{Host: config, Container: configPath, ReadOnly: true}), err
}

// files shows what the container has of the host's files, and that a change of
// its ConfigMap arrives.
func (s *story) files(ctx context.Context) error {
	s.step("The files", "Host and guest share no file system: the guest has copies, and a ConfigMap's follows its changes.")
	cat := func(path string) (string, error) {
		return s.show(ctx, fmt.Sprintf("crictl exec %.13s /bin/busybox cat %s", s.example, path))
	}
	for _, file := range []struct{ path, has string }{
		{cluster.ServiceAccount + "/token", "token of example"}, {"/etc/hosts", "Kubernetes-managed hosts file"},
		{"/etc/resolv.conf", ""}, {configPath + "/app.conf", before},
	} {
		out, err := cat(file.path)
		if err != nil {
			return err
		}
		s.must(strings.Contains(out, file.has), "the guest has %s", file.path)
	}
	if _, err := s.volumes.Write(cluster.ConfigMap, "config", map[string]string{"app.conf": after}); err != nil {
		return err
	}
	s.say("The ConfigMap was changed on the host, as the kubelet does it.")
	line := fmt.Sprintf("crictl exec %.13s /bin/busybox cat %s/app.conf", s.example, configPath)
	if err := s.await(ctx, line, after); err != nil {
		return err
	}
	out, err := s.show(ctx, line)
	s.must(out == after, "the container reads the new content")
	return err
}
