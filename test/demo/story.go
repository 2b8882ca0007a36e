package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/kata-cc/kata-cc/test/cluster"
)

// story is what the steps know of each other.
type story struct {
	*teller
	baseline cluster.Census // before the first pod
	sandbox  string
	example  string // the container of the pod
	hello    string // a second one, on the same layers
	volumes  *cluster.PodDir
	snapshot map[string]snapshot
}

// snapshot is the metadata that the tardev snapshotter keeps of one.
type snapshot struct {
	Kind, Name, Parent string
	Labels             map[string]string
}

const rootHashLabel = "io.katacontainers.dm-verity.root-hash"

// layerFile is the name of a snapshot's layer file and metadata file.
func (s snapshot) layerFile() string {
	key := s.Name[strings.LastIndex(s.Name, "/")+1:]
	return fmt.Sprintf("%x", sha256.Sum256([]byte(key)))
}

func (s *story) image(ctx context.Context) error {
	s.step("The image", "Two layers: a busybox, and one empty file.")
	blob := fmt.Sprintf("http://%s/v2/example-container", s.cluster.Registry)
	out, err := s.show(ctx, "curl -s "+blob+"/manifests/1 | jq .")
	if err != nil {
		return err
	}
	var manifest struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	if err = json.Unmarshal([]byte(out), &manifest); err != nil {
		return err
	}
	config, err := s.show(ctx, "curl -s "+blob+"/blobs/"+manifest.Config.Digest+" | jq '{ config: .config, rootfs: .rootfs }'")
	if err != nil {
		return err
	}
	s.must(strings.Contains(config, cluster.ExampleLayer2DiffID), "the second layer's diff id is %s", cluster.ExampleLayer2DiffID)
	for i, want := range []string{"LAYER_1\nbin/\nbin/busybox\n", "LAYER_2\n"} {
		out, err := s.show(ctx, "curl -s "+blob+"/blobs/"+manifest.Layers[i].Digest+" | tar tz")
		if err != nil {
			return err
		}
		s.must(out == want, "layer %d holds %s", i+1, strings.Join(strings.Fields(want), ", "))
	}
	return nil
}

func (s *story) layers(ctx context.Context) error {
	s.step("Layer files", "The snapshotter makes of each layer one file: the tar, an index, a dm-verity tree.")
	for _, image := range []string{cluster.ExampleImage, cluster.PauseImage} {
		if _, err := s.show(ctx, "crictl pull "+image); err != nil {
			return err
		}
	}
	if _, err := s.show(ctx, "ls -l "+s.cluster.SnapshotterRoot()+"/layers"); err != nil {
		return err
	}
	if err := s.readSnapshots(ctx); err != nil {
		return err
	}
	for file, snap := range s.snapshot {
		if snap.Labels[rootHashLabel] != cluster.ExampleLayer2RootHash {
			continue
		}
		dir := s.cluster.SnapshotterRoot()
		out, err := s.show(ctx, "cat "+filepath.Join(dir, "snapshots", file))
		if err != nil {
			return err
		}
		s.must(strings.Contains(out, cluster.ExampleLayer2RootHash), "the metadata has the root hash %s", cluster.ExampleLayer2RootHash)
		s.must(file == snap.layerFile(), "the file's name is the SHA-256 of its chain id")
		out, err = s.show(ctx, "tar tf "+filepath.Join(dir, "layers", file))
		s.must(out == "LAYER_2\n", "a layer file is still a tar")
		return err
	}
	s.must(false, "a snapshot has the root hash %s", cluster.ExampleLayer2RootHash)
	return nil
}

// readSnapshots reads the metadata files as they stand after the pulls.
func (s *story) readSnapshots(ctx context.Context) error {
	files, err := filepath.Glob(filepath.Join(s.cluster.SnapshotterRoot(), "snapshots", "*"))
	if err != nil {
		return err
	}
	s.snapshot = map[string]snapshot{}
	for _, file := range files {
		out, err := s.cluster.Run(ctx, "cat", file)
		if err != nil {
			return err
		}
		var snap snapshot
		if err := json.Unmarshal([]byte(out), &snap); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		s.snapshot[filepath.Base(file)] = snap
	}
	s.must(len(s.snapshot) == 3, "there are 3 snapshots: two layers of the example, one of the pause image")
	return nil
}

