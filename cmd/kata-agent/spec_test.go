package main

import (
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// identity is a script that tells of the process which runs it.
const identity = "id -u; id -g; id -G; cat /proc/self/status /proc/self/limits; echo oom $(cat /proc/self/oom_score_adj); pwd; ls -l /proc/self/ns"

var nsLink = regexp.MustCompile(`(\w+) -> (\w+:\[\d+\])`)

// namespacesIn reads the links of /proc/<pid>/ns as ls shows them.
func namespacesIn(text string) map[string]string {
	all := map[string]string{}
	for _, m := range nsLink.FindAllStringSubmatch(text, -1) {
		all[m[1]] = m[2]
	}
	return all
}

// Privileges, limits, user and namespaces of a process are those of its
// specification, in init and in an exec.
func TestProcessIsAsSpecified(t *testing.T) {
	a := startSandbox(t)
	root := a.spec("sh", "-c", identity+"; sleep 1000")
	root.Process.OOMScoreAdj = 700
	root.Process.Cwd = "/made/on/the/way"
	if err := a.create("root", root); err != nil {
		t.Fatal(err)
	}
	a.start("root")
	first := a.readUntil("root", "", "uts:[")
	for what, want := range map[string]string{
		"four capabilities":            `CapEff:\s00000000000000e1\n`,
		"no more may be had":           `CapBnd:\s00000000000000e1\n`,
		"no privileges by setuid":      `NoNewPrivs:\s1\n`,
		"limit of open files":          `Max open files +512 +1024 `,
		"out-of-memory score":          `oom 700\n`,
		"working directory, made":      `/made/on/the/way\n`,
		"user, group and other groups": `^0\n0\n`,
	} {
		if !regexp.MustCompile(want).MatchString(first) {
			t.Errorf("%s: no %s in\n%s", what, want, first)
		}
	}

	user := a.spec("sh", "-c", identity+"; sleep 1000")
	user.Linux.CgroupsPath += "user"
	user.Process.User = &agentpb.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{2000, 2001}}
	if err := a.create("user", user); err != nil {
		t.Fatal(err)
	}
	a.start("user")
	second := a.readUntil("user", "", "uts:[")
	for _, want := range []string{"1000\n1001\n1001 2000 2001\n", "CapEff:\t0000000000000000\n", "oom 0\n"} {
		if !strings.Contains(second, want) {
			t.Errorf("no %q in\n%s", want, second)
		}
	}

	one, two := namespacesIn(first), namespacesIn(second)
	for kind, shared := range map[string]bool{"ipc": true, "uts": true, "net": true, "user": true, "pid": false, "mnt": false, "cgroup": false} {
		if one[kind] == "" || (one[kind] == two[kind]) != shared {
			t.Errorf("namespace %s: %s and %s, shared should be %v", kind, one[kind], two[kind], shared)
		}
	}
	a.exec("root", "e", "sh", "-c", identity)
	exec := a.readAll(a.ReadStdout, "root", "e")
	if got := namespacesIn(exec); got["pid"] != one["pid"] || got["mnt"] != one["mnt"] || got["cgroup"] != one["cgroup"] {
		t.Errorf("an exec is in %v, its container in %v", got, one)
	}
	if !strings.Contains(exec, "CapBnd:\t00000000000000e1\n") {
		t.Errorf("an exec has other capabilities:\n%s", exec)
	}
	a.remove("user")
	a.remove("root")
}

// What a specification may not ask for is refused, and leaves nothing.
func TestSpecificationThatIsRefused(t *testing.T) {
	a := startSandbox(t)
	before := a.leftovers()
	for text, change := range map[string]func(*agentpb.Spec){
		"user namespace": func(s *agentpb.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, &agentpb.LinuxNamespace{Type: "user"})
		},
		"no linux section":                        func(s *agentpb.Spec) { s.Linux = nil },
		"no absolute root path":                   func(s *agentpb.Spec) { s.Root.Path = "rootfs" },
		"mount destination":                       func(s *agentpb.Spec) { s.Mounts[0].Destination = "/../proc" },
		"Sysctl config contains invalid settings": func(s *agentpb.Spec) { s.Linux.Sysctl = map[string]string{"kernel.core_pattern": "|/bin/sh"} },
		"no process to run":                       func(s *agentpb.Spec) { s.Process.Args = nil },
	} {
		spec := a.spec("true")
		change(spec)
		wantStatus(t, a.create("box", spec), codes.Internal, text)
		a.wantLeftovers(before)
	}
}
