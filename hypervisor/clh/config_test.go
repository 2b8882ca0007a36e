package clh

import (
	"bytes"
	"encoding/json"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kata-cc/kata-cc/hypervisor"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestDocuments(t *testing.T) {
	const id = "6aa04b0c9483817bb9da7216c352348d33d6fda1ecd10ac5c836bcd4a1652bed"
	image := hypervisor.Spec{ID: id, VCPUs: 2, MemoryMiB: 2098, Kernel: "/opt/kata/vmlinuz", Image: "/opt/kata/kata-containers.img"}
	initrd := hypervisor.Spec{ID: id, VCPUs: 1, MemoryMiB: 512, Kernel: "/opt/kata/vmlinuz", Initrd: "/opt/kata/initrd.img", Debug: true,
		KernelParams: "agent.debug_console agent.debug_console_vport=1026"}
	both := image
	both.Initrd = initrd.Initrd
	root := image
	root.KernelParams = "root=/dev/dm-0 ro"
	confidential := hypervisor.Spec{ID: id, VCPUs: 2, MemoryMiB: 2098, Image: image.Image, Confidential: &hypervisor.Confidential{
		IGVM: "/opt/confidential-containers/share/kata-containers/kata-containers-igvm.img", HostData: strings.Repeat("3f", 32),
	}}
	confidentialDebug := confidential
	confidentialDebug.Debug = true
	limited := image
	limited.Hugepages, limited.DiskRate = true, hypervisor.Rate{Bytes: 10_000_000, BytesBurst: 1 << 20}
	growing := image
	growing.VCPUs, growing.MemoryMiB, growing.MaxVCPUs, growing.MaxMemoryMiB = 1, 2048, 8, 8192
	rate := hypervisor.Rate{Bytes: 1_250_000, Ops: 500, OpsBurst: 1000}
	dir := filepath.Join(DefaultDir, id)
	mac := net.HardwareAddr{0x0a, 0x58, 0x0a, 0xf4, 0, 5}
	for name, doc := range map[string]any{
		"vm.create-image":            vmConfig(image, dir, 1),
		"vm.create-initrd":           vmConfig(initrd, dir, 4),
		"vm.create-image-and-initrd": vmConfig(both, dir, 1),
		"vm.create-own-root":         vmConfig(root, dir, 1),
		"vm.create-sev-snp":          vmConfig(confidential, dir, 10),
		"vm.create-sev-snp-debug":    vmConfig(confidentialDebug, dir, 10),
		"vm.create-growing":          vmConfig(growing, dir, 10),
		"vm.create-limited":          vmConfig(limited, dir, 10),
		"vm.add-net-limited":         netConfig(hypervisor.NIC{ID: "eth0", MAC: mac}, rate),
		"vm.add-net":                 netConfig(hypervisor.NIC{ID: "eth0", MAC: mac}, hypervisor.Rate{}),
		"vm.add-disk-limited":        diskConfig(hypervisor.Disk{ID: "layer-2ead9678c1b2", Path: "/layers/2ead9678c1b2", ReadOnly: true}, 9, rate),
		"vm.add-disk": diskConfig(hypervisor.Disk{ID: "layer-2ead9678c1b2", Serial: "2ead9678c1b2", ReadOnly: true,
			Path: "/var/lib/containerd/io.containerd.snapshotter.v1.tardev/layers/2ead9678c1b2"}, 1, hypervisor.Rate{}),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := json.MarshalIndent(doc, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			if strings.Contains(string(got), "null") {
				t.Error("an unset member is sent as null")
			}
			golden := filepath.Join("testdata", name+".golden.json")
			if *update {
				if err = os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}
