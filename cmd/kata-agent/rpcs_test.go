package main

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// answer is a call and what must come back: a code, and a part of the error's
// or, of a success, of the response's text.
type answer struct {
	rpc  string
	req  proto.Message
	code codes.Code
	text string
}

// answers is a call of every RPC, and more of those that clients meet often; in
// the order of a story, in which the container "box" runs.
var answers = []answer{
	{"Check", &agentpb.CheckRequest{}, codes.OK, "SERVING"},
	{"Version", &agentpb.CheckRequest{}, codes.OK, `grpc_version:"0.0.1"`},
	{"GetGuestDetails", &agentpb.GuestDetailsRequest{MemBlockSize: true, MemHotplugProbe: true}, codes.OK, `storage_handlers:"blk"`},
	{"GetMetrics", &agentpb.GetMetricsRequest{}, codes.OK, "kata_agent_process_resident_memory_bytes"},
	{"CreateSandbox", &agentpb.CreateSandboxRequest{SandboxId: "again"}, codes.FailedPrecondition, "the sandbox is running"},

	{"CreateContainer", &agentpb.CreateContainerRequest{ContainerId: "../x"}, codes.Internal, "invalid container"},
	{"CreateContainer", &agentpb.CreateContainerRequest{ContainerId: "new"}, codes.Internal, "has no specification"},
	{"CreateContainer", &agentpb.CreateContainerRequest{ContainerId: "box", OCI: &agentpb.Spec{}}, codes.AlreadyExists, "there is one already"},
	{"CreateContainer", &agentpb.CreateContainerRequest{ContainerId: "sandbox", OCI: &agentpb.Spec{}}, codes.Internal, "invalid container"}, // these are
	{"CreateContainer", &agentpb.CreateContainerRequest{ContainerId: "shared", OCI: &agentpb.Spec{}}, codes.Internal, "invalid container"},  // directories
	{"CreateContainer", &agentpb.CreateContainerRequest{ContainerId: "new", OCI: &agentpb.Spec{}, StringUser: &agentpb.StringUser{Uid: "me"}}, codes.Unimplemented, "string_user"},
	{"CreateContainer", &agentpb.CreateContainerRequest{ContainerId: "new", OCI: &agentpb.Spec{}, SharedMounts: []*agentpb.SharedMount{{Name: "m"}}}, codes.Unimplemented, "shared_mounts"},
	{"CreateContainer", &agentpb.CreateContainerRequest{ContainerId: "new", OCI: &agentpb.Spec{}, StdoutPort: 7}, codes.Unimplemented, "stdout_port"},
	{"StartContainer", &agentpb.StartContainerRequest{ContainerId: "box"}, codes.FailedPrecondition, "container status is: running, not created"},
	{"StartContainer", &agentpb.StartContainerRequest{ContainerId: "none"}, codes.InvalidArgument, "nvalid container id"},
	{"RemoveContainer", &agentpb.RemoveContainerRequest{ContainerId: "none"}, codes.InvalidArgument, "nvalid container id"},
	{"ExecProcess", &agentpb.ExecProcessRequest{ContainerId: "box", ExecId: "e"}, codes.Internal, "Unable to parse process"},
	{"ExecProcess", &agentpb.ExecProcessRequest{ContainerId: "box", ExecId: "e", StringUser: &agentpb.StringUser{Uid: "me"}}, codes.Unimplemented, "string_user"},
	{"ExecProcess", &agentpb.ExecProcessRequest{ContainerId: "box", ExecId: "e", StdinPort: 7}, codes.Unimplemented, "stdin_port"},
	{"ExecProcess", &agentpb.ExecProcessRequest{ContainerId: "none", ExecId: "e"}, codes.InvalidArgument, "nvalid container id"},
	{"SignalProcess", &agentpb.SignalProcessRequest{ContainerId: "none", Signal: 9}, codes.InvalidArgument, "nvalid container id"},
	{"SignalProcess", &agentpb.SignalProcessRequest{ContainerId: "box", ExecId: "none", Signal: 9}, codes.NotFound, "Invalid exec id"},
	{"WaitProcess", &agentpb.WaitProcessRequest{ContainerId: "none"}, codes.InvalidArgument, "nvalid container id"},
	{"WaitProcess", &agentpb.WaitProcessRequest{ContainerId: "box", ExecId: "none"}, codes.NotFound, "Invalid exec id"},
	{"UpdateContainer", &agentpb.UpdateContainerRequest{ContainerId: "none"}, codes.InvalidArgument, "nvalid container id"},
	{"UpdateContainer", &agentpb.UpdateContainerRequest{ContainerId: "box"}, codes.OK, ""}, // nothing to change
	{"StatsContainer", &agentpb.StatsContainerRequest{ContainerId: "box"}, codes.OK, "cgroup_stats"},
	{"StatsContainer", &agentpb.StatsContainerRequest{ContainerId: "none"}, codes.InvalidArgument, "nvalid container id"},
	{"ResumeContainer", &agentpb.ResumeContainerRequest{ContainerId: "box"}, codes.FailedPrecondition, "container status is: running, not paused"},
	{"ResumeContainer", &agentpb.ResumeContainerRequest{ContainerId: "none"}, codes.InvalidArgument, "nvalid container id"},
	{"PauseContainer", &agentpb.PauseContainerRequest{ContainerId: "none"}, codes.InvalidArgument, "nvalid container id"},
	{"WriteStdin", &agentpb.WriteStreamRequest{ContainerId: "box", Data: []byte("abc")}, codes.OK, "len:3"},
	{"WriteStdin", &agentpb.WriteStreamRequest{ContainerId: "box", ExecId: "none"}, codes.NotFound, "Invalid exec id"},
	{"ReadStdout", &agentpb.ReadStreamRequest{ContainerId: "box", Len: 100}, codes.OK, `data:"ready\n"`},
	{"ReadStdout", &agentpb.ReadStreamRequest{ContainerId: "none", Len: 100}, codes.InvalidArgument, "nvalid container id"},
	{"ReadStderr", &agentpb.ReadStreamRequest{ContainerId: "box", ExecId: "none", Len: 100}, codes.NotFound, "Invalid exec id"},
	{"CloseStdin", &agentpb.CloseStdinRequest{ContainerId: "box"}, codes.OK, ""},
	{"CloseStdin", &agentpb.CloseStdinRequest{ContainerId: "none"}, codes.InvalidArgument, "nvalid container id"},
	{"WriteStdin", &agentpb.WriteStreamRequest{ContainerId: "box", Data: []byte("abc")}, codes.Internal, "Cannot get writer"},
	{"TtyWinResize", &agentpb.TtyWinResizeRequest{ContainerId: "box", Row: 1, Column: 1}, codes.Unavailable, "no tty"},
	{"TtyWinResize", &agentpb.TtyWinResizeRequest{ContainerId: "none", Row: 1, Column: 1}, codes.InvalidArgument, "nvalid container id"},

	{"UpdateInterface", &agentpb.UpdateInterfaceRequest{}, codes.InvalidArgument, "empty update interface request"},
	{"UpdateRoutes", &agentpb.UpdateRoutesRequest{}, codes.InvalidArgument, "empty update routes request"},
	{"AddARPNeighbors", &agentpb.AddARPNeighborsRequest{}, codes.InvalidArgument, "empty add ARP neighbours request"},
	{"ListInterfaces", &agentpb.ListInterfacesRequest{}, codes.OK, `name:"lo"`},
	{"ListRoutes", &agentpb.ListRoutesRequest{}, codes.OK, ""},

	{"CopyFile", &agentpb.CopyFileRequest{Path: "/etc/passwd", FileMode: unix.S_IFREG | 0o644}, codes.InvalidArgument, "/run/kata-containers"},
	{"CopyFile", &agentpb.CopyFileRequest{Path: "/run/kata-containers/../../etc/passwd", FileMode: unix.S_IFREG | 0o644}, codes.InvalidArgument, "/run/kata-containers"},
	{"CopyFile", &agentpb.CopyFileRequest{Path: "/run/kata-containers/box/config.json", FileMode: unix.S_IFREG | 0o644}, codes.InvalidArgument, "does not start with /run/kata-containers/shared/containers"},
	{"CopyFile", &agentpb.CopyFileRequest{Path: "/run/kata-containers/sandbox/shm/x", FileMode: unix.S_IFREG | 0o644}, codes.InvalidArgument, "in the storage mounted at /run/kata-containers/sandbox/shm"},
	{"CopyFile", &agentpb.CopyFileRequest{Path: "/run/kata-containers/shared/containers/f", FileMode: unix.S_IFREG | 0o644}, codes.OK, ""},
	{"UpdateEphemeralMounts", &agentpb.UpdateEphemeralMountsRequest{Storages: []*agentpb.Storage{{Driver: "ephemeral", MountPoint: "/run/kata-containers/sandbox/none"}}}, codes.NotFound, "is not mounted"},
	{"UpdateEphemeralMounts", &agentpb.UpdateEphemeralMountsRequest{Storages: []*agentpb.Storage{{
		Driver: "ephemeral", MountPoint: "/run/kata-containers/sandbox/shm", Options: []string{"size=1M"}}}}, codes.OK, ""},
	{"GetVolumeStats", &agentpb.VolumeStatsRequest{VolumeGuestPath: "/run/kata-containers/sandbox/shm"}, codes.OK, "total:1048576"},
	{"GetVolumeStats", &agentpb.VolumeStatsRequest{VolumeGuestPath: "/run/kata-containers/none"}, codes.Internal, "no such file"},
	{"ResizeVolume", &agentpb.ResizeVolumeRequest{VolumeGuestPath: "/run/kata-containers/none", Size: 1 << 20}, codes.NotFound, "is not mounted"},
	{"ResizeVolume", &agentpb.ResizeVolumeRequest{VolumeGuestPath: "/run/kata-containers/sandbox/shm", Size: 1 << 20}, codes.Unimplemented, "0x1021994"},
	{"RemoveStaleVirtiofsShareMounts", &agentpb.RemoveStaleVirtiofsShareMountsRequest{}, codes.OK, ""},
	{"OnlineCPUMem", &agentpb.OnlineCPUMemRequest{CpuOnly: true}, codes.OK, ""},
	{"MemHotplugByProbe", &agentpb.MemHotplugByProbeRequest{}, codes.OK, ""},
	{"SetGuestDateTime", &agentpb.SetGuestDateTimeRequest{Usec: -1}, codes.Internal, "set the clock"},
	{"ReseedRandomDev", &agentpb.ReseedRandomDevRequest{}, codes.Internal, "missing entropy data"},
	{"ReseedRandomDev", &agentpb.ReseedRandomDevRequest{Data: []byte("not secret")}, codes.OK, ""},

	{"SetPolicy", &agentpb.SetPolicyRequest{}, codes.NotFound, "/grpc.AgentService/SetPolicy is not supported"},
	unsupported("AddSwap", &agentpb.AddSwapRequest{}),
	unsupported("AddSwapPath", &agentpb.AddSwapPathRequest{}),
	unsupported("GetIPTables", &agentpb.GetIPTablesRequest{}),
	unsupported("SetIPTables", &agentpb.SetIPTablesRequest{}),
	unsupported("MemAgentMemcgSet", &agentpb.MemAgentMemcgConfig{}),
	unsupported("MemAgentCompactSet", &agentpb.MemAgentCompactConfig{}),
	{"GetDiagnosticData", &agentpb.GetDiagnosticDataRequest{LogType: "other", ContainerId: "box"}, codes.InvalidArgument, "other"},
	{"GetDiagnosticData", &agentpb.GetDiagnosticDataRequest{LogType: "termination_log", ContainerId: "none"}, codes.InvalidArgument, "nvalid container id"},

	{"RemoveContainer", &agentpb.RemoveContainerRequest{ContainerId: "box"}, codes.OK, ""},
	{"RemoveContainer", &agentpb.RemoveContainerRequest{ContainerId: "box"}, codes.InvalidArgument, "nvalid container id"},
	{"DestroySandbox", &agentpb.DestroySandboxRequest{}, codes.OK, ""},
}

