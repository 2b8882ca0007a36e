package clhserver

import (
	"context"
	"reflect"
	"strings"

	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
)

// parentPrefix names the PCI function in which a virtio device sits.
const parentPrefix = "_virtio-pci-"

func (s *server) info(context.Context, *request) (any, error) {
	v, err := s.current()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	info := api.VmInfo{Config: v.config, State: v.state, MemoryActualSize: &v.config.Memory.Size}
	if v.state != api.VmInfoStateCreated {
		info.DeviceTree = ptr(v.tree())
	}
	if s.cfg.Profile.OmitNull {
		return info, nil
	}
	return withNulls(reflect.ValueOf(info)), nil
}

// tree lists the devices as the original does: a virtio device is the child of
// its PCI function, which has the position.
func (v *vm) tree() map[string]api.DeviceNode {
	nodes := map[string]api.DeviceNode{}
	none := &[]string{}
	resources := &[]map[string]any{}
	for id, d := range v.devices {
		node := api.DeviceNode{Id: &id, Children: none, Resources: resources}
		switch {
		case d.at == nil:
		case strings.HasPrefix(id, "__slot"):
			node.PciBdf = ptr(v.address(*d.at).String())
		default:
			parent := parentPrefix + id
			node.Parent = &parent
			nodes[parent] = api.DeviceNode{
				Id: &parent, Children: &[]string{id}, Resources: resources, PciBdf: ptr(v.address(*d.at).String()),
			}
		}
		nodes[id] = node
	}
	return nodes
}

// withNulls turns a value into what encodes it with null for every unset
// member, as versions before 53 answer.
func withNulls(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return withNulls(v.Elem())
	case reflect.Struct:
		out := map[string]any{}
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			out[name] = withNulls(v.Field(i))
		}
		return out
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = withNulls(v.Index(i))
		}
		return out
	case reflect.Map:
		out := map[string]any{}
		for _, k := range v.MapKeys() {
			out[k.String()] = withNulls(v.MapIndex(k))
		}
		return out
	default:
		return v.Interface()
	}
}

func (s *server) counters(context.Context, *request) (any, error) {
	v, err := s.running(api.VmInfoStateRunning, api.VmInfoStatePaused)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := api.VmCounters{}
	for _, d := range value(v.config.Disks) {
		out[value(d.Id)] = zeros("read_bytes", "write_bytes", "read_ops", "write_ops")
	}
	for _, n := range value(v.config.Net) {
		out[value(n.Id)] = zeros("rx_bytes", "rx_frames", "tx_bytes", "tx_frames")
	}
	return out, nil
}

func zeros(names ...string) map[string]uint64 {
	m := map[string]uint64{}
	for _, n := range names {
		m[n] = 0
	}
	return m
}
