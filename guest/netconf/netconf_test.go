package netconf

import (
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

func TestNewAddr(t *testing.T) {
	for in, want := range map[[2]string]string{
		{"10.0.0.1", "24"}: "10.0.0.1/24", {"fd00::1", "64"}: "fd00::1/64", {"::ffff:10.0.0.1", "24"}: "10.0.0.1/24",
		{"10.0.0.1", "33"}: "", {"10.0.0.1", "-1"}: "", {"10.0.0.1", ""}: "", {"10.0.0", "24"}: "", {"", ""}: "",
	} {
		got, err := newAddr(&agentpb.IPAddress{Address: in[0], Mask: in[1]})
		if want == "" {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v: error is %v", in, err)
			}
			continue
		}
		if err != nil || got.IPNet.String() != want {
			t.Errorf("%v is %v, %v, want %s", in, got, err, want)
		}
	}
}

func TestParseDest(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "10.1.2.3": "10.1.2.3/32", "fd00::1": "fd00::1/128", "10.1.2.3/8": "10.0.0.0/8", "x": "", "10.0.0.0/33": "",
	} {
		got, err := parseDest(in)
		if (err == nil) != (want != "") || (err == nil && got.String() != want) {
			t.Errorf("parseDest(%q) = %v, %v, want %q", in, got, err, want)
		}
	}
}

func FuzzNewAddr(f *testing.F) {
	f.Add("10.0.0.1", "24")
	f.Fuzz(func(t *testing.T, address, mask string) {
		a, err := newAddr(&agentpb.IPAddress{Address: address, Mask: mask})
		if err != nil {
			return
		}
		if ones, size := a.Mask.Size(); size != 8*len(a.IP) || ones < 0 {
			t.Errorf("%q, %q is %v", address, mask, a)
		}
	})
}

func TestTemporaryName(t *testing.T) {
	for _, name := range []string{"eth0", "a-name-of-15-chr"[:15]} {
		if got := temporaryName(name); got == name || len(got) >= unix.IFNAMSIZ {
			t.Errorf("temporary name of %q is %q", name, got)
		}
	}
}
