package rpc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/storage"
)

const (
	memoryDir = "/sys/devices/system/memory"
	cpuDir    = "/sys/devices/system/cpu"

	onlineRetries = 100
	onlinePoll    = 50 * time.Millisecond
)

// Extra features which GetGuestDetails lists.
const (
	FeatureBothPositions = "pci-address-and-path" // block devices are found by either form of their position
	FeatureExitSignal    = "exit-128-plus-signal" // see WaitProcess
)

// GetGuestDetails tells of the agent and of the guest's memory.
func (s *Service) GetGuestDetails(_ context.Context, r *agentpb.GuestDetailsRequest) (*agentpb.GuestDetailsResponse, error) {
	resp := &agentpb.GuestDetailsResponse{AgentDetails: &agentpb.AgentDetails{
		Version: s.info.Version, InitDaemon: s.info.InitDaemon, StorageHandlers: storage.Drivers(),
		SupportsSeccomp: s.info.SupportsSeccomp, ExtraFeatures: []string{FeatureBothPositions, FeatureExitSignal},
	}}
	if r.GetMemBlockSize() {
		data, err := os.ReadFile(filepath.Join(memoryDir, "block_size_bytes"))
		if err == nil {
			size, err := strconv.ParseUint(strings.TrimSpace(string(data)), 16, 64)
			if err != nil {
				return nil, fmt.Errorf("Invalid block size %q: %w", data, err)
			}
			resp.MemBlockSizeBytes = size
		}
	}
	if r.GetMemHotplugProbe() {
		_, err := os.Stat(filepath.Join(memoryDir, "probe"))
		resp.SupportMemHotplugProbe = err == nil
	}
	return resp, nil
}

// OnlineCPUMem brings plugged CPUs and memory into use, waiting a while for the
// CPUs to appear.
func (s *Service) OnlineCPUMem(ctx context.Context, r *agentpb.OnlineCPUMemRequest) (*emptypb.Empty, error) {
	want := int(r.GetNbCpus())
	for try := 0; want > 0; try++ {
		n, err := online(cpuDir, "cpu[0-9]*", want)
		if err != nil {
			return nil, err
		}
		if want -= n; want == 0 {
			break
		}
		if try == onlineRetries {
			return nil, fmt.Errorf("failed to online %d CPU(s) after %d retries: %w", want, onlineRetries, errdefs.ErrInternal)
		}
		select {
		case <-time.After(onlinePoll):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if !r.GetCpuOnly() {
		if _, err := online(memoryDir, "memory[0-9]*", -1); err != nil {
			return nil, err
		}
	}
	return empty, nil
}

// online brings up to most devices that are offline into use; -1 is all.
func online(dir, pattern string, most int) (n int, err error) {
	files, err := filepath.Glob(filepath.Join(dir, pattern, "online"))
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		if n == most {
			break
		}
		if data, err := os.ReadFile(f); err != nil || strings.TrimSpace(string(data)) != "0" {
			continue
		}
		if err := os.WriteFile(f, []byte("1"), 0); err != nil {
			return n, fmt.Errorf("bring %s into use: %w", filepath.Dir(f), err)
		}
		n++
	}
	return n, nil
}

// MemHotplugByProbe tells the kernel where plugged memory is.
func (s *Service) MemHotplugByProbe(_ context.Context, r *agentpb.MemHotplugByProbeRequest) (*emptypb.Empty, error) {
	for _, at := range r.GetMemHotplugProbeAddr() {
		if err := os.WriteFile(filepath.Join(memoryDir, "probe"), fmt.Appendf(nil, "%#x", at), 0); err != nil {
			return nil, fmt.Errorf("probe memory at %#x: %w", at, err)
		}
	}
	return empty, nil
}

// SetGuestDateTime sets the guest's clock.
func (s *Service) SetGuestDateTime(_ context.Context, r *agentpb.SetGuestDateTimeRequest) (*emptypb.Empty, error) {
	tv := unix.Timeval{Sec: r.GetSec(), Usec: r.GetUsec()}
	if err := unix.Settimeofday(&tv); err != nil {
		return nil, fmt.Errorf("set the clock: %w", err)
	}
	return empty, nil
}

// randomDevice is where entropy goes.
const randomDevice = "/dev/random"

// ReseedRandomDev stirs the host's bytes into the kernel's entropy. They are
// credited with none: the host knows them, and what is stirred in takes nothing
// away from what was there.
func (s *Service) ReseedRandomDev(_ context.Context, r *agentpb.ReseedRandomDevRequest) (*emptypb.Empty, error) {
	if len(r.GetData()) == 0 {
		return nil, internal(errors.New("missing entropy data"))
	}
	f, err := os.OpenFile(randomDevice, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write(r.GetData())
		if err == nil {
			err = unix.IoctlSetInt(int(f.Fd()), unix.RNDRESEEDCRNG, 0)
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return nil, internal(fmt.Errorf("stir entropy into %s: %w", randomDevice, err))
	}
	return empty, nil
}

// GetVolumeStats tells how full the file system at a path is.
func (s *Service) GetVolumeStats(_ context.Context, r *agentpb.VolumeStatsRequest) (*agentpb.VolumeStatsResponse, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(r.GetVolumeGuestPath(), &st); err != nil {
		return nil, internal(fmt.Errorf("volume %s: %w", r.GetVolumeGuestPath(), err))
	}
	block := uint64(st.Bsize)
	return &agentpb.VolumeStatsResponse{
		Usage: []*agentpb.VolumeUsage{
			{Available: st.Bavail * block, Total: st.Blocks * block, Used: (st.Blocks - st.Bfree) * block, Unit: agentpb.VolumeUsage_BYTES},
			{Available: st.Ffree, Total: st.Files, Used: st.Files - st.Ffree, Unit: agentpb.VolumeUsage_INODES},
		},
		VolumeCondition: &agentpb.VolumeCondition{Message: "OK"},
	}, nil
}

// ResizeVolume lets the file system of a volume grow, whose device has grown.
func (s *Service) ResizeVolume(ctx context.Context, r *agentpb.ResizeVolumeRequest) (*emptypb.Empty, error) {
	return empty, s.sandbox.Storages.Grow(ctx, r.GetVolumeGuestPath(), r.GetSize())
}

// GetMetrics tells of the agent and the guest in Prometheus's text format.
func (s *Service) GetMetrics(context.Context, *agentpb.GetMetricsRequest) (*agentpb.Metrics, error) {
	text, err := metrics()
	if err != nil {
		return nil, err
	}
	return &agentpb.Metrics{Metrics: text}, nil
}
