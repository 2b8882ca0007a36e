package clhserver_test

import (
	"fmt"
	"testing"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

const mib = 1 << 20

func ram(mibs int) string { return fmt.Sprintf(`{"desired_ram":%d}`, mibs*mib) }

func (v *vmm) wantSize(vcpus, mibs int) {
	v.t.Helper()
	c := v.info().Config
	if c.Cpus.BootVcpus != vcpus || c.Memory.Size != uint64(mibs)*mib {
		v.t.Errorf("the machine has %d vCPUs and %d bytes, want %d and %d MiB", c.Cpus.BootVcpus, c.Memory.Size, vcpus, mibs)
	}
}

func (v *vmm) bootGrowing() {
	v.t.Helper()
	v.boot(`,"cpus":{"boot_vcpus":1,"max_vcpus":4},"memory":{"size":268435456,"hotplug_size":2147483648}`)
}

func TestResizeInEveryVersion(t *testing.T) {
	for version, none := range map[string]int{"40": 204, "46": 500, "51": 500, "53": 500, "54": 500} {
		t.Run(version, func(t *testing.T) {
			v := serve(t, memory.Script{Version: version})
			v.bootGrowing()
			v.want(204, "", put("vm.resize", `{"desired_vcpus":3}`))
			v.want(500, "*", put("vm.resize", `{"desired_vcpus":5}`))
			v.want(204, "", put("vm.resize", ram(384)))
			v.want(500, "*", put("vm.resize", ram(400))) // no whole block
			v.want(500, "*", put("vm.resize", ram(256+2048+128)))
			v.wantSize(3, 384)
			// One call for both: what was done first stays.
			v.want(500, "*", put("vm.resize", fmt.Sprintf(`{"desired_vcpus":2,"desired_ram":%d}`, 500*mib)))
			v.wantSize(2, 384)
			v.want(204, "", put("vm.resize", ram(128))) // and only the description has less
			v.wantSize(2, 128)
			v.want(none, "*", put("vm.resize", `{"desired_vcpus":0}`))
		})
	}
}

func TestMemoryGrowsEightTimes(t *testing.T) {
	v := serve(t, memory.Script{})
	v.bootGrowing()
	for i := range 8 {
		v.want(204, "", put("vm.resize", ram(256+128*(i+1))))
	}
	v.want(500, "*", put("vm.resize", ram(256+128*9)))
	v.wantSize(1, 256+128*8)
	v.want(204, "", put("vm.reboot", "")) // it then boots with all of it
	v.want(204, "", put("vm.resize", ram(256+128*9)))
}

func TestProcessorsThatHaveNotLeft(t *testing.T) {
	for version, status := range map[string]int{"40": 500, "46": 429, "51": 429, "53": 429, "54": 429} {
		v := serve(t, memory.Script{Version: version, EjectCPUs: memory.Never})
		v.bootGrowing()
		v.want(204, "", put("vm.resize", `{"desired_vcpus":4}`))
		v.want(204, "", put("vm.resize", `{"desired_vcpus":2}`))
		v.want(status, "*", put("vm.resize", `{"desired_vcpus":3}`))
		v.wantSize(2, 256)
	}
}
