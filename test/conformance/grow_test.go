package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/agentclient/agenttest"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
	"github.com/kata-cc/kata-cc/mounts"
	"github.com/kata-cc/kata-cc/sandbox"
)

// directVolume makes a direct-assigned volume of a file of one MiB.
func directVolume(t testing.TB) (source, file string) {
	t.Helper()
	source, file = t.TempDir(), filepath.Join(t.TempDir(), "disk")
	dir := mounts.DirectVolumeDir(source)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	info := fmt.Sprintf(`{"volume-type":"block","device":%q,"fstype":"ext4"}`, file)
	for path, content := range map[string][]byte{file: make([]byte, 1<<20), filepath.Join(dir, mounts.DirectVolumeFile): []byte(info)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return source, file
}

// resize asks the sandbox's shim as kata-runtime does.
func (s *shim) resize(source string, size uint64) (int, string) {
	s.h.t.Helper()
	status, text, err := s.tryResize(s.h.ctx(), source, size)
	if err != nil {
		s.h.t.Fatal(err)
	}
	return status, text
}

func (s *shim) tryResize(ctx context.Context, source string, size uint64) (int, string, error) {
	s.h.t.Helper()
	body, err := json.Marshal(sandbox.ResizeRequest{VolumePath: source, Size: size})
	if err != nil {
		s.h.t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", filepath.Join(s.h.run, "sbs", s.id, sandbox.MonitorSocket))
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://shim"+sandbox.ResizePath, bytes.NewReader(body))
	if err != nil {
		s.h.t.Fatal(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}

func TestDirectVolumeIsResized(t *testing.T) {
	for version, want := range map[string]int{"40.0.0": http.StatusNotImplemented, "51.1.0": http.StatusOK} {
		t.Run(version, func(t *testing.T) {
			h := newHost(t, memory.Script{Version: version})
			h.flavour = agenttest.Ours
			source, file := directVolume(t)
			s := h.runningPod()
			id := s.runningMember("c", mounting(source, "/data"))

			status, text := s.resize(source, 4<<20)
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if status != want {
				t.Errorf("status %d, want %d: %s", status, want, text)
			}
			var asked *agentpb.ResizeVolumeRequest
			for _, c := range s.agent.Calls() {
				if r, ok := c.Request.(*agentpb.ResizeVolumeRequest); ok {
					asked = r
				}
			}
			if want == http.StatusOK {
				if info.Size() != 4<<20 || asked.GetSize() != 4<<20 || !strings.HasPrefix(asked.GetVolumeGuestPath(), "/run/kata-containers/sandbox/storage/") {
					t.Errorf("the file has %d bytes, the agent was asked for %v", info.Size(), asked)
				}
				if status, text := s.resize(source, 2<<20); status != http.StatusBadRequest || !strings.Contains(text, "shrink") {
					t.Errorf("a smaller size: %d, %s", status, text)
				}
			} else if info.Size() != 1<<20 || asked != nil || !strings.Contains(text, "version 40") {
				t.Errorf("the file has %d bytes, the agent was asked for %v: %s", info.Size(), asked, text)
			}
			if status, _ := s.resize(source+"x", 4<<20); status != http.StatusNotFound {
				t.Errorf("an unknown volume: status %d", status)
			}
			s.kill(id, "", 9)
			s.wait(id, "")
			s.remove(id, "")
			if status, _ := s.resize(source, 8<<20); status != http.StatusNotFound {
				t.Errorf("a volume that no container has any more: status %d", status)
			}
			s.finish(s.id)
		})
	}
}
