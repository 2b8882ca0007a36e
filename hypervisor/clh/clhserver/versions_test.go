package clhserver_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

func TestFilesAreLockedFrom46On(t *testing.T) {
	for version, writer := range map[string]int{"40": 200, "46": 500, "51": 500, "53": 500} {
		v := serve(t, memory.Script{Version: version})
		v.boot("")
		path := v.file("disk")
		reader := func(id string) string { return fmt.Sprintf(`{"id":%q,"path":%q,"readonly":true}`, id, path) }
		v.want(200, "*", put("vm.add-disk", reader("a")))
		v.want(200, "*", put("vm.add-disk", reader("b"))) // any number may read
		v.want(writer, "*", put("vm.add-disk", fmt.Sprintf(`{"id":"w","path":%q}`, path)))
		for _, id := range []string{"a", "b"} {
			v.want(204, "", put("vm.remove-device", fmt.Sprintf(`{"id":%q}`, id)))
		}
		v.want(200, "*", put("vm.add-disk", fmt.Sprintf(`{"id":"w2","path":%q}`, path)))
	}
}

func TestRateLimiterTakesNothingUnknown(t *testing.T) {
	v := serve(t, memory.Script{})
	v.want(204, "", put("vm.create", v.config("")))
	disk := func(limits string) string {
		return fmt.Sprintf(`{"path":%q,"readonly":true,"rate_limiter_config":%s}`, v.file("disk"), limits)
	}
	v.want(400, "*", put("vm.add-disk", disk(`{"bandwith":{"size":1,"refill_time":1}}`)))
	v.want(204, "", put("vm.add-disk", disk(`{"bandwidth":{"size":1,"refill_time":1}}`)))
}

// TestProtectedMachine: what a build does not know it drops without a word.
func TestProtectedMachine(t *testing.T) {
	hostData := strings.Repeat("ab", 32)
	for _, features := range [][]string{nil, {"igvm", "sev_snp"}} {
		v := serve(t, memory.Script{Features: features})
		config := func(hostData string) string {
			return fmt.Sprintf(`{"payload":{"igvm":%q,"host_data":%q},"platform":{"sev_snp":true}}`, v.file("igvm"), hostData)
		}
		v.want(204, "", put("vm.create", config(hostData)))
		kept := v.info().Config
		if features == nil {
			if kept.Payload.Igvm != nil || kept.Payload.HostData != nil || kept.Platform.SevSnp != nil {
				t.Errorf("a build without the features keeps %+v", kept.Payload)
			}
			v.want(500, "Failed to validate config: No kernel specified", put("vm.boot", ""))
			continue
		}
		if *kept.Payload.HostData != hostData || !*kept.Platform.SevSnp {
			t.Errorf("kept %+v", kept.Payload)
		}
		v.want(204, "", put("vm.boot", ""))
		v.want(204, "", put("vm.delete", ""))
		v.want(204, "", put("vm.create", config("ab")))
		v.want(500, "*", put("vm.boot", ""))
	}
}
