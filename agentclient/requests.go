package agentclient

import (
	"context"
	"errors"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// Check asks whether the agent serves.
func (c *Client) Check(ctx context.Context, r *agentpb.CheckRequest) (*agentpb.HealthCheckResponse, error) {
	return call(ctx, "Check", checkTimeout, c.health.Check, r)
}

// Version asks for the versions of the agent and of its protocol.
func (c *Client) Version(ctx context.Context, r *agentpb.CheckRequest) (*agentpb.VersionCheckResponse, error) {
	return call(ctx, "Version", requestTimeout, c.health.Version, r)
}

// CreateContainer makes a container and its init process, which waits to be started.
func (c *Client) CreateContainer(ctx context.Context, r *agentpb.CreateContainerRequest) error {
	return tell(ctx, "CreateContainer", c.createTimeout, c.agent.CreateContainer, r)
}

// StartContainer lets the init process of a container run. Send it once: agents of
// the azl line hang at a second one.
func (c *Client) StartContainer(ctx context.Context, r *agentpb.StartContainerRequest) error {
	return tell(ctx, "StartContainer", requestTimeout, c.agent.StartContainer, r)
}

// RemoveContainer kills what is left of a container and takes its mounts down.
func (c *Client) RemoveContainer(ctx context.Context, r *agentpb.RemoveContainerRequest) error {
	return tell(ctx, "RemoveContainer", requestTimeout, c.agent.RemoveContainer, r)
}

// ExecProcess runs another process in a container.
func (c *Client) ExecProcess(ctx context.Context, r *agentpb.ExecProcessRequest) error {
	return tell(ctx, "ExecProcess", requestTimeout, c.agent.ExecProcess, r)
}

// SignalProcess sends a signal; an empty exec id means all processes of the container.
func (c *Client) SignalProcess(ctx context.Context, r *agentpb.SignalProcessRequest) error {
	return tell(ctx, "SignalProcess", requestTimeout, c.agent.SignalProcess, r)
}

// WaitProcess blocks until a process has ended and collects it: its streams are
// gone afterwards. It has no limit. Streams.Wait calls it at the right time.
func (c *Client) WaitProcess(ctx context.Context, r *agentpb.WaitProcessRequest) (*agentpb.WaitProcessResponse, error) {
	return call(ctx, "WaitProcess", 0, c.agent.WaitProcess, r)
}

// UpdateContainer changes the resources of a container.
func (c *Client) UpdateContainer(ctx context.Context, r *agentpb.UpdateContainerRequest) error {
	return tell(ctx, "UpdateContainer", requestTimeout, c.agent.UpdateContainer, r)
}

// UpdateEphemeralMounts changes the size of tmpfs mounts.
func (c *Client) UpdateEphemeralMounts(ctx context.Context, r *agentpb.UpdateEphemeralMountsRequest) error {
	return tell(ctx, "UpdateEphemeralMounts", requestTimeout, c.agent.UpdateEphemeralMounts, r)
}

// StatsContainer reads a container's cgroup counters.
func (c *Client) StatsContainer(ctx context.Context, r *agentpb.StatsContainerRequest) (*agentpb.StatsContainerResponse, error) {
	return call(ctx, "StatsContainer", requestTimeout, c.agent.StatsContainer, r)
}

// PauseContainer freezes a container.
func (c *Client) PauseContainer(ctx context.Context, r *agentpb.PauseContainerRequest) error {
	return tell(ctx, "PauseContainer", requestTimeout, c.agent.PauseContainer, r)
}

// ResumeContainer thaws a container.
func (c *Client) ResumeContainer(ctx context.Context, r *agentpb.ResumeContainerRequest) error {
	return tell(ctx, "ResumeContainer", requestTimeout, c.agent.ResumeContainer, r)
}

// RemoveStaleVirtiofsShareMounts makes the agent look at the mounts of a shared file system.
func (c *Client) RemoveStaleVirtiofsShareMounts(ctx context.Context, r *agentpb.RemoveStaleVirtiofsShareMountsRequest) error {
	return tell(ctx, "RemoveStaleVirtiofsShareMounts", requestTimeout, c.agent.RemoveStaleVirtiofsShareMounts, r)
}

// GetDiagnosticData reads a container's termination log; agents before 4.1 lack it.
func (c *Client) GetDiagnosticData(ctx context.Context, r *agentpb.GetDiagnosticDataRequest) (*agentpb.GetDiagnosticDataResponse, error) {
	return call(ctx, "GetDiagnosticData", requestTimeout, c.agent.GetDiagnosticData, r)
}

// WriteStdin writes to a process's standard input. It blocks while the pipe is full
// and has no limit.
func (c *Client) WriteStdin(ctx context.Context, r *agentpb.WriteStreamRequest) (*agentpb.WriteStreamResponse, error) {
	return call(ctx, "WriteStdin", 0, c.agent.WriteStdin, r)
}

// ReadStdout reads from a process's standard output. It blocks until there is some
// and has no limit. Streams knows when the output has ended.
func (c *Client) ReadStdout(ctx context.Context, r *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return call(ctx, "ReadStdout", 0, c.agent.ReadStdout, r)
}

// ReadStderr reads from a process's standard error, as ReadStdout does.
func (c *Client) ReadStderr(ctx context.Context, r *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return call(ctx, "ReadStderr", 0, c.agent.ReadStderr, r)
}

// CloseStdin closes a process's standard input.
func (c *Client) CloseStdin(ctx context.Context, r *agentpb.CloseStdinRequest) error {
	return tell(ctx, "CloseStdin", requestTimeout, c.agent.CloseStdin, r)
}

// TtyWinResize sets the size of a process's terminal.
func (c *Client) TtyWinResize(ctx context.Context, r *agentpb.TtyWinResizeRequest) error {
	return tell(ctx, "TtyWinResize", requestTimeout, c.agent.TtyWinResize, r)
}

// UpdateInterface configures the network interface that has the given MAC address.
func (c *Client) UpdateInterface(ctx context.Context, r *agentpb.UpdateInterfaceRequest) (*agentpb.Interface, error) {
	return call(ctx, "UpdateInterface", requestTimeout, c.agent.UpdateInterface, r)
}

// UpdateRoutes replaces the guest's routes.
func (c *Client) UpdateRoutes(ctx context.Context, r *agentpb.UpdateRoutesRequest) (*agentpb.Routes, error) {
	return call(ctx, "UpdateRoutes", requestTimeout, c.agent.UpdateRoutes, r)
}

// ListInterfaces lists the guest's interfaces.
func (c *Client) ListInterfaces(ctx context.Context, r *agentpb.ListInterfacesRequest) (*agentpb.Interfaces, error) {
	return call(ctx, "ListInterfaces", requestTimeout, c.agent.ListInterfaces, r)
}

// ListRoutes lists the guest's routes.
func (c *Client) ListRoutes(ctx context.Context, r *agentpb.ListRoutesRequest) (*agentpb.Routes, error) {
	return call(ctx, "ListRoutes", requestTimeout, c.agent.ListRoutes, r)
}

// AddARPNeighbors adds entries to the guest's neighbour table.
func (c *Client) AddARPNeighbors(ctx context.Context, r *agentpb.AddARPNeighborsRequest) error {
	return tell(ctx, "AddARPNeighbors", requestTimeout, c.agent.AddARPNeighbors, r)
}

// GetIPTables reads the guest's packet filter.
func (c *Client) GetIPTables(ctx context.Context, r *agentpb.GetIPTablesRequest) (*agentpb.GetIPTablesResponse, error) {
	return call(ctx, "GetIPTables", requestTimeout, c.agent.GetIPTables, r)
}

// SetIPTables replaces the guest's packet filter.
func (c *Client) SetIPTables(ctx context.Context, r *agentpb.SetIPTablesRequest) (*agentpb.SetIPTablesResponse, error) {
	return call(ctx, "SetIPTables", requestTimeout, c.agent.SetIPTables, r)
}

// GetMetrics reads the agent's and the guest's metrics in Prometheus's text form.
func (c *Client) GetMetrics(ctx context.Context, r *agentpb.GetMetricsRequest) (*agentpb.Metrics, error) {
	return call(ctx, "GetMetrics", requestTimeout, c.agent.GetMetrics, r)
}

// MemAgentMemcgSet configures reclaim by cgroup; agents before 4.1 lack it.
func (c *Client) MemAgentMemcgSet(ctx context.Context, r *agentpb.MemAgentMemcgConfig) error {
	return tell(ctx, "MemAgentMemcgSet", requestTimeout, c.agent.MemAgentMemcgSet, r)
}

// MemAgentCompactSet configures compaction of memory; agents before 4.1 lack it.
func (c *Client) MemAgentCompactSet(ctx context.Context, r *agentpb.MemAgentCompactConfig) error {
	return tell(ctx, "MemAgentCompactSet", requestTimeout, c.agent.MemAgentCompactSet, r)
}

// CreateSandbox prepares the guest for the containers of a pod. It comes before every
// CopyFile and CreateContainer and is sent once.
func (c *Client) CreateSandbox(ctx context.Context, r *agentpb.CreateSandboxRequest) error {
	return tell(ctx, "CreateSandbox", requestTimeout, c.agent.CreateSandbox, r)
}

// DestroySandbox ends all containers and then the guest: the connection is lost soon
// after the answer, or instead of it, which is success too.
func (c *Client) DestroySandbox(ctx context.Context, r *agentpb.DestroySandboxRequest) error {
	err := tell(ctx, "DestroySandbox", requestTimeout, c.agent.DestroySandbox, r)
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}

// OnlineCPUMem brings hot-plugged processors and memory into use.
func (c *Client) OnlineCPUMem(ctx context.Context, r *agentpb.OnlineCPUMemRequest) error {
	return tell(ctx, "OnlineCPUMem", requestTimeout, c.agent.OnlineCPUMem, r)
}

// ReseedRandomDev adds entropy to the guest's kernel.
func (c *Client) ReseedRandomDev(ctx context.Context, r *agentpb.ReseedRandomDevRequest) error {
	return tell(ctx, "ReseedRandomDev", requestTimeout, c.agent.ReseedRandomDev, r)
}

// GetGuestDetails tells what the guest and its agent can do.
func (c *Client) GetGuestDetails(ctx context.Context, r *agentpb.GuestDetailsRequest) (*agentpb.GuestDetailsResponse, error) {
	return call(ctx, "GetGuestDetails", requestTimeout, c.agent.GetGuestDetails, r)
}

// MemHotplugByProbe announces hot-plugged memory by address.
func (c *Client) MemHotplugByProbe(ctx context.Context, r *agentpb.MemHotplugByProbeRequest) error {
	return tell(ctx, "MemHotplugByProbe", requestTimeout, c.agent.MemHotplugByProbe, r)
}

// SetGuestDateTime sets the guest's clock.
func (c *Client) SetGuestDateTime(ctx context.Context, r *agentpb.SetGuestDateTimeRequest) error {
	return tell(ctx, "SetGuestDateTime", requestTimeout, c.agent.SetGuestDateTime, r)
}

// CopyFile writes one chunk of a file, a directory or a symbolic link into the
// guest.
func (c *Client) CopyFile(ctx context.Context, r *agentpb.CopyFileRequest) error {
	return tell(ctx, "CopyFile", requestTimeout, c.agent.CopyFile, r)
}

// GetOOMEvent blocks until a container lost a process to the lack of memory. It has
// no limit.
func (c *Client) GetOOMEvent(ctx context.Context, r *agentpb.GetOOMEventRequest) (*agentpb.OOMEvent, error) {
	return call(ctx, "GetOOMEvent", 0, c.agent.GetOOMEvent, r)
}

// AddSwap makes a device swap space, named by PCI path.
func (c *Client) AddSwap(ctx context.Context, r *agentpb.AddSwapRequest) error {
	return tell(ctx, "AddSwap", requestTimeout, c.agent.AddSwap, r)
}

// AddSwapPath makes a device swap space, named by path; agents before 4.1 lack it.
func (c *Client) AddSwapPath(ctx context.Context, r *agentpb.AddSwapPathRequest) error {
	return tell(ctx, "AddSwapPath", requestTimeout, c.agent.AddSwapPath, r)
}

// GetVolumeStats reads usage and condition of a volume.
func (c *Client) GetVolumeStats(ctx context.Context, r *agentpb.VolumeStatsRequest) (*agentpb.VolumeStatsResponse, error) {
	return call(ctx, "GetVolumeStats", requestTimeout, c.agent.GetVolumeStats, r)
}

// ResizeVolume grows the file system of a volume.
func (c *Client) ResizeVolume(ctx context.Context, r *agentpb.ResizeVolumeRequest) error {
	return tell(ctx, "ResizeVolume", requestTimeout, c.agent.ResizeVolume, r)
}

// SetPolicy replaces the guest's policy.
func (c *Client) SetPolicy(ctx context.Context, r *agentpb.SetPolicyRequest) error {
	return tell(ctx, "SetPolicy", requestTimeout, c.agent.SetPolicy, r)
}
