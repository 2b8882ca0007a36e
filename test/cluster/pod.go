package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Pod is what a caller may say about a pod; the zero value but for the name is
// a good pod.
type Pod struct {
	Name        string
	Annotations map[string]string
	Handler     string // empty: Handler
}

// Container is likewise what may be said about a container.
type Container struct {
	Name    string
	Image   string   // empty: ExampleImage
	Command []string // empty: one that runs until it is killed
	Args    []string
	Env     map[string]string
	TTY     bool
	Stdin   bool
	// Limits: 0 is none.
	CPUs      float64
	MemoryMiB int64
	HugeMiB   int64 // in pages of 2 MiB
	Mounts    []Mount
	Devices   []Device
}

// Mount is a file or directory of the host that a container sees.
type Mount struct {
	Host      string `json:"host_path,omitempty"`
	Container string `json:"container_path"`
	ReadOnly  bool   `json:"readonly"`
	// Image is mounted in place of Host, or the directory ImageSubPath in it.
	Image        *MountImage `json:"image,omitempty"`
	ImageSubPath string      `json:"image_sub_path,omitempty"`
}

// MountImage names an image.
type MountImage struct {
	Reference string `json:"image"`
}

// Device is a device of the host that a container uses.
type Device struct {
	Host        string `json:"host_path"`
	Container   string `json:"container_path"`
	Permissions string `json:"permissions"` // "rwm", "r"
}

// idPattern is the form of containerd's ids for sandboxes and containers.
var idPattern = regexp.MustCompile(`\b[0-9a-f]{64}\b`)

// Forever is a command that runs until it is killed.
var Forever = []string{"/bin/busybox", "tail", "-f", "/dev/null"}

// awaitCRI waits until containerd's CRI plugin has found the CNI configuration.
func (c *Cluster) awaitCRI(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, daemonReadyTimeout)
	defer cancel()
	for {
		out, err := c.Run(ctx, "crictl", "info")
		var info struct {
			Status struct {
				Conditions []struct {
					Type   string
					Status bool
				}
			}
		}
		if err == nil {
			err = json.Unmarshal([]byte(out), &info)
		}
		ready := 0
		for _, cond := range info.Status.Conditions {
			if cond.Status && (cond.Type == "RuntimeReady" || cond.Type == "NetworkReady") {
				ready++
			}
		}
		if err == nil && ready == 2 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("containerd's CRI is not ready: %w", errors.Join(ctx.Err(), err))
		case <-time.After(pollInterval):
		}
	}
}

// Pull pulls an image by its reference.
func (c *Cluster) Pull(ctx context.Context, image string) error {
	_, err := c.Run(ctx, "crictl", "pull", image)
	return err
}

// LogDir is where containerd writes the logs of a pod's containers.
func (c *Cluster) LogDir(pod string) string { return filepath.Join(c.Dir, "log", "pods", pod) }

// PodSpec writes p as crictl wants it and returns the file.
func (c *Cluster) PodSpec(p Pod) (string, error) {
	spec := map[string]any{
		"metadata":      map[string]any{"name": p.Name, "namespace": "default", "uid": c.name + "-" + p.Name, "attempt": 0},
		"hostname":      p.Name,
		"log_directory": c.LogDir(p.Name),
		"labels":        podLabels(p),
		"annotations":   p.Annotations,
		"linux":         map[string]any{"cgroup_parent": c.cgroupParent()},
	}
	if err := os.MkdirAll(c.LogDir(p.Name), 0o755); err != nil {
		return "", err
	}
	return c.writeSpec("pod-"+p.Name, spec)
}

// ContainerSpec writes k of the pod p as crictl wants it and returns the file.
func (c *Cluster) ContainerSpec(p Pod, k Container) (string, error) {
	if k.Image == "" {
		k.Image = ExampleImage
	}
	if k.Command == nil {
		k.Command = Forever
	}
	env := []map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(k.Env)) {
		env = append(env, map[string]string{"key": key, "value": k.Env[key]})
	}
	resources := map[string]any{}
	if k.CPUs > 0 {
		resources["cpu_period"], resources["cpu_quota"] = 100000, int64(k.CPUs*100000)
	}
	if k.MemoryMiB > 0 {
		resources["memory_limit_in_bytes"] = k.MemoryMiB << 20
	}
	if k.HugeMiB > 0 {
		resources["hugepage_limits"] = []map[string]any{{"page_size": "2MB", "limit": k.HugeMiB << 20}}
	}
	return c.writeSpec("container-"+p.Name+"-"+k.Name, map[string]any{
		"metadata": map[string]any{"name": k.Name, "attempt": 0},
		"image":    map[string]any{"image": k.Image},
		"labels":   podLabels(p),
		"command":  k.Command,
		"args":     k.Args,
		"envs":     env,
		"log_path": k.Name + ".log",
		"tty":      k.TTY,
		"stdin":    k.Stdin,
		"mounts":   append([]Mount{}, k.Mounts...),
		"devices":  append([]Device{}, k.Devices...),
		"linux":    map[string]any{"resources": resources},
	})
}