func (s *story) pod(ctx context.Context) (err error) {
	s.step("The pod", "The handler %s gives it a virtual machine; the container's limits are those of its definition. A kubelet's work is done for it: a service account token, /etc/hosts, a ConfigMap.", cluster.Handler)
	pod, container := cluster.Pod{Name: "example"}, cluster.Container{Name: "example", CPUs: 0.2, MemoryMiB: 50}
	if container.Mounts, err = s.prepare(pod, container); err != nil {
		return err
	}
	if s.baseline, err = s.cluster.Census(); err != nil {
		return err
	}
	podFile, err := s.cluster.PodSpec(pod)
	if err != nil {
		return err
	}
	containerFile, err := s.cluster.ContainerSpec(pod, container)
	if err != nil {
		return err
	}
	if _, err = s.show(ctx, "jq -c '{ command, image, labels, linux, mounts }' "+containerFile); err != nil {
		return err
	}
	began := time.Now()
	s.prompt("$", fmt.Sprintf("crictl runp --runtime %s %s", cluster.Handler, podFile))
	s.sandbox, err = s.cluster.RunPod(ctx, pod)
	if err = s.print(s.sandbox, err); err != nil {
		return err
	}
	s.prompt("$", fmt.Sprintf("crictl create %.13s %s %s", s.sandbox, containerFile, podFile))
	s.example, err = s.cluster.CreateContainer(ctx, s.sandbox, pod, container)
	if err = s.print(s.example, err); err != nil {
		return err
	}
	if _, err := s.show(ctx, "crictl start "+s.example); err != nil {
		return err
	}
	s.say("From nothing to a running container: %s.", time.Since(began).Round(10*time.Millisecond))
	return nil
}

func (s *story) lists(ctx context.Context) error {
	s.step("What the node says", "CRI knows a pod with the handler %s, containerd two containers with our runtime.", cluster.Handler)
	out, err := s.show(ctx, "crictl pods")
	if err != nil {
		return err
	}
	s.must(strings.Contains(out, "Ready") && strings.Contains(out, "example"), "the pod is ready")
	out, err = s.show(ctx, "crictl ps")
	if err != nil {
		return err
	}
	s.must(strings.Contains(out, "Running"), "its container runs")
	out, err = s.show(ctx, "crictl inspectp "+s.sandbox+" | jq -r '.status.runtimeHandler'")
	if err != nil {
		return err
	}
	s.must(strings.TrimSpace(out) == cluster.Handler, "the handler is %s", cluster.Handler)
	out, err = s.show(ctx, `ctr --namespace k8s.io container ls "runtime.name==io.containerd.kata-cc.v2"`)
	s.must(strings.Contains(out, s.sandbox) && strings.Contains(out, s.example), "containerd lists sandbox and container")
	return err
}

func (s *story) machine(ctx context.Context) error {
	s.step("The virtual machine", "The guest's root and each layer of an image are disks of the machine, asked from Cloud Hypervisor's API.")
	out, err := s.show(ctx, cluster.VMInfoCommand(s.sandbox, "[ .config.disks[] | { path: .path, id: .id, readonly: .readonly } ]"))
	if err != nil {
		return err
	}
	root := s.cluster.Paths.Debug().RootDisk()
	s.must(strings.Contains(strings.Join(strings.Fields(out), " "), fmt.Sprintf(`{ "path": %q, "id": "_disk0"`, root)), "the guest's root is the disk _disk0")
	for file := range s.snapshot {
		s.must(strings.Count(out, filepath.Join("layers", file)) == 1, "layer file %.13s… is one disk", file)
	}
	s.must(!strings.Contains(out, `"readonly": false`), "every disk is read-only")
	return nil
}
