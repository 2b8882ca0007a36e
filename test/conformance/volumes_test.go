package conformance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agenttest"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// mounting adds a bind mount.
func mounting(source, destination string, options ...string) change {
	return func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: destination, Source: source, Type: "bind", Options: append([]string{"rbind"}, options...)})
	}
}

// revision lets a volume lead to a new revision with one file, as the kubelet does.
func revision(t testing.TB, dir, name, content string) {
	t.Helper()
	err := errors.Join(os.MkdirAll(filepath.Join(dir, name), 0o755), os.WriteFile(filepath.Join(dir, name, "key"), []byte(content), 0o644),
		os.Symlink(name, dir+"/..data_tmp"), os.Rename(dir+"/..data_tmp", dir+"/..data"))
	if err == nil {
		err = os.Symlink("..data/key", dir+"/key")
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
}

// A container's ConfigMap follows the host until the container goes; its last
// words are on the host before its exit is known.
func TestVolumesOfAContainer(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.runningPod()
	config, words := t.TempDir(), filepath.Join(t.TempDir(), "log")
	revision(t, config, "..1", "one")
	if err := os.WriteFile(words, []byte("of the run before"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.agent.Script([]string{"app"}, agenttest.Script{Block: true, LastWords: "good bye"})
	id := s.runningMember("c", args("app"), mounting(config, "/etc/app", "ro"), mounting(words, "/dev/termination-log"))
	key := func(content string) func() bool {
		return func() bool {
			for path, f := range s.agent.Files() {
				if filepath.Base(path) == "..data" {
					return string(s.agent.Files()[filepath.Join(filepath.Dir(path), string(f.Data), "key")].Data) == content
				}
			}
			return false
		}
	}
	if !key("one")() {
		t.Fatalf("the guest has %v", s.agent.Files())
	}
	revision(t, config, "..2", "two")
	h.eventually("the guest's second revision", key("two"))

	s.agent.Finish(id, "", 3)
	s.wait(id, "")
	if data, err := os.ReadFile(words); string(data) != "good bye" || err != nil {
		t.Errorf("on the host the termination log reads %q, %v", data, err)
	}
	s.remove(id, "")
	copies := len(s.agent.Calls())
	revision(t, config, "..3", "three")
	if key("three")() {
		t.Error("the volume of a container that is gone is updated")
	}
	if n := len(s.agent.Calls("GetOOMEvent", "Check")); n > copies {
		t.Errorf("%d requests after the container is gone, %d before", n, copies)
	}
	s.finish(s.id)
}

// A container with a ConfigMap of 200 small files.
func BenchmarkCreateWith200Files(b *testing.B) {
	h := newHost(b, memory.Script{})
	dir := b.TempDir()
	for i := range 200 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file", i)), make([]byte, 1000), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	s := h.runningPod()
	n := 0
	for b.Loop() {
		b.StopTimer()
		n++
		id := h.id(fmt.Sprint("c", n))
		s.attach(id, mounting(dir, "/etc/app", "ro"))
		layer := h.layer("base")
		b.StartTimer()
		s.create(id, streams{}, layer)
		b.StopTimer()
		s.run(id, "")
		s.kill(id, "", uint32(unix.SIGKILL))
		s.wait(id, "")
		s.remove(id, "")
		b.StartTimer()
	}
	s.finish(s.id)
}
