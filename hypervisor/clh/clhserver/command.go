package clhserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

// Command is a command line of cloud-hypervisor, as far as a client that
// describes its VM by the API gives one.
type Command struct {
	APISocket    Endpoint
	EventMonitor Endpoint // zero: none
	Verbosity    int      // how many -v
	LogFile      string   // created and truncated; empty: standard error
	Seccomp      string   // "true", "false", "log"; accepted and without effect
	Version      bool
}

// Endpoint is "path=<path>", "fd=<number>" or, for the API socket, a bare path.
// With both keys the descriptor wins.
type Endpoint struct {
	Path string
	FD   int // 0: none
}

// errUsage is an error of the command line, for which the exit status is 2.
var errUsage = fmt.Errorf("usage: --api-socket [path=]<path>|fd=<fd> [--event-monitor path=<path>|fd=<fd>] [-v]... [--log-file <path>] [--seccomp true|false|log] [--version]: %w", errdefs.ErrInvalidArgument)

// ParseCommand reads the arguments behind the program's name.
func ParseCommand(args []string) (Command, error) {
	var c Command
	for len(args) > 0 {
		name, value, inline := strings.Cut(args[0], "=")
		args = args[1:]
		switch {
		case name == "--version" || name == "-V":
			c.Version = true
			continue
		case strings.HasPrefix(name, "-v") && strings.Trim(name[1:], "v") == "":
			c.Verbosity += len(name) - 1
			continue
		}
		if !inline {
			if len(args) == 0 {
				return c, fmt.Errorf("option %s: no value: %w", name, errUsage)
			}
			value, args = args[0], args[1:]
		}
		if err := c.set(name, value); err != nil {
			return c, err
		}
	}
	if !c.Version && c.APISocket == (Endpoint{}) {
		return c, fmt.Errorf("no --api-socket: %w", errUsage)
	}
	return c, nil
}

func (c *Command) set(name, value string) (err error) {
	switch name {
	case "--api-socket":
		c.APISocket, err = parseEndpoint(value, true)
	case "--event-monitor":
		c.EventMonitor, err = parseEndpoint(value, false)
	case "--log-file":
		c.LogFile = value
	case "--seccomp":
		if value != "true" && value != "false" && value != "log" {
			return fmt.Errorf("option --seccomp: %q is none of true, false, log: %w", value, errUsage)
		}
		c.Seccomp = value
	default:
		return fmt.Errorf("unknown option %s: %w", name, errUsage)
	}
	if err != nil {
		return fmt.Errorf("option %s: %w", name, err)
	}
	return nil
}

func parseEndpoint(text string, bare bool) (Endpoint, error) {
	var e Endpoint
	for part := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(part, "=")
		switch {
		case ok && key == "path":
			e.Path = value
		case ok && key == "fd":
			fd, err := strconv.Atoi(value)
			if err != nil || fd < 1 {
				return e, fmt.Errorf("%q is no descriptor: %w", value, errdefs.ErrInvalidArgument)
			}
			e.FD = fd
		}
	}
	if e == (Endpoint{}) {
		if !bare || text == "" {
			return e, fmt.Errorf("%q has neither path= nor fd=: %w", text, errdefs.ErrInvalidArgument)
		}
		e.Path = text
	}
	return e, nil
}

// Listen opens the API socket, or takes over the listening one it was given.
func (e Endpoint) Listen() (*net.UnixListener, error) {
	if e.FD == 0 {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: e.Path, Net: "unix"})
		if err != nil {
			return nil, fmt.Errorf("listen on the API socket: %w", err)
		}
		return l, nil
	}
	f := os.NewFile(uintptr(e.FD), "api-socket")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over descriptor %d as the API socket: %w", e.FD, err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("descriptor %d is a listening %s socket, not a Unix one: %w", e.FD, l.Addr().Network(), errdefs.ErrInvalidArgument)
	}
	u.SetUnlinkOnClose(false)
	return u, nil
}

// Open opens the event stream; nil without an error if there is none.
func (e Endpoint) Open() (*os.File, error) {
	switch {
	case e.FD != 0:
		// As the original does; it lets close interrupt a write.
		if err := unix.SetNonblock(e.FD, true); err != nil {
			return nil, fmt.Errorf("descriptor %d: %w", e.FD, err)
		}
		return os.NewFile(uintptr(e.FD), "event-monitor"), nil
	case e.Path != "":
		return os.Create(e.Path)
	}
	return nil, nil
}

// Main is a VMM's main function: it reads the command line, serves c with what
// the command line says and returns the exit status: 0 for every regular end,
// SIGTERM and SIGINT included, 1 for a server that could not start, 2 for a
// command line that cannot be read. c.Listener and c.EventMonitor are set by it.
// configure, if not nil, sees the command line before anything is started.
func Main(name string, args []string, c Config, configure func(Command, *Config) error) int {
	unix.Umask(0o077)
	cmd, err := ParseCommand(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 2
	}
	if c.Profile == (Profile{}) {
		c.Profile = profiles[0].Profile
	}
	if cmd.Version {
		fmt.Printf("%s v%s\n", name, c.Profile.Version)
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if c.Stdout == nil {
		c.Stdout = os.Stdout
	}
	if err := cmd.run(ctx, c, configure); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

func (c Command) run(ctx context.Context, conf Config, configure func(Command, *Config) error) (err error) {
	if c.LogFile != "" {
		if err = logTo(c.LogFile); err != nil {
			return err
		}
	}
	if configure != nil {
		if err = configure(c, &conf); err != nil {
			return err
		}
	}
	if conf.Listener, err = c.APISocket.Listen(); err != nil {
		return err
	}
	if c.APISocket.FD == 0 {
		defer func() { err = errors.Join(err, removeSocket(c.APISocket.Path)) }()
	}
	monitor, err := c.EventMonitor.Open()
	if err != nil {
		return errors.Join(fmt.Errorf("open event monitor: %w", err), conf.Listener.Close())
	}
	if monitor != nil {
		defer monitor.Close()
		conf.EventMonitor = io.Writer(monitor)
	}
	return Serve(ctx, conf)
}

// logTo makes the file the standard error.
func logTo(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("open log file: %w", err)
	}
	defer f.Close()
	if err := unix.Dup3(int(f.Fd()), 2, 0); err != nil {
		return fmt.Errorf("write standard error to %s: %w", path, err)
	}
	return nil
}

func removeSocket(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the API socket: %w", err)
	}
	return nil
}
