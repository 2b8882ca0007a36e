package mounts

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

// dropped are the fields of a spec that stay on the host, and why.
var dropped = map[string]string{
	"Hooks":                                    "they run on the host",
	"Root.Path":                                "the guest has its own",
	"Process.SelinuxLabel":                     "the guest has no SELinux",
	"Linux.MountLabel":                         "the guest has no SELinux",
	"Linux.IntelRdt":                           "the host's caches",
	"Linux.Namespaces.Path":                    "namespaces of the host",
	"Linux.Resources.Devices":                  "the guest's own devices",
	"Linux.Resources.Pids":                     "the guest's own processes",
	"Linux.Resources.BlockIO":                  "the host's disks",
	"Linux.Resources.Network":                  "the host's interfaces",
	"Linux.Resources.Rdma":                     "the host's adapters",
	"Linux.Resources.Unified":                  "the host's cgroups",
	"Linux.Resources.CPU.Cpus":                 "the host's processors",
	"Linux.Resources.CPU.Mems":                 "the host's memory nodes",
	"Linux.Resources.CPU.Burst":                "not in the protocol",
	"Linux.Resources.CPU.Idle":                 "not in the protocol",
	"Linux.Resources.Memory.UseHierarchy":      "always so in the guest",
	"Linux.Resources.Memory.CheckBeforeUpdate": "not in the protocol",
	"Linux.Resources.Memory.Kernel":            "obsolete",
	"Linux.Seccomp.DefaultErrnoRet":            "not in the protocol; the agent answers EPERM",
	"Version":                                  "the guest is told Options.OCIVersion",
	"Linux.Seccomp.ListenerMetadata":           "means nothing without the listener",
}

// minimal is a spec that can be planned.
func minimal() *specs.Spec {
	return &specs.Spec{
		Version: "1.2.0",
		Process: &specs.Process{Args: []string{"/app"}, Cwd: "/"},
		Root:    &specs.Root{},
		Linux:   &specs.Linux{},
	}
}

// TestNothingIsLostInSilence sets every field of a spec in turn: the plan must
// change, or refuse it, or the field must be among the dropped ones.
func TestNothingIsLostInSilence(t *testing.T) {
	_, rootfs, _ := bundle(t, "example")
	o := Options{SandboxID: "sb", ContainerID: "cc", Type: PodContainer, Random: func() string { return "0123456789abcdef" }}
	with := func(path []string, name string) (*Plan, error) {
		spec := minimal()
		set(reflect.ValueOf(spec).Elem(), path)
		repair(spec, name)
		return New(spec, rootfs, o)
	}
	left := maps.Clone(dropped)
	for _, path := range leaves(reflect.TypeFor[specs.Spec](), nil) {
		name := strings.Join(path, ".")
		base, _ := with(path[:len(path)-1], "") // has what holds the field
		plan, err := with(path, name)
		carried := err == nil && !proto.Equal(plan.request, base.request)
		if err != nil && !errdefs.IsNotImplemented(err) {
			t.Errorf("%s: %v, want it carried or ErrNotImplemented", name, err)
		}
		entry, isDropped := covering(name)
		switch {
		case err == nil && !carried && !isDropped:
			t.Errorf("%s is lost", name)
		case carried && isDropped && entry == name:
			t.Errorf("%s is carried, yet listed as dropped", name)
		}
		if isDropped {
			delete(left, entry)
		}
	}
	for name := range left {
		t.Errorf("%s is listed as dropped, but no field", name)
	}
}

// covering finds the entry of dropped that is name or a field above it.
func covering(name string) (string, bool) {
	for p := name; p != ""; p = p[:max(0, strings.LastIndex(p, "."))] {
		if dropped[p] != "" {
			return p, true
		}
	}
	return "", false
}

