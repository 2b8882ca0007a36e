package mounts

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// ContainerType is the part a container plays in its sandbox. The value is what
// the guest's policy sees of it.
type ContainerType string

// The container types.
const (
	PodSandbox      ContainerType = "pod_sandbox"      // the pause container of a pod
	PodContainer    ContainerType = "pod_container"    // a later container of a pod
	SingleContainer ContainerType = "single_container" // a container without a pod
)

// typeKeys are the annotations that tell the type, the first one present decides;
// sandboxKeys those that tell the sandbox of a pod's container.
var (
	typeKeys    = []string{"io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType", "io.kubernetes.docker.type"}
	sandboxKeys = []string{"io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID", "io.kubernetes.sandbox.id"}
)

// Identify tells from the annotations of a container's spec what type it has and
// which sandbox it belongs to; id is the container's own.
func Identify(annotations map[string]string, id string) (ContainerType, string, error) {
	key, value := first(annotations, typeKeys)
	switch {
	case key == "":
		return SingleContainer, id, nil
	case value == "sandbox" || value == "podsandbox":
		return PodSandbox, id, nil
	case value != "container":
		return "", "", fmt.Errorf("container %s: annotation %s is %q, want sandbox or container: %w", id, key, value, errdefs.ErrInvalidArgument)
	}
	if _, sandbox := first(annotations, sandboxKeys); sandbox != "" {
		return PodContainer, sandbox, nil
	}
	return "", "", fmt.Errorf("container %s of a pod: no annotation %s names its sandbox: %w", id, sandboxKeys[0], errdefs.ErrInvalidArgument)
}

func first(annotations map[string]string, keys []string) (key, value string) {
	for _, k := range keys {
		if v, ok := annotations[k]; ok {
			return k, v
		}
	}
	return "", ""
}
