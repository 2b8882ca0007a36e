// Command kata-agent is the guest agent: it makes the containers of a pod inside
// its virtual machine, as the shim on the host asks by ttrpc.
//
// As the init of a guest it also makes the guest out of a bare kernel and
// switches the machine off at the end. As a plain process it is for tests; it
// then empties /run/kata-containers, so it is best run with -isolate, in
// namespaces of its own.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/guest/block"
	"github.com/kata-cc/kata-cc/guest/boot"
	"github.com/kata-cc/kata-cc/guest/config"
	"github.com/kata-cc/kata-cc/guest/container"
	"github.com/kata-cc/kata-cc/guest/reaper"
	"github.com/kata-cc/kata-cc/guest/rpc"
	"github.com/kata-cc/kata-cc/guest/sandbox"
	"github.com/kata-cc/kata-cc/guest/storage"
)

const (
	crunPath  = "/usr/bin/crun"
	stateRoot = "/run/kata-agent"

	// The agent shares the guest's memory with the pod.
	memoryLimit = 48 << 20
	gcPercent   = 50
)

// started is when this program began, on the kernel's clock.
var started = boot.Uptime()

func main() {
	if os.Getpid() == 1 && filepath.Base(os.Args[0]) == "init" {
		runAsInit()
		return
	}
	isolate := flag.Bool("isolate", false, "run in new mount, pid, ipc, uts and network namespaces, with an empty /run")
	version := flag.Bool("version", false, "print the version")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "Usage: kata-agent [flags]\n\n"+
			"The address to listen on is in KATA_AGENT_SERVER_ADDR: vsock://<cid>:<port>,\n"+
			"unix:///path or unix://@abstract (default %s).\n\n", rpc.DefaultAddress)
		flag.PrintDefaults()
	}
	flag.Parse()
	if *version {
		fmt.Println(agentVersion())
		return
	}
	if err := runAsProcess(*isolate); err != nil {
		fmt.Fprintln(os.Stderr, "kata-agent:", err)
		os.Exit(1)
	}
}

// runAsInit is the life of the guest. It ends with the machine switched off.
func runAsInit() {
	// The kernel makes variables of words that it does not know, so the host could
	// tell crun's dynamic linker what to load.
	os.Clearenv()
	boot.OpenConsole()
	err := func() error {
		if err := boot.MakeRootPivotable(); err != nil {
			return err
		}
		if err := boot.Init(); err != nil {
			return err
		}
		line, err := os.ReadFile("/proc/cmdline")
		if err != nil {
			return err
		}
		if err := boot.RefuseRootHash(string(line)); err != nil {
			return err
		}
		c := config.Default()
		if err := c.ParseCommandLine(string(line)); err != nil {
			return err
		}
		return run(context.Background(), c, true)
	}()
	if err != nil {
		fmt.Fprintln(os.Stdout, "kata-agent: fatal:", err)
	}
	if err := boot.PowerOff(); err != nil {
		fmt.Fprintln(os.Stdout, "kata-agent: power off:", err)
	}
	select {} // an init that exits makes the kernel panic
}

func runAsProcess(isolate bool) error {
	if isolate {
		if err := isolateSelf(); err != nil {
			return err
		}
	}
	c := config.Default()
	if err := c.ParseEnvironment(os.LookupEnv); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	return run(ctx, c, false)
}

// run serves until the sandbox is destroyed or ctx ends.
func run(ctx context.Context, c config.Config, isInit bool) error {
	debug.SetMemoryLimit(memoryLimit)
	debug.SetGCPercent(gcPercent)
	version := agentVersion()
	config.SetLogger(os.Stdout, c.LogLevel, version)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	children := reaper.New()
	if err := children.Run(ctx); err != nil {
		return err
	}
	runc.Monitor = children
	if err := os.MkdirAll(filepath.Join(stateRoot, "state"), 0o700); err != nil {
		return err
	}
	runtime := &container.Runtime{Command: crunPath, Root: stateRoot, PipeSize: c.PipeSize, Reaper: children}
	disks := block.Finder{Sysfs: "/sys", Dev: "/dev", Timeout: c.HotplugTimeout}
	service := rpc.New(rpc.Info{Version: version, InitDaemon: isInit, SupportsSeccomp: true},
		sandbox.New(runtime, storage.New(disks)))

	listener, err := rpc.Listen(c.ServerAddress)
	if err != nil {
		return err
	}
	if c.DebugConsole {
		if err := serveConsole(ctx, c.ConsolePort, children); err != nil {
			return err
		}
	}
	slog.Info("agent is ready", "address", c.ServerAddress, "started_ms", started.Milliseconds(), "ready_ms", boot.Uptime().Milliseconds())
	return service.Serve(ctx, listener)
}

// agentVersion is the version of the module with what marks this agent.
func agentVersion() string {
	version := "devel"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		version = strings.TrimPrefix(info.Main.Version, "v")
	}
	return "kata-cc-" + version
}