// leaves lists the fields below a type that hold a value, as paths of names.
func leaves(t reflect.Type, path []string) [][]string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t.NumField() == 0 {
		return [][]string{path}
	}
	if len(path) == 1 && slices.Contains([]string{"Solaris", "Windows", "VM", "ZOS", "FreeBSD"}, path[0]) {
		return [][]string{path} // refused as a whole
	}
	var all [][]string
	for i := range t.NumField() {
		all = append(all, leaves(t.Field(i).Type, append(slices.Clone(path), t.Field(i).Name))...)
	}
	return all
}

// set gives the field at path a value that is not its zero value.
func set(v reflect.Value, path []string) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		set(v.Elem(), path)
	case reflect.Slice:
		e := reflect.New(v.Type().Elem()).Elem()
		set(e, path)
		v.Set(reflect.Append(v, e))
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		set(e, path)
		m := reflect.MakeMap(v.Type())
		m.SetMapIndex(reflect.ValueOf("key").Convert(v.Type().Key()), e)
		v.Set(m)
	case reflect.Struct:
		if len(path) > 0 {
			set(v.FieldByName(path[0]), path[1:])
		}
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(7)
	default:
		if v.CanInt() {
			v.SetInt(7)
		} else {
			v.SetUint(7)
		}
	}
}

// repair completes what is refused for another reason than the field itself.
func repair(spec *specs.Spec, name string) {
	if name == "Annotations" {
		spec.Annotations = map[string]string{"io.kubernetes.cri.key": "text"}
	}
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		if name != "Mounts.Destination" {
			m.Destination = "/mnt"
		} else {
			m.Destination = "/text"
		}
		if name != "Mounts.Type" {
			m.Type = "tmpfs"
		}
	}
}

func TestContainersOfAPodAreTold(t *testing.T) {
	for _, c := range []struct {
		annotations map[string]string
		kind        ContainerType
		sandbox     string
	}{
		{nil, SingleContainer, "id"},
		{map[string]string{"io.kubernetes.cri.container-type": "sandbox"}, PodSandbox, "id"},
		{map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "sb"}, PodContainer, "sb"},
		{map[string]string{"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "sb"}, PodContainer, "sb"},
		{map[string]string{"io.kubernetes.docker.type": "podsandbox"}, PodSandbox, "id"},
		{map[string]string{"io.kubernetes.cri.container-type": "container"}, "", ""},
		{map[string]string{"io.kubernetes.cri.container-type": "other"}, "", ""},
	} {
		kind, sandbox, err := Identify(c.annotations, "id")
		if kind != c.kind || sandbox != c.sandbox || (err != nil) != (c.kind == "") {
			t.Errorf("Identify(%v) = %q, %q, %v; want %q, %q", c.annotations, kind, sandbox, err, c.kind, c.sandbox)
		}
	}
}

func TestExecLeavesTheContainersCapabilitiesToTheAgent(t *testing.T) {
	caps := &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}
	p := &specs.Process{Args: []string{"sh"}, Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}, NoNewPrivileges: true}
	r := NewExecRequest("c", "e", p, caps)
	if r.GetProcess().GetCapabilities() != nil || !r.GetProcess().GetNoNewPrivileges() {
		t.Errorf("%v: want no capabilities, no new privileges", r)
	}
	p.Capabilities.Bounding = []string{"CAP_SYS_ADMIN"}
	if r := NewExecRequest("c", "e", p, caps); r.GetProcess().GetCapabilities() == nil {
		t.Errorf("%v: want the capabilities that differ", r)
	}
}

func TestSandboxRequest(t *testing.T) {
	spec := minimal()
	spec.Hostname = strings.Repeat("h", 70)
	r := NewSandboxRequest(spec, Options{SandboxID: "sb", KernelModules: []string{"nbd max_part=8", ""}}, nil, 0)
	if len(r.GetHostname()) != 64 || len(r.GetDns()) != 0 || len(r.GetStorages()) != 0 || len(r.GetKernelModules()) != 1 {
		t.Errorf("%v: want a name of 64 bytes, one module, nothing else", r)
	}
	if m := r.GetKernelModules()[0]; m.GetName() != "nbd" || !slices.Equal(m.GetParameters(), []string{"max_part=8"}) {
		t.Errorf("module %v", m)
	}
}