// waiting are RPCs whose answer is another test's: they wait.
var waiting = map[string]string{"GetOOMEvent": "TestDestroySandboxEndsTheAgent"}

func unsupported(rpc string, req proto.Message) answer {
	return answer{rpc, req, codes.Unimplemented, "/grpc.AgentService/" + rpc + " is not supported"}
}

// Every RPC of both services is called and answers as the protocol's
// description says.
func TestEveryRPCAnswers(t *testing.T) {
	a := startSandbox(t)
	a.run("box", "sh", "-c", "echo ready; cat >/dev/null; sleep 1000")
	methods := map[string]protoreflect.MethodDescriptor{}
	for _, file := range []protoreflect.FileDescriptor{agentpb.File_agent_proto, agentpb.File_health_proto} {
		for i := range file.Services().Len() {
			for j := range file.Services().Get(i).Methods().Len() {
				m := file.Services().Get(i).Methods().Get(j)
				methods[string(m.Name())] = m
			}
		}
	}
	called := map[string]bool{}
	for i, want := range answers {
		m, known := methods[want.rpc]
		if !known {
			t.Fatalf("the protocol has no RPC %s", want.rpc)
		}
		called[want.rpc] = true
		kind, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
		if err != nil {
			t.Fatal(err)
		}
		resp := kind.New().Interface()
		err = a.conn.Call(a.ctx(), string(m.Parent().FullName()), want.rpc, want.req, resp)
		said := fmt.Sprint(err)
		if err == nil {
			said = strings.ReplaceAll(prototext.MarshalOptions{}.Format(resp), ":  ", ":")
			said = strings.ReplaceAll(said, ": ", ":")
		}
		if status.Code(err) != want.code || !strings.Contains(said, want.text) {
			t.Errorf("answer %d, %s(%v): %v, %s; want %v with %q", i, want.rpc, want.req, status.Code(err), said, want.code, want.text)
		}
	}
	for name := range methods {
		if !called[name] && waiting[name] == "" {
			t.Errorf("no test calls %s", name)
		}
	}
}