// podLabels are kubelet's, which crictl shows.
func podLabels(p Pod) map[string]string {
	return map[string]string{"io.kubernetes.pod.name": p.Name, "io.kubernetes.pod.namespace": "default"}
}

func (c *Cluster) writeSpec(name string, spec any) (string, error) {
	text, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return "", err
	}
	file := filepath.Join("spec", name+".json")
	return file, os.WriteFile(c.dir(file), append(text, '\n'), 0o644)
}

// RunPod starts a pod's sandbox and returns its id.
func (c *Cluster) RunPod(ctx context.Context, p Pod) (string, error) {
	file, err := c.PodSpec(p)
	if err != nil {
		return "", err
	}
	handler := p.Handler
	if handler == "" {
		handler = Handler
	}
	return c.made(c.Run(ctx, "crictl", "runp", "--runtime", handler, file))
}

// CreateContainer creates a container in the pod and returns its id.
func (c *Cluster) CreateContainer(ctx context.Context, pod string, p Pod, k Container) (string, error) {
	podFile, err1 := c.PodSpec(p)
	containerFile, err2 := c.ContainerSpec(p, k)
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	return c.made(c.Run(ctx, "crictl", "create", pod, containerFile, podFile))
}

// made takes the id that a crictl verb printed.
func (c *Cluster) made(out string, err error) (string, error) {
	id := strings.TrimSpace(out)
	if err != nil {
		// What failed may have left something: its id is in the message only.
		c.RememberAll(err.Error())
		return "", err
	}
	c.remember(id)
	return id, nil
}

// StartContainer starts a created container.
func (c *Cluster) StartContainer(ctx context.Context, id string) error {
	_, err := c.Run(ctx, "crictl", "start", id)
	return err
}

// RunContainer creates and starts a container.
func (c *Cluster) RunContainer(ctx context.Context, pod string, p Pod, k Container) (string, error) {
	id, err := c.CreateContainer(ctx, pod, p, k)
	if err != nil {
		return "", err
	}
	return id, c.StartContainer(ctx, id)
}

// Exec runs a command in a container and returns its standard output; ExitCode
// tells the exit status of one that failed.
func (c *Cluster) Exec(ctx context.Context, id string, command ...string) (string, error) {
	return c.Run(ctx, append([]string{"crictl", "exec", id}, command...)...)
}

// PodIP is the address of a pod.
func (c *Cluster) PodIP(ctx context.Context, pod string) (string, error) {
	return c.field(ctx, ".status.network.ip", "inspectp", pod)
}

// Gateway is the address of the host as pods see it.
func (c *Cluster) Gateway() string {
	return strings.TrimSuffix(c.subnet, "0/24") + "1"
}

// State is a container's state in CRI's words, such as CONTAINER_RUNNING, and
// its exit code.
func (c *Cluster) State(ctx context.Context, id string) (string, error) {
	return c.field(ctx, `"\(.status.state) \(.status.exitCode)"`, "inspect", id)
}

// field is one value of what crictl prints as JSON.
func (c *Cluster) field(ctx context.Context, filter string, args ...string) (string, error) {
	out, err := c.Run(ctx, append([]string{"crictl"}, args...)...)
	if err != nil {
		return "", err
	}
	value, err := c.run(ctx, out, "jq", "-r", filter)
	return strings.TrimSpace(value), err
}

// RemovePod stops and removes a pod and its containers.
func (c *Cluster) RemovePod(ctx context.Context, pod string) error {
	if _, err := c.Run(ctx, "crictl", "stopp", pod); err != nil {
		return err
	}
	_, err := c.Run(ctx, "crictl", "rmp", "--force", pod)
	return err
}

// RemoveAll removes every pod and every container without a pod.
func (c *Cluster) RemoveAll(ctx context.Context) error {
	if len(c.daemons) < 2 {
		return nil // containerd never ran
	}
	select {
	case <-c.daemons[1].done:
		return nil
	default:
	}
	out, err := c.Run(ctx, "crictl", "pods", "--quiet")
	if err != nil {
		return err
	}
	var errs []error
	for _, pod := range strings.Fields(out) {
		errs = append(errs, c.RemovePod(ctx, pod))
	}
	return errors.Join(errs...)
}
