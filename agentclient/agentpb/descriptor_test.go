package agentpb

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// published is the protocol as upstream's agent defines it: a FileDescriptorSet
// that may lie beside the checkout.
var published = filepath.Join("..", "..", "..", "shared", "agent", "agent-protocol.binpb")

// describe lists a file's elements, one line each, as the wire and JSON see them.
func describe(f protoreflect.FileDescriptor, lines map[string]bool) {
	for i := range f.Messages().Len() {
		describeMessage(f.Messages().Get(i), lines)
	}
	for i := range f.Enums().Len() {
		describeEnum(f.Enums().Get(i), lines)
	}
	for i := range f.Services().Len() {
		s := f.Services().Get(i)
		for j := range s.Methods().Len() {
			m := s.Methods().Get(j)
			lines[fmt.Sprintf("rpc %s (%s) returns (%s) streams %v %v", m.FullName(), m.Input().FullName(), m.Output().FullName(),
				m.IsStreamingClient(), m.IsStreamingServer())] = true
		}
	}
}

func describeMessage(m protoreflect.MessageDescriptor, lines map[string]bool) {
	lines["message "+string(m.FullName())] = true
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		kind := f.Kind().String()
		if f.Message() != nil {
			kind = string(f.Message().FullName())
		} else if f.Enum() != nil {
			kind = string(f.Enum().FullName())
		}
		lines[fmt.Sprintf("field %s = %d %s %s presence %v packed %v json %s", f.FullName(), f.Number(), f.Cardinality(), kind,
			f.HasPresence(), f.IsPacked(), f.JSONName())] = true
	}
	for i := range m.Messages().Len() {
		describeMessage(m.Messages().Get(i), lines)
	}
	for i := range m.Enums().Len() {
		describeEnum(m.Enums().Get(i), lines)
	}
}

func describeEnum(e protoreflect.EnumDescriptor, lines map[string]bool) {
	for i := range e.Values().Len() {
		v := e.Values().Get(i)
		lines[fmt.Sprintf("enum %s %s = %d", e.FullName(), v.Name(), v.Number())] = true
	}
}

func TestProtocolIsThePublishedOne(t *testing.T) {
	data, err := os.ReadFile(published)
	if err != nil {
		t.Skipf("needs the published protocol: %v", err)
	}
	var set descriptorpb.FileDescriptorSet
	if err = proto.Unmarshal(data, &set); err != nil {
		t.Fatal(err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		t.Fatal(err)
	}
	want, got := map[string]bool{}, map[string]bool{}
	files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if f.Package() == "grpc" || f.Package() == "types" {
			describe(f, want)
		}
		return true
	})
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if f.Package() == "grpc" || f.Package() == "types" {
			describe(f, got)
		}
		return true
	})
	for _, line := range slices.Sorted(maps.Keys(want)) {
		if !got[line] {
			t.Errorf("missing: %s", line)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(got)) {
		if !want[line] {
			t.Errorf("not published: %s", line)
		}
	}
	if n := strings.Count(strings.Join(slices.Collect(maps.Keys(got)), "\n"), "rpc grpc.AgentService"); n != 42 {
		t.Errorf("%d requests of the agent, want 42", n)
	}
}
