package clhserver

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
)

// FuzzRequest: a request is read whole or not at all, its body is as long as it
// says and never longer than allowed, and however the bytes are cut makes no
// difference.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n",
		"PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}GET",
		"PUT http://localhost/x HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
		"PATCH / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET\n\n", "\r\n\r\n", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		const maxBody = 64
		req, err := readRequest(bufio.NewReader(bytes.NewReader(in)), maxBody, io.Discard)
		again, err2 := readRequest(bufio.NewReader(oneByOne{bytes.NewReader(in)}), maxBody, io.Discard)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("whole: %v, byte by byte: %v", err, err2)
		}
		if err != nil {
			var bad badHTTP
			if !errors.As(err, &bad) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if req.method != again.method || req.path != again.path || !bytes.Equal(req.body, again.body) {
			t.Fatalf("%+v byte by byte is %+v", req, again)
		}
		if len(req.body) > maxBody || !strings.HasPrefix(req.path, "/") || !bytes.Contains(in, req.body) {
			t.Fatalf("read %+v", req)
		}
	})
}

type oneByOne struct{ r io.Reader }

func (o oneByOne) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

type slotless struct{ Backend }

func (slotless) ReservedSlots(int) []uint8                { return []uint8{1} }
func (slotless) MaxSegments() int                         { return 96 }
func (slotless) Address(at hypervisor.BDF) hypervisor.BDF { return at }

// FuzzConfig: a description that passes validation can be built, and then every
// device has a slot of its own.
func FuzzConfig(f *testing.F) {
	for _, s := range []string{
		`{"payload":{"kernel":"/k"},"disks":[{"path":"/d"},{"path":"/e","id":"x"}],"vsock":{"cid":3,"socket":"/s"}}`,
		`{"payload":{"kernel":"/k"},"platform":{"num_pci_segments":2},"disks":[{"path":"/d","pci_segment":1}],"console":{"mode":"Off"}}`,
		`{"payload":{"kernel":"/k"},"cpus":null,"net":[{"mac":"x"}],"disks":null}`,
		`{"payload":{"kernel":"/k"},"disks":[{"path":"/d","id":"_disk0"},{"path":"/d"}]}`,
		`null`, `{}`, `[]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var c api.VmConfig
		if decode(in, &c) != nil {
			return
		}
		fillDefaults(&c)
		server := &server{cfg: Config{Profile: profiles[0].Profile}, backend: slotless{}}
		if server.validate(&c) != nil {
			return
		}
		v := &vm{config: c, devices: map[string]*device{}}
		m, err := server.build(v)
		if err != nil {
			if strings.Contains(err.Error(), "AlreadyInUse") {
				t.Fatal(err)
			}
			return // too many devices, a card without taps
		}
		seen := map[hypervisor.BDF]bool{{Device: 1}: true}
		for id, d := range v.devices {
			if d.at != nil && !strings.HasPrefix(id, "__slot") {
				if seen[*d.at] || d.at.Device == 0 {
					t.Fatalf("%s at %s, where there is another: %+v", id, d.at, m)
				}
				seen[*d.at] = true
			}
		}
	})
}
