// Package config reads what the agent is told at its start: by the kernel
// command line in a guest, by the environment as a plain process.
package config

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// ConsolePort is the vsock port of the debug console, unless another is given.
const ConsolePort = 1026

// Config is what the agent is told.
type Config struct {
	ServerAddress  string // where to listen; see rpc.Listen
	LogLevel       slog.Level
	DebugConsole   bool          // serve a root shell
	ConsolePort    uint32        // on this vsock port
	HotplugTimeout time.Duration // how long to wait for a plugged disk
	PipeSize       int           // bytes a stdio pipe holds; 0 is the kernel's choice
}

// Default is the configuration when nothing is told.
func Default() Config {
	return Config{ServerAddress: "vsock://-1:1024", LogLevel: slog.LevelInfo, ConsolePort: ConsolePort, HotplugTimeout: 3 * time.Second}
}

// maxPipeSize is the largest pipe an unprivileged process may make by default.
const maxPipeSize = 1 << 20

// ParseCommandLine reads the words of the kernel command line that begin with
// "agent."; other words are not the agent's, and unknown ones of its own are
// ignored. A value that does not parse is an error.
func (c *Config) ParseCommandLine(line string) error {
	for word := range strings.FieldsSeq(line) {
		key, value, given := strings.Cut(word, "=")
		if err := c.set(key, value, given); err != nil {
			return fmt.Errorf("kernel command line: %s: %w", word, err)
		}
	}
	return nil
}

func (c *Config) set(key, value string, given bool) (err error) {
	switch key {
	case "agent.log":
		c.LogLevel, err = parseLevel(value)
	case "agent.server_addr":
		c.ServerAddress = value
	case "agent.debug_console":
		c.DebugConsole = true
		if given {
			c.DebugConsole, err = strconv.ParseBool(value)
		}
	case "agent.debug_console_vport":
		var port uint32
		if port, err = parsePort(value); err == nil && port != 0 {
			c.ConsolePort = port
		}
	case "agent.hotplug_timeout":
		var n uint64
		if n, err = strconv.ParseUint(value, 10, 16); err == nil && n == 0 {
			err = fmt.Errorf("must be more than 0 seconds: %w", errdefs.ErrInvalidArgument)
		}
		c.HotplugTimeout = time.Duration(n) * time.Second
	case "agent.container_pipe_size":
		c.PipeSize, err = strconv.Atoi(value)
		if err == nil && (c.PipeSize < 0 || c.PipeSize > maxPipeSize) {
			err = fmt.Errorf("must be from 0 to %d bytes: %w", maxPipeSize, errdefs.ErrInvalidArgument)
		}
	}
	return err
}

// ParseEnvironment reads the variables which a plain process is started with.
func (c *Config) ParseEnvironment(lookup func(string) (string, bool)) error {
	if v, ok := lookup("KATA_AGENT_SERVER_ADDR"); ok {
		c.ServerAddress = v
	}
	if v, ok := lookup("KATA_AGENT_LOG_LEVEL"); ok {
		level, err := parseLevel(v)
		if err != nil {
			return fmt.Errorf("KATA_AGENT_LOG_LEVEL: %w", err)
		}
		c.LogLevel = level
	}
	return nil
}

func parsePort(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}

// levels are the names of log levels; those beyond the four of the log stand for
// the nearest.
var levels = map[string]slog.Level{
	"critical": slog.LevelError, "fatal": slog.LevelError, "panic": slog.LevelError, "error": slog.LevelError,
	"warn": slog.LevelWarn, "warning": slog.LevelWarn, "info": slog.LevelInfo, "debug": slog.LevelDebug, "trace": slog.LevelDebug,
}

func parseLevel(s string) (slog.Level, error) {
	level, ok := levels[s]
	if !ok {
		return 0, fmt.Errorf("%q is not a log level: %w", s, errdefs.ErrInvalidArgument)
	}
	return level, nil
}
